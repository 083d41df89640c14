"""Controls of the camera behind the Imaging service: V4L2 for USB, the stream's loopback HTTP for CSI."""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from meetingctl.core.errors import MeetingctlError, Unreachable
from meetingctl.core.layout import CSI_CONTROL_HOST, CSI_CONTROL_PORT
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.system import System

_TIMEOUT_S = 5.0
_PICTURE_TIMEOUT_S = 8.0
_ANSWER_BYTES = 4 << 20  # a picture of 4K
_AF_MANUAL, _AF_CONTINUOUS = 0, 2  # libcamera's AfModeEnum
_V4L2_LINE = re.compile(r"^\s*([a-z0-9_]+) 0x[0-9a-f]+ \((int|bool|menu)\)\s*:\s*(.*)$", re.MULTILINE)
_PAIR = re.compile(r"([a-z]+)=(-?\d+)")

# Name in the schema -> control of V4L2, control of libcamera. The order is that of the schema.
LEVELS = {
    "Brightness": ("brightness", "Brightness"),
    "ColorSaturation": ("saturation", "Saturation"),
    "Contrast": ("contrast", "Contrast"),
    "Sharpness": ("sharpness", "Sharpness"),
}
_V4L2_AUTO_FOCUS = ("focus_automatic_continuous", "focus_auto")

Focus = Literal["AUTO", "MANUAL"]


@dataclass(frozen=True, slots=True)
class Control:
    """One control: its name at the camera, its range and its value."""

    name: str
    least: float
    most: float
    value: float


@dataclass(frozen=True, slots=True)
class Camera:
    """What the camera can be set to; `levels` has the names of the schema. What it lacks is left out."""

    kind: Literal["usb", "csi", "none"] = "none"
    levels: Mapping[str, Control] = field(default_factory=dict)
    auto_focus: Control | None = None
    focus: Control | None = None

    @property
    def focus_mode(self) -> Focus:
        """Return the mode; AfMode of libcamera is 0 for manual as well."""
        return "AUTO" if self.auto_focus is not None and self.auto_focus.value else "MANUAL"


def parse_v4l2(text: str) -> Camera:
    """Read the output of `v4l2-ctl --list-ctrls`: `brightness 0x00980900 (int) : min=0 max=255 step=1 value=128`."""
    found: dict[str, Control] = {}
    for name, kind, rest in _V4L2_LINE.findall(text):
        values = {key: int(number) for key, number in _PAIR.findall(rest)}
        if "value" not in values or "disabled" in rest or "read-only" in rest:
            continue
        least, most = (0, 1) if kind == "bool" else (values.get("min", 0), values.get("max", 0))
        found[name] = Control(name, least, most, values["value"])
    levels = {shown: found[names[0]] for shown, names in LEVELS.items() if names[0] in found}
    auto = next((found[name] for name in _V4L2_AUTO_FOCUS if name in found), None)
    return Camera("usb", levels, auto, found.get("focus_absolute"))


