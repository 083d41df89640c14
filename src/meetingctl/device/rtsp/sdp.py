"""What a stream consists of, read from the SDP of a DESCRIBE. Source: RFC 8866."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Media:
    """One track: `kind` is video, audio or application; `codec` is in capitals, such as H264 or MPEG4-GENERIC.

    `codec` is empty for a static payload type without a map; `clock_hz` is 0 then.
    """

    kind: str
    payload_type: int
    codec: str = ""
    clock_hz: int = 0
    control: str = ""


def parse_sdp(body: bytes) -> tuple[Media, ...]:
    """Read the tracks of a description; lines that make no sense are passed over."""
    return tuple(media for section in _sections(body) if (media := _media(section)) is not None)


def _sections(body: bytes) -> Iterator[list[str]]:
    section: list[str] = []
    for line in body.decode("utf-8", "replace").splitlines():
        if line.startswith("m="):
            if section:
                yield section
            section = [line]
        elif section:
            section.append(line)
    if section:
        yield section


def _media(section: list[str]) -> Media | None:
    words = section[0][2:].split()
    if len(words) < 4 or not (words[3].isascii() and words[3].isdigit() and len(words[3]) <= 3):
        return None
    codec, clock_hz, control = "", 0, ""
    for line in section[1:]:
        name, _, value = line.partition(":")
        if name == "a=control":
            control = value.strip()
        elif name == "a=rtpmap":
            number, _, encoding = value.strip().partition(" ")
            if number == words[3]:
                codec, clock_hz = _encoding(encoding)
    return Media(words[0].lower(), int(words[3]), codec, clock_hz, control)


def _encoding(text: str) -> tuple[str, int]:
    parts = text.strip().split("/")
    clock = parts[1] if len(parts) > 1 else ""
    return parts[0].upper(), int(clock) if clock.isascii() and clock.isdigit() and len(clock) <= 9 else 0
