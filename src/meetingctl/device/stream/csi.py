"""A CSI camera: its own encoder fills an `appsrc`, and its controls change while it runs.

Picamera2 is a Debian package of the Raspberry Pi; it is imported when a CSI camera is opened, and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

from meetingctl.core.errors import Conflict, InvalidInput, MeetingctlError
from meetingctl.core.layout import CSI_TUNING_JSON
from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.gstreamer import Gstreamer
from meetingctl.device.stream.mount import Feeder
from meetingctl.device.stream.pipeline import LaunchSpec
from meetingctl.device.stream.rpicam import RpicamVid
from meetingctl.device.system import System

# Controls that are arrays, with their lengths. Source: seed 002 section 5.9.
ARRAY_LENGTHS = {"ColourGains": 2, "FrameDurationLimits": 2, "ScalerCrop": 4}

log = logging.getLogger(__name__)

Control = bool | int | float | list[bool | int | float]


def check_controls(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Control]:
    """Check controls against those that the camera has; one number for an array is repeated.

    `known` is name -> (least, most, default) as Picamera2 tells. Raises: InvalidInput.
    """
    checked: dict[str, Control] = {}
    for name, value in wanted.items():
        if name not in known:
            raise InvalidInput(f"no control {name[:60]!r}", hint="GET /controls shows what the camera has")
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, int | float) for item in items):
            raise InvalidInput(f"{name}: allowed are numbers, true, false and lists of numbers")
        length = array_length(name, known[name])
        if length:
            items = items * length if len(items) == 1 else items
            if len(items) != length:
                raise InvalidInput(f"{name}: needs {length} numbers")
        elif isinstance(value, list):
            raise InvalidInput(f"{name}: is one number")
        _check_range(name, items, known[name])
        checked[name] = items if length else items[0]
    return checked


def array_length(name: str, limits: Any) -> int:
    """Return how many numbers a control takes, 0 for a scalar."""
    if name in ARRAY_LENGTHS:
        return ARRAY_LENGTHS[name]
    default = limits[2] if isinstance(limits, tuple | list) and len(limits) == 3 else None
    return len(default) if isinstance(default, tuple | list) else 0


def describe_controls(known: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name -> min, max, default, value, type, as the web page reads it."""
    described = {}
    for name, limits in sorted(known.items()):
        least, most, default = (_plain(item) for item in limits)
        value = _plain(values.get(name, default))
        sample = value if value is not None else least
        kind = "bool" if isinstance(sample, bool) else "int" if isinstance(sample, int) else "float"
        described[name] = {
            "name": name,
            "min": least,
            "max": most,
            "default": default,
            "value": value,
            "type": "array" if array_length(name, limits) else kind,
        }
    return described


def read_tuning(system: System) -> dict[str, Any]:
    """Return the stored controls; a file that is absent or broken means none."""
    try:
        stored = json.loads(system.read(CSI_TUNING_JSON))
    except (MeetingctlError, ValueError) as exc:
        if not isinstance(exc, MeetingctlError):
            log.warning("csi_tuning.json is no JSON: ignored")
        return {}
    return stored if isinstance(stored, dict) else {}


def libcamera_properties(tuning: Mapping[str, Any]) -> dict[str, int | float | bool]:
    """Return scalar controls as properties of libcamerasrc: ExposureTime is `exposure-time`."""
    found = {}
    for name, value in tuning.items():
        if isinstance(value, int | float):
            kebab = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
            found[kebab.lstrip("-")] = value
    return found