def parse_csi(controls: Mapping[str, Any]) -> Camera:
    """Read the controls of a CSI camera as the stream daemon shows them."""
    found = {}
    for name, facts in controls.items():
        if isinstance(facts, dict) and all(_is_number(facts.get(key)) for key in ("min", "max")):
            usable = next((facts[key] for key in ("value", "default") if _is_number(facts.get(key))), 0)
            found[name] = Control(name, float(facts["min"]), float(facts["max"]), float(usable))
    levels = {shown: found[names[1]] for shown, names in LEVELS.items() if names[1] in found}
    return Camera("csi", levels, found.get("AfMode"), found.get("LensPosition"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e9


def plan_controls(
    camera: Camera, levels: Mapping[str, float], focus: Focus | None = None, position: float | None = None
) -> dict[str, float]:
    """Return the controls to write, by the camera's names. Raises: ValueError for what it lacks or out of range."""
    planned: dict[str, float] = {}
    for name, value in levels.items():
        control = camera.levels.get(name)
        if control is None:
            raise ValueError(f"the camera has no {name}")
        planned[control.name] = _in_range(control, value)
    if focus is not None:
        if camera.auto_focus is None:
            raise ValueError("the camera has no autofocus")
        on = _AF_CONTINUOUS if camera.kind == "csi" else 1
        planned[camera.auto_focus.name] = on if focus == "AUTO" else _AF_MANUAL
    if position is not None:
        if camera.focus is None:
            raise ValueError("the focus cannot be moved")
        planned[camera.focus.name] = _in_range(camera.focus, position)
    return planned


def read_camera(system: System, facts: Facts) -> Camera:
    """Ask the camera what it has. Never raises: a camera that does not answer has nothing."""
    try:
        if facts.is_csi:
            controls = _call(facts, "GET", "/controls").get("controls")
            return parse_csi(controls if isinstance(controls, dict) else {})
        if facts.stream.get("source", "usb") == "usb" and facts.config.stream_source_mode == "camera":
            ran = system.run("v4l2-ctl", "-d", facts.config.videoin_device, "--list-ctrls", timeout_s=_TIMEOUT_S)
            return parse_v4l2(ran.out) if ran.ok else Camera()
    except MeetingctlError:
        pass
    return Camera()


def write_controls(system: System, facts: Facts, camera: Camera, planned: Mapping[str, float]) -> None:
    """Set controls of the camera. Raises: MeetingctlError."""
    if camera.kind == "csi":
        _call(facts, "POST", "/set_controls", json.dumps(_typed(camera, planned)).encode())
        return
    pairs = ",".join(f"{name}={round(value)}" for name, value in planned.items())
    ran = system.run("v4l2-ctl", "-d", facts.config.videoin_device, f"--set-ctrl={pairs}", timeout_s=_TIMEOUT_S)
    if not ran.ok:
        raise MeetingctlError(f"v4l2-ctl failed with code {ran.code}: {' '.join(ran.err.split())[:200]}")


def take_picture(facts: Facts) -> bytes:
    """Return a JPEG from the stream daemon. Raises: MeetingctlError."""
    return _ask(facts, "GET", "/snapshot.jpg", None, _PICTURE_TIMEOUT_S)


def _typed(camera: Camera, planned: Mapping[str, float]) -> dict[str, float | int]:
    whole = {camera.auto_focus.name} if camera.auto_focus else set()
    return {name: int(value) if name in whole else value for name, value in planned.items()}


def _in_range(control: Control, value: float) -> float:
    if not control.least <= value <= control.most:
        raise ValueError(f"{control.name} goes from {control.least:g} to {control.most:g}")
    return value


def _call(facts: Facts, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    try:
        answer = json.loads(_ask(facts, method, path, body, _TIMEOUT_S))
    except (ValueError, RecursionError) as exc:
        raise Unreachable("the stream daemon answers no JSON") from exc
    return answer if isinstance(answer, dict) else {}


def _ask(facts: Facts, method: str, path: str, body: bytes | None, timeout_s: float) -> bytes:
    """Ask the loopback HTTP of the stream. The time counts for the whole answer. Raises: MeetingctlError."""
    port = facts.stream.get("http_port") or CSI_CONTROL_PORT
    connection = http.client.HTTPConnection(CSI_CONTROL_HOST, int(port), timeout=timeout_s)
    try:
        connection.connect()
        deadline = threading.Timer(timeout_s, connection.sock.shutdown, (socket.SHUT_RDWR,))
        deadline.daemon = True
        deadline.start()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            content = answer.read(_ANSWER_BYTES + 1)
        finally:
            deadline.cancel()
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise Unreachable("the stream daemon does not answer", hint="systemctl status rpi-av-rtsp-recorder") from exc
    finally:
        connection.close()
    if answer.length != 0:  # the rest never came
        raise Unreachable("the stream daemon did not finish its answer", hint="systemctl status rpi-av-rtsp-recorder")
    if answer.status != 200 or len(content) > _ANSWER_BYTES:
        raise MeetingctlError(f"the stream daemon answered {answer.status} with {len(content)} bytes to {path}")
    return content
