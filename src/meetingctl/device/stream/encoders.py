"""H.264 and AAC encoders: their order, and how each is told bitrate, keyframes and profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import DeviceConfig

# Best first; the first that passes its trial encodes, the next ones stand by for a failure in service.
H264_ORDER = ("v4l2h264enc", "x264enc", "openh264enc")
HARDWARE = frozenset({"v4l2h264enc"})
AAC_ORDER = ("voaacenc", "avenc_aac", "faac")
# The small library first: libav adds 70 MiB to the process.
H264_DECODERS = ("openh264dec", "avdec_h264")

# Caps name of each profile; what viewers of every kind decode is the default.
_PROFILES = {
    "": "constrained-baseline",
    "baseline": "baseline",
    "constrained baseline": "constrained-baseline",
    "main": "main",
    "high": "high",
}
# The fast preset leaves out what the higher profiles are for, and x264 then writes a baseline stream.
_X264_TOOLS = {"main": "cabac=1", "high": "cabac=1:8x8dct=1"}
# Constant rate factor under which a variable bitrate stays below its ceiling most of the time.
_VBR_QUALITY = 23


class Encoding(NamedTuple):
    """An encoder in a launch line, and properties that may change while it runs."""

    launch: str
    live: dict[str, int]


class EncoderSettings(NamedTuple):
    """What an encoder is told; `bitrate_kbps` is the target, or the ceiling when the bitrate is variable."""

    bitrate_kbps: int
    keyint: int
    profile: str = ""
    is_variable: bool = False
    qp: int | None = None


def settings_of(config: DeviceConfig) -> EncoderSettings:
    """Take the settings of the main stream from the configuration."""
    return EncoderSettings(
        config.h264_bitrate_kbps,
        config.h264_keyint,
        config.h264_profile,
        config.h264_bitrate_mode == "vbr",
        config.h264_qp,
    )


def profile_caps(profile: str) -> str:
    """Return the caps after the encoder."""
    return f"video/x-h264,profile={_PROFILES[profile]}"


def encode_h264(element: str, settings: EncoderSettings) -> Encoding:
    """Return the launch text of one encoder, with the caps of its profile.

    Source: x264enc takes kbit/s, openh264enc and v4l2h264enc bit/s; the last cannot change while it runs.
    """
    return _WRITERS[element](settings)


def _x264(settings: EncoderSettings) -> Encoding:
    # Without zerolatency the picture is 2.2 times later; bframes and look-ahead would undo it.
    text = (
        "x264enc name=encoder tune=zerolatency speed-preset=ultrafast bframes=0 threads=2"
        f" key-int-max={settings.keyint} byte-stream=true"
    )
    if tools := _X264_TOOLS.get(settings.profile):
        text += f' option-string="{tools}"'
    if settings.qp is not None:
        text += f" pass=quant quantizer={min(settings.qp, 50)}"
    elif settings.is_variable:
        text += f" pass=qual quantizer={_VBR_QUALITY}"
    else:
        text += " pass=cbr"
    return Encoding(f"{text} ! {profile_caps(settings.profile)}", {"bitrate": settings.bitrate_kbps})


def _openh264(settings: EncoderSettings) -> Encoding:
    text = f"openh264enc name=encoder complexity=low enable-frame-skip=false gop-size={settings.keyint}"
    if settings.qp is not None:
        text += f" rate-control=off qp-min={settings.qp} qp-max={settings.qp}"
    else:
        text += " rate-control=" + ("quality" if settings.is_variable else "bitrate")
    return Encoding(f"{text} ! {profile_caps(settings.profile)}", {"bitrate": settings.bitrate_kbps * 1000})


def _v4l2(settings: EncoderSettings) -> Encoding:
    controls = [
        "controls",
        f"video_bitrate_mode={0 if settings.is_variable else 1}",
        f"video_bitrate={settings.bitrate_kbps * 1000}",
        f"h264_i_frame_period={settings.keyint}",
        "repeat_sequence_header=1",
    ]
    if settings.qp is not None:
        controls += [f"h264_minimum_qp_value={settings.qp}", f"h264_maximum_qp_value={settings.qp}"]
    # The driver of the Pi refuses caps without a level.
    caps = f"{profile_caps(settings.profile)},level=(string)4"
    return Encoding(f'v4l2h264enc name=encoder extra-controls="{",".join(controls)}" ! {caps}', {})


_WRITERS = {"v4l2h264enc": _v4l2, "x264enc": _x264, "openh264enc": _openh264}


def encode_aac(element: str, bitrate_kbps: int) -> str:
    """Return the launch text of one AAC-LC encoder."""
    return f"{element} bitrate={bitrate_kbps * 1000}"


def choose_encoder(working: Sequence[str]) -> str:
    """Return the best encoder that works. Raises: MeetingctlError naming the package when there is none."""
    for element in H264_ORDER:
        if element in working:
            return element
    raise MeetingctlError(
        "no H.264 encoder works on this machine", hint="sudo apt-get install -y gstreamer1.0-plugins-ugly"
    )


def first_present(order: Sequence[str], present: frozenset[str]) -> str | None:
    """Return the first element that GStreamer has."""
    return next((element for element in order if element in present), None)