class Picamera:
    """The first CSI camera with the encoder that the configuration asks for."""

    def __init__(self, gst: Gstreamer, config: DeviceConfig, index: int, tuning: Mapping[str, Any]) -> None:
        self._gst = gst
        self._config = config
        self._index = index
        self._values: dict[str, Any] = dict(tuning)
        self._lock = threading.Lock()
        self._known: dict[str, Any] | None = None
        self._camera: Any = None
        self._encoder: Any = None
        self._appsrc: Any = None

    def start(self, appsrc: Any) -> None:
        """Open the camera and let its encoder push into the element. A failure ends the media with its text."""
        with self._lock:
            try:
                self._open(appsrc)
            except Exception as exc:  # a driver may raise anything; the viewer gets 503, the daemon goes on
                log.error("CSI camera does not open", extra={"error": str(exc)})
                self._close()
                appsrc.end_of_stream()

    def stop(self, appsrc: Any) -> None:
        with self._lock:
            if self._appsrc is appsrc:
                self._close()

    def request_keyframe(self) -> None:
        """Ask as far as this release of Picamera2 can."""
        encoder = self._encoder
        for name in ("force_key_frame", "force_keyframe", "request_key_frame"):
            if encoder is not None and hasattr(encoder, name):
                getattr(encoder, name)()
                return

    def controls(self) -> dict[str, dict[str, Any]]:
        """Return every control with its value, also while nobody watches. Raises: Conflict when it does not open."""
        with self._lock:
            known, metadata = self._ask_known(), {}
            if self._camera is not None:
                with contextlib.suppress(Exception):  # values are a bonus, and drivers differ
                    metadata = self._camera.capture_metadata()
            return describe_controls(known, {**metadata, **self._values})

    def set_controls(self, wanted: Mapping[str, Any]) -> dict[str, Control]:
        """Set controls of the running camera and keep them for its next start. Raises: InvalidInput, Conflict."""
        with self._lock:
            checked = check_controls(wanted, self._ask_known())
            if self._camera is not None:
                self._camera.set_controls(checked)
            self._values.update(checked)
            return checked

    def _ask_known(self) -> dict[str, Any]:
        """Return the controls that the camera has; while nobody watches it is opened once for the question."""
        if self._camera is not None:
            return dict(self._camera.camera_controls)
        if self._known is None:
            try:
                from picamera2 import Picamera2  # type: ignore[import-not-found]

                camera = Picamera2(self._index)
                self._known = dict(camera.camera_controls)
                camera.close()
            except Exception as exc:  # a driver may raise anything
                raise Conflict(f"the CSI camera does not open: {exc}", hint="rpicam-hello --list-cameras") from exc
        return self._known

    def _open(self, appsrc: Any) -> None:
        from picamera2 import Picamera2

        config = self._config
        self._close()
        self._camera = camera = Picamera2(self._index)
        size = (config.videoin_width, config.videoin_height)
        camera.configure(
            camera.create_video_configuration(
                main={"size": size, "format": "YUV420"}, controls={"FrameRate": float(config.videoin_fps)}
            )
        )
        self._apply_tuning(camera)
        self._encoder = make_encoder(config)
        self._appsrc = appsrc
        camera.start_recording(self._encoder, _make_output(self._gst, appsrc))

    def _apply_tuning(self, camera: Any) -> None:
        for name, value in self._values.items():
            try:
                camera.set_controls(check_controls({name: value}, camera.camera_controls))
            except InvalidInput as error:
                log.warning("csi_tuning.json", extra={"problem": error.message})

    def _close(self) -> None:
        camera, self._camera, self._encoder, self._appsrc = self._camera, None, None, None
        if camera is not None:
            for action in ("stop_recording", "close"):
                with contextlib.suppress(Exception):  # closing what is half open must not hide the reason
                    getattr(camera, action)()


def make_encoder(config: DeviceConfig) -> Any:
    """Return Picamera2's H.264 encoder with bitrate, keyframes, profile and quantizer."""
    from picamera2.encoders import H264Encoder  # type: ignore[import-not-found]

    more: dict[str, Any] = {}
    if config.h264_profile:
        more["profile"] = config.h264_profile
    if config.h264_qp is not None:
        more["qp"] = config.h264_qp
    return H264Encoder(
        bitrate=config.h264_bitrate_kbps * 1000,
        repeat=True,
        iperiod=config.h264_keyint,
        framerate=config.videoin_fps,
        **more,
    )


def push_frame(gst: Gstreamer, appsrc: Any, frame: bytes) -> None:
    """Give one access unit to the pipeline, which stamps it with the time of its arrival."""
    appsrc.push_buffer(gst.Gst.Buffer.new_wrapped(frame))


def _make_output(gst: Gstreamer, appsrc: Any) -> Any:
    from picamera2.outputs import Output  # type: ignore[import-not-found]

    class AppsrcOutput(Output):  # type: ignore[misc]  # picamera2 carries no types
        """Takes access units from the thread of the encoder."""

        def outputframe(self, frame: bytes, *_more: Any, **_named: Any) -> None:
            push_frame(gst, appsrc, bytes(frame))

    return AppsrcOutput()


def open_feeder(system: System, gst: Gstreamer, config: DeviceConfig, spec: LaunchSpec) -> Feeder:
    """Return the camera of a CSI stream; it opens when the first viewer comes."""
    camera = int(spec.source.device or 0)
    if spec.drawn is not None:
        return RpicamVid(system, gst, config, camera, *spec.drawn)
    return Picamera(gst, config, camera, read_tuning(system))


def _check_range(name: str, items: list[Any], limits: Any) -> None:
    least, most = (_plain(item) for item in limits[:2])
    for item, low, high in zip(items, _spread(least, items), _spread(most, items), strict=True):
        if low is not None and high is not None and not low <= item <= high:
            raise InvalidInput(f"{name}: {item} is not between {low} and {high}")


def _spread(limit: Any, items: list[Any]) -> list[Any]:
    return (
        list(limit)
        if isinstance(limit, list) and len(limit) == len(items)
        else [None if isinstance(limit, list) else limit for _ in items]
    )


def _plain(value: Any) -> Any:
    """Turn tuples and libcamera's rectangles into what JSON knows."""
    if hasattr(value, "to_tuple"):
        value = value.to_tuple()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
