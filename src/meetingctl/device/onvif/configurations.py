"""The configurations of sources and encoders: as both media services write them, and what a request changes."""

from __future__ import annotations

import logging
from dataclasses import replace

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.onvif.call import Call
from meetingctl.device.onvif.encoder import Encoding, Range, encoding_of, plan_encoding
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import Fault, action_failed, invalid_value
from meetingctl.device.onvif.profiles import (
    AUDIO_ENCODER_CONFIG,
    AUDIO_SOURCE,
    AUDIO_SOURCE_CONFIG,
    VIDEO_SOURCE,
    VIDEO_SOURCE_CONFIG,
    profiles_of,
)
from meetingctl.device.onvif.soap import Element, Node, find, integer, number, text

log = logging.getLogger(__name__)


def source_configuration(tag: str, facts: Facts) -> Node:
    width, height, _ = facts.captured
    bounds = {"x": 0, "y": 0, "width": width, "height": height}
    return (
        tag,
        {"token": VIDEO_SOURCE_CONFIG},
        ("tt:Name", VIDEO_SOURCE_CONFIG),
        ("tt:UseCount", len(profiles_of(facts))),
        ("tt:SourceToken", VIDEO_SOURCE),
        ("tt:Bounds", bounds),
    )


def source_options(facts: Facts) -> tuple[Node, ...]:
    zero, (width, height, _) = Range(0, 0), facts.captured
    return (
        (
            "tt:BoundsRange",
            ("tt:XRange", *span(zero)),
            ("tt:YRange", *span(zero)),
            ("tt:WidthRange", *span(Range(width, width))),
            ("tt:HeightRange", *span(Range(height, height))),
        ),
        ("tt:VideoSourceTokensAvailable", VIDEO_SOURCE),
    )


def encoder_configuration(tag: str, facts: Facts, token: str) -> Node:
    now = encoding_of(facts, token)
    return (
        tag,
        {"token": token},
        ("tt:Name", token),
        ("tt:UseCount", 1),
        ("tt:Encoding", "H264"),
        ("tt:Resolution", ("tt:Width", now.width_px), ("tt:Height", now.height_px)),
        ("tt:Quality", _quality(facts)),
        (
            "tt:RateControl",
            ("tt:FrameRateLimit", now.fps),
            ("tt:EncodingInterval", 1),
            ("tt:BitrateLimit", now.bitrate_kbps),
        ),
        ("tt:H264", ("tt:GovLength", now.gov_length), ("tt:H264Profile", now.profile)),
        _multicast(facts),
        ("tt:SessionTimeout", "PT60S"),
    )


def audio_source(tag: str, facts: Facts) -> Node:
    return (
        tag,
        {"token": AUDIO_SOURCE_CONFIG},
        ("tt:Name", AUDIO_SOURCE_CONFIG),
        ("tt:UseCount", 1),
        ("tt:SourceToken", AUDIO_SOURCE),
    )


def audio_encoder(tag: str, facts: Facts) -> Node:
    return (
        tag,
        {"token": AUDIO_ENCODER_CONFIG},
        ("tt:Name", AUDIO_ENCODER_CONFIG),
        ("tt:UseCount", 1),
        ("tt:Encoding", "AAC"),
        ("tt:Bitrate", facts.config.audio_bitrate_kbps),
        ("tt:SampleRate", facts.config.audio_rate // 1000),
        _multicast(facts),
        ("tt:SessionTimeout", "PT60S"),
    )


def audio_options(facts: Facts) -> tuple[Node, ...]:
    config = facts.config
    return (
        ("tt:Encoding", "AAC"),
        ("tt:BitrateList", ("tt:Items", config.audio_bitrate_kbps)),
        ("tt:SampleRateList", ("tt:Items", config.audio_rate // 1000)),
    )


def span(values: Range) -> tuple[Node, Node]:
    return ("tt:Min", values.least), ("tt:Max", values.most)


def check_source_configuration(facts: Facts, given: Element) -> None:
    """Accept what is set already and nothing else: the capture belongs to who installed the camera. Raises: Fault."""
    if given.get("token") != VIDEO_SOURCE_CONFIG:
        raise invalid_value("NoConfig", f"there is no configuration {str(given.get('token'))[:64]!r}")
    bounds = find(given, "tt:Bounds")
    width, height, _ = facts.captured
    size = {"x": 0, "y": 0, "width": width, "height": height}
    is_same = bounds is None or all(bounds.get(name) == str(value) for name, value in size.items())
    if text(given, "tt:SourceToken", VIDEO_SOURCE) != VIDEO_SOURCE or not is_same:
        raise invalid_value("ConfigModify", "the video source cannot be changed")


def read_encoding(given: Element, now: Encoding) -> Encoding:
    """Return size, rate and bitrate of a configuration; what is not given stays. Raises: Fault.

    The rate is a whole number in Media1 and any number in Media2.
    """
    return replace(
        now,
        width_px=integer(given, "tt:Resolution/tt:Width", now.width_px),
        height_px=integer(given, "tt:Resolution/tt:Height", now.height_px),
        fps=round(number(given, "tt:RateControl/tt:FrameRateLimit", now.fps)),
        bitrate_kbps=integer(given, "tt:RateControl/tt:BitrateLimit", now.bitrate_kbps),
    )


def apply_encoding(call: Call, token: str, wanted: Encoding) -> None:
    """Write what changes; nothing is touched when nothing does. Raises: Fault."""
    try:
        call.effects.change_config(lambda facts: plan_encoding(facts, token, wanted), call.facts)
    except Fault:
        raise
    except MeetingctlError as error:
        log.error("configuration cannot be written", extra={"error": error.message, "hint": error.hint})
        raise action_failed("the configuration cannot be written") from error


def _multicast(facts: Facts) -> Node:
    group = facts.config.rtsp_multicast_base if facts.has_multicast else ""
    return (
        "tt:Multicast",
        ("tt:Address", ("tt:Type", "IPv4"), ("tt:IPv4Address", group or "0.0.0.0")),  # noqa: S104 - no group
        ("tt:Port", (facts.config.rtsp_multicast_port_min or 0) if group else 0),
        ("tt:TTL", 1 if group else 0),
        ("tt:AutoStart", False),
    )


def _quality(facts: Facts) -> int:
    written = facts.config.stream_quality
    return int(written) if written.isdigit() else 3
