"""Decide where the pictures and the sound come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.facts import Facts, Mode, UsbCamera

SourceKind = Literal["usb", "csi", "libcamera", "rtsp", "mjpeg", "screen", "test"]
SoundKind = Literal["none", "alsa", "pulse", "test", "origin"]

# Preference of `VIDEOIN_FORMAT=auto`: what needs no encoder, then what needs little of the USB bus.
_FORMATS = ("H264", "MJPG", "YUYV")


@dataclass(frozen=True, slots=True)
class Source:
    """The chosen source. `mode` is what a USB camera is asked for; `format` is the word that overlays show."""

    kind: SourceKind
    mode: Mode
    device: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_passthrough(self) -> bool:
        return self.kind == "rtsp" or (self.kind == "usb" and self.mode.format == "H264")

    @property
    def opens_once(self) -> bool:
        """Say whether a second pipeline cannot open it while the first one lives."""
        return self.kind in {"usb", "csi", "libcamera"}


def camera_kind(config: DeviceConfig, facts: Facts) -> Literal["usb", "csi"]:
    """Decide between the two kinds of camera; without any camera it is USB, whose absence heals by itself.

    CAMERA_TYPE wins over the older switches USB_ENABLE and CSI_ENABLE; `auto` prefers a USB camera that works.
    """
    if config.camera_type != "auto":
        return "csi" if config.camera_type == "csi" else "usb"
    if config.csi_enable == "yes" and config.usb_enable != "yes":
        return "csi"
    if facts.usb is not None and config.usb_enable != "no":
        return "usb"
    return "csi" if facts.csi is not None and config.csi_enable != "no" else "usb"


def is_csi(config: DeviceConfig, facts: Facts) -> bool:
    """Say whether the defaults of a CSI camera count."""
    return config.stream_source_mode == "camera" and camera_kind(config, facts) == "csi"


def choose_source(config: DeviceConfig, facts: Facts) -> Source:
    """Decide on the source; `config` has the defaults of a CSI camera already when `is_csi` says so."""
    asked = Mode("", config.videoin_width, config.videoin_height, Fraction(config.videoin_fps))
    if config.stream_source_mode != "camera":
        kinds: dict[str, SourceKind] = {"rtsp": "rtsp", "mjpeg": "mjpeg", "screen": "screen", "test": "test"}
        return Source(kinds[config.stream_source_mode], _with_format(asked, config.stream_source_mode.upper()))
    if camera_kind(config, facts) == "csi":
        index = str(facts.csi.index if facts.csi else 0)
        if facts.has_picamera2:
            return Source("csi", _with_format(asked, "H264"), index)
        note = ("picamera2 is not installed: libcamerasrc, without controls while streaming",)
        return Source("libcamera", _with_format(asked, "NV12"), facts.csi.path if facts.csi else "", note)
    return _usb_source(config, facts.usb, asked)


def _usb_source(config: DeviceConfig, camera: UsbCamera | None, asked: Mode) -> Source:
    if camera is None or not camera.modes:
        format = config.videoin_format if config.videoin_format != "auto" else "raw"
        note = f"{config.videoin_device}: no camera that can be asked for its formats, trying {format}"
        device = camera.device if camera else config.videoin_device
        return Source("usb", _with_format(asked, format), device, (note,))
    mode, notes = choose_mode(camera.modes, asked, config.videoin_format, needs_raw=_needs_raw(config, asked))
    return Source("usb", mode, camera.device, notes)


def choose_mode(modes: Sequence[Mode], asked: Mode, format: str, *, needs_raw: bool) -> tuple[Mode, tuple[str, ...]]:
    """Pick what a USB camera is asked for, and say what differs from the wish.

    An explicit format wins. `auto` takes the first of H264, MJPG, YUYV that has the size and rate; H264 comes last
    when an overlay or a scaling is wanted, which need raw pictures. Nothing fits: the nearest of the first format.
    """
    order = [format] if format != "auto" else sorted(_FORMATS, key=lambda name: needs_raw and name == "H264")
    offered = [name for name in order if any(mode.format == name for mode in modes)]
    notes: list[str] = []
    if not offered:
        offered = list(dict.fromkeys(mode.format for mode in modes if mode.format in _FORMATS))
        if not offered:
            return _with_format(asked, "raw"), (f"the camera offers none of {', '.join(order)}, trying raw",)
        notes.append(f"the camera does not offer {order[0]}, using {offered[0]}")
    if needs_raw and offered[0] == "H264" and len(offered) == 1:
        notes.append("the camera delivers H264: no overlay and no scaling")
    for name in offered:
        fitting = [mode for mode in modes if mode.format == name and _size(mode) == _size(asked)]
        if any(mode.fps == asked.fps for mode in fitting):
            return _with_format(asked, name), tuple(notes)
    chosen = min((mode for mode in modes if mode.format in offered), key=lambda mode: _distance(mode, asked, offered))
    notes.append(f"the camera has no {_text(asked)}, using {_text(chosen)}")
    return chosen, tuple(notes)


def choose_sound(config: DeviceConfig, facts: Facts, source: Source) -> tuple[SoundKind, tuple[str, ...]]:
    """Decide where sound comes from. `auto` never mixes the microphone here with pictures from elsewhere."""
    if source.kind == "rtsp":
        wanted = config.rtsp_proxy_audio
        has_aac = facts.origin is not None and facts.origin.has_aac
        return ("origin" if wanted == "yes" or (wanted == "auto" and has_aac) else "none"), ()
    if config.audio_enable == "no" or (config.audio_enable == "auto" and source.kind == "mjpeg"):
        return "none", ()
    if source.kind == "test" and config.audio_device == "auto":
        return "test", ()
    if not facts.sound_device:
        loud = config.audio_enable == "yes"
        return "none", (("AUDIO_ENABLE=yes, but no sound card can be opened",) if loud else ())
    return ("pulse" if facts.sound_device == "pulse" else "alsa"), ()


def _needs_raw(config: DeviceConfig, asked: Mode) -> bool:
    out = (config.output_width_px, config.output_height_px, Fraction(config.output_fps))
    return config.video_overlay_enable or out != (*_size(asked), asked.fps)


def _distance(mode: Mode, asked: Mode, order: Sequence[str]) -> tuple[float, int, Fraction, int]:
    """Order modes by how far they are: the size first, then rates that are too low, then the preferred format."""
    size = abs(mode.width_px - asked.width_px) + abs(mode.height_px - asked.height_px)
    return size, int(mode.fps < asked.fps), abs(mode.fps - asked.fps), order.index(mode.format)


def _size(mode: Mode) -> tuple[int, int]:
    return mode.width_px, mode.height_px


def _with_format(mode: Mode, format: str) -> Mode:
    return Mode(format, mode.width_px, mode.height_px, mode.fps)


def _text(mode: Mode) -> str:
    return f"{mode.width_px}x{mode.height_px} at {float(mode.fps):g} fps"
