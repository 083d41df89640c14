"""The encoder as ONVIF sees it: what is set, what may be set, and which keys of config.env a request changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meetingctl.device.config import find_key
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import invalid_value

MAIN_TOKEN, SUB_TOKEN = "VideoEncoderConfig", "SubVideoEncoderConfig"
_USUAL_SIZES = ((1920, 1080), (1280, 720), (800, 600), (640, 480), (320, 240))
_SUB_KEYFRAME_S = 2
# Schema name -> what config.env calls it.
_PROFILES = {"Baseline": "constrained baseline", "Main": "main", "High": "high"}


class Range(NamedTuple):
    """The least and the greatest value, both allowed."""

    least: int
    most: int

    def clamp(self, value: float) -> int:
        return int(min(max(round(value), self.least), self.most))


@dataclass(frozen=True, slots=True)
class Encoding:
    """The settings of one encoder. `profile` is the name in the schema."""

    width_px: int
    height_px: int
    fps: int
    bitrate_kbps: int
    gov_length: int
    profile: str


@dataclass(frozen=True, slots=True)
class Choices:
    """What an encoder can be set to."""

    sizes: tuple[tuple[int, int], ...]
    fps: Range
    bitrate_kbps: Range
    gov_length: Range
    profiles: tuple[str, ...]


def encoding_of(facts: Facts, token: str) -> Encoding:
    """Return what is set, which is what the stream sends."""
    config = facts.config
    if token == SUB_TOKEN:
        return Encoding(
            config.substream_width,
            config.substream_height,
            config.substream_fps,
            config.substream_bitrate_kbps,
            _SUB_KEYFRAME_S * config.substream_fps,
            _schema_profile(config.h264_profile),
        )
    width, height, fps = config.output_width_px, config.output_height_px, config.output_fps
    if facts.is_passthrough:
        width, height, fps = facts.captured
    profile = _schema_profile(str(facts.stream.get("profile") or "") if facts.is_passthrough else config.h264_profile)
    return Encoding(width, height, fps, config.h264_bitrate_kbps, config.h264_keyint, profile)


def choices_of(facts: Facts, token: str) -> Choices:
    """Return what may be set; a stream that is passed on offers only what it is."""
    now, config = encoding_of(facts, token), facts.config
    if token == SUB_TOKEN:
        widths = _up_to(_limits("SUBSTREAM_WIDTH"), config.videoin_width)
        heights = _up_to(_limits("SUBSTREAM_HEIGHT"), config.videoin_height)
        sizes = tuple(size for size in _USUAL_SIZES if _fits(size, widths, heights))
        wanted = (*sizes, (now.width_px, now.height_px))
        fps = _up_to(_limits("SUBSTREAM_FPS"), max(config.videoin_fps, now.fps))
        # The second stream has a keyframe every two seconds, so its length follows the rate that is set with it.
        gov = Range(_SUB_KEYFRAME_S * fps.least, _SUB_KEYFRAME_S * fps.most)
        return Choices(_sorted(wanted), fps, _limits("SUBSTREAM_BITRATE_KBPS"), gov, (now.profile,))
    if facts.is_passthrough:
        fps, bitrate, gov = (Range(value, value) for value in (now.fps, now.bitrate_kbps, now.gov_length))
        return Choices(((now.width_px, now.height_px),), fps, bitrate, gov, (now.profile,))
    most = Range(0, config.videoin_width), Range(0, config.videoin_height)
    wanted = tuple(size for size in _USUAL_SIZES if _fits(size, *most))
    wanted += ((config.videoin_width, config.videoin_height), (now.width_px, now.height_px))
    fps = Range(1, max(config.videoin_fps, now.fps))
    return Choices(_sorted(wanted), fps, _limits("H264_BITRATE_KBPS"), _limits("H264_KEYINT"), tuple(_PROFILES))


def plan_encoding(facts: Facts, token: str, wanted: Encoding) -> dict[str, str]:
    """Return the keys of config.env that change, with their texts; rate and bitrate are moved into their ranges.

    Everything is checked before anything is returned. Raises: Fault (ConfigModify).
    """
    now, offered = encoding_of(facts, token), choices_of(facts, token)
    if (wanted.width_px, wanted.height_px) not in offered.sizes:
        raise invalid_value("ConfigModify", f"{wanted.width_px}x{wanted.height_px} is not offered")
    if not offered.gov_length.least <= wanted.gov_length <= offered.gov_length.most:
        raise invalid_value("ConfigModify", f"a GovLength of {wanted.gov_length} is not offered")
    if wanted.profile not in offered.profiles:
        raise invalid_value("ConfigModify", f"the profile {wanted.profile[:20]} is not offered")
    pairs: Mapping[str, tuple[int | str, int | str]] = {
        "width": (now.width_px, wanted.width_px),
        "height": (now.height_px, wanted.height_px),
        "fps": (now.fps, offered.fps.clamp(wanted.fps)),
        "bitrate": (now.bitrate_kbps, offered.bitrate_kbps.clamp(wanted.bitrate_kbps)),
    }
    if token == MAIN_TOKEN:
        pairs = {
            **pairs,
            "keyint": (now.gov_length, wanted.gov_length),
            "profile": (_PROFILES[now.profile], _PROFILES[wanted.profile]),
        }
    keys = _SUB_KEYS if token == SUB_TOKEN else _MAIN_KEYS
    return {keys[name]: str(new) for name, (old, new) in pairs.items() if old != new}


_MAIN_KEYS = {
    "width": "VIDEOOUT_WIDTH",
    "height": "VIDEOOUT_HEIGHT",
    "fps": "VIDEOOUT_FPS",
    "bitrate": "H264_BITRATE_KBPS",
    "keyint": "H264_KEYINT",
    "profile": "H264_PROFILE",
}
_SUB_KEYS = {
    "width": "SUBSTREAM_WIDTH",
    "height": "SUBSTREAM_HEIGHT",
    "fps": "SUBSTREAM_FPS",
    "bitrate": "SUBSTREAM_BITRATE_KBPS",
}


def _schema_profile(text: str) -> str:
    return {"main": "Main", "high": "High"}.get(text, "Baseline")


def _limits(name: str) -> Range:
    """Return the range that config.env itself allows for a key."""
    kind = find_key(name).kind
    return Range(int(kind.least or 0), int(kind.most or 0))


def _up_to(range_: Range, most: int) -> Range:
    return Range(range_.least, max(range_.least, min(range_.most, most)))


def _fits(size: tuple[int, int], widths: Range, heights: Range) -> bool:
    return widths.least <= size[0] <= widths.most and heights.least <= size[1] <= heights.most


def _sorted(sizes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(set(sizes), key=lambda size: size[0] * size[1], reverse=True))
