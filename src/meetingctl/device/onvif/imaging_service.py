"""The Imaging service (timg): brightness, its relatives, and focus. Only what the camera has is shown."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lxml import etree

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.onvif.call import Call, Op, Table
from meetingctl.device.onvif.fault import action_failed, invalid_args, invalid_value, not_supported
from meetingctl.device.onvif.imaging import LEVELS, Camera, Control, Focus, plan_controls
from meetingctl.device.onvif.profiles import VIDEO_SOURCE
from meetingctl.device.onvif.soap import NAMESPACES, Element, Node, find, number, qname, text

log = logging.getLogger(__name__)

_BEFORE_FOCUS = ("Brightness", "ColorSaturation", "Contrast")


def get_imaging_settings(call: Call) -> Node:
    camera = _camera(call)
    mode = ("tt:Focus", ("tt:AutoFocusMode", camera.focus_mode)) if camera.auto_focus else None
    rows = _levels(camera, lambda name, control: (f"tt:{name}", f"{control.value:g}"), mode)
    return ("timg:GetImagingSettingsResponse", ("timg:ImagingSettings", *rows))


def get_options(call: Call) -> Node:
    camera = _camera(call)
    modes = ("tt:Focus", ("tt:AutoFocusModes", "AUTO"), ("tt:AutoFocusModes", "MANUAL")) if camera.auto_focus else None
    rows = _levels(camera, lambda name, control: (f"tt:{name}", *_range(control)), modes)
    return ("timg:GetOptionsResponse", ("timg:ImagingOptions", *rows))


def set_imaging_settings(call: Call) -> Node:
    camera = _camera(call)
    settings = find(call.body, "timg:ImagingSettings")
    if settings is None:
        raise invalid_args("ImagingSettings is missing")
    unknown = [item for item in settings if not _is_offered(item, camera)]
    if unknown:
        raise invalid_value("SettingsInvalid", f"the camera has no {etree.QName(unknown[0]).localname[:40]}")
    levels = {name: number(settings, f"tt:{name}") for name in LEVELS if find(settings, f"tt:{name}") is not None}
    mode = text(settings, "tt:Focus/tt:AutoFocusMode", "")
    focus: Focus | None = "AUTO" if mode == "AUTO" else "MANUAL" if mode == "MANUAL" else None
    if mode and focus is None:
        raise invalid_value("SettingsInvalid", f"there is no focus mode {mode[:20]!r}")
    _write(call, camera, levels, focus)
    return ("timg:SetImagingSettingsResponse",)


def get_move_options(call: Call) -> Node:
    camera = _camera(call)
    moves = (("tt:Absolute", ("tt:Position", *_range(camera.focus))),) if camera.focus else ()
    return ("timg:GetMoveOptionsResponse", ("timg:MoveOptions", *moves))


def get_status(call: Call) -> Node:
    camera = _camera(call)
    if camera.focus is None:
        return ("timg:GetStatusResponse", ("timg:Status",))
    position = ("tt:Position", f"{camera.focus.value:g}")
    status = ("tt:FocusStatus20", position, ("tt:MoveStatus", "IDLE"))
    return ("timg:GetStatusResponse", ("timg:Status", status))


def move(call: Call) -> Node:
    camera = _camera(call)
    if find(call.body, "timg:Focus/tt:Absolute") is None:
        raise not_supported("a move that is not absolute")
    position = number(call.body, "timg:Focus/tt:Absolute/tt:Position")
    _write(call, camera, {}, "MANUAL" if camera.auto_focus else None, position)
    return ("timg:MoveResponse",)


def stop(call: Call) -> Node:
    """Nothing moves for longer than the call that started it."""
    _camera(call)
    return ("timg:StopResponse",)


def _camera(call: Call) -> Camera:
    token = text(call.body, "timg:VideoSourceToken")
    if token != VIDEO_SOURCE:
        raise invalid_value("NoSource", f"there is no video source {token[:64]!r}")
    return call.effects.read_camera(call.facts)


def _write(
    call: Call, camera: Camera, levels: dict[str, float], focus: Focus | None, position: float | None = None
) -> None:
    try:
        planned = plan_controls(camera, levels, focus, position)
    except ValueError as exc:
        raise invalid_value("SettingsInvalid", str(exc)) from exc
    if not planned:
        return
    try:
        call.effects.write_controls(call.facts, camera, planned)
    except MeetingctlError as error:
        log.error("controls", extra={"error": error.message})
        raise action_failed("the camera does not take the controls") from error


def _is_offered(item: Element, camera: Camera) -> bool:
    """Say whether a setting is one that the answer of GetOptions has."""
    if item.tag == qname("tt:Focus"):
        return all(part.tag == qname("tt:AutoFocusMode") for part in item)
    return any(item.tag == qname(f"tt:{name}") for name in LEVELS if name in camera.levels)


def _levels(camera: Camera, show: Callable[[str, Control], Node], focus: Node | None) -> list[Node | None]:
    before = [show(name, camera.levels[name]) for name in _BEFORE_FOCUS if name in camera.levels]
    after = [show("Sharpness", camera.levels["Sharpness"])] if "Sharpness" in camera.levels else []
    return [*before, focus, *after]


def _range(control: Control) -> tuple[Node, Node]:
    return ("tt:Min", f"{control.least:g}"), ("tt:Max", f"{control.most:g}")


TABLE: Table = {
    (NAMESPACES["timg"], name): op
    for name, op in {
        "GetImagingSettings": Op(get_imaging_settings, "RM", blocks=True),
        "SetImagingSettings": Op(set_imaging_settings, "ACT", blocks=True),
        "GetOptions": Op(get_options, "RM", blocks=True),
        "GetMoveOptions": Op(get_move_options, "RM", blocks=True),
        "GetStatus": Op(get_status, "RM", blocks=True),
        "Move": Op(move, "ACT", blocks=True),
        "Stop": Op(stop, "ACT", blocks=True),
    }.items()
}
