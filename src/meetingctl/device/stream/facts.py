"""What the stream daemon knows of this machine before it decides on a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Mode:
    """One thing a camera can deliver: `format` is the four-letter name that V4L2 uses (H264, MJPG, YUYV)."""

    format: str
    width_px: int
    height_px: int
    fps: Fraction


@dataclass(frozen=True, slots=True)
class UsbCamera:
    """A V4L2 capture device; `modes` is empty when it could not be asked."""

    device: str
    name: str
    modes: tuple[Mode, ...] = ()


@dataclass(frozen=True, slots=True)
class CsiCamera:
    """A camera on the ribbon cable, as libcamera lists it."""

    index: int
    model: str
    path: str = ""
    sizes_px: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SoundCard:
    """An ALSA capture device."""

    card: int
    device: int
    id: str
    name: str
    description: str = ""

    @property
    def alsa_device(self) -> str:
        return f"plughw:{self.card},{self.device}"

    @property
    def is_usb(self) -> bool:
        return "usb" in f"{self.id} {self.name} {self.description}".lower()


@dataclass(frozen=True, slots=True)
class Origin:
    """What the description of a proxied stream offers of that which can be passed on."""

    has_h264: bool
    has_aac: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """The machine: cameras, sound, elements of GStreamer and encoders that passed their trial, best first.

    `sound_device` is an ALSA name that could be opened, `pulse`, or empty. `origin` is None until it is known.
    `tuning` are stored controls of a CSI camera as properties of libcamerasrc.
    """

    usb: UsbCamera | None = None
    csi: CsiCamera | None = None
    has_picamera2: bool = False
    has_rpicam_vid: bool = False  # looked for only where CSI_OVERLAY_MODE=libcamera
    sound_device: str = ""
    encoders: tuple[str, ...] = ()
    elements: frozenset[str] = frozenset()
    origin: Origin | None = None
    tuning: Mapping[str, int | float | bool] = field(default_factory=dict)
