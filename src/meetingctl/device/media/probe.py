"""What ffprobe knows of a recording."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meetingctl.device.media.quiet import run_quietly
from meetingctl.device.system import System

PROBE_TIMEOUT_S = 10.0
_ENTRIES = "format=duration,bit_rate:stream=codec_type,codec_name,width,height,avg_frame_rate,bit_rate"


@dataclass(frozen=True, slots=True)
class Metadata:
    """Facts of one file. Units: seconds, pixels, bit/s, frames/s; None where the file does not say."""

    duration_s: float | None = None
    width_px: int | None = None
    height_px: int | None = None
    codec: str | None = None
    bitrate_bps: int | None = None
    fps: float | None = None
    has_audio: bool = False
    raw: str = ""

    @property
    def resolution(self) -> str | None:
        return f"{self.width_px}x{self.height_px}" if self.width_px and self.height_px else None


def probe(system: System, path: Path, *, should_stop: Callable[[], bool] = lambda: False) -> Metadata | None:
    """Ask ffprobe about a file, at low priority; None when it cannot tell."""
    argv = probe_argv(path)
    ran = run_quietly(system, *argv, timeout_s=PROBE_TIMEOUT_S, should_stop=should_stop)
    return parse_probe(ran.out.decode("utf-8", "replace")) if ran.ok else None


def probe_argv(path: Path) -> list[str]:
    """Return the arguments of ffprobe; it looks at the first five seconds only."""
    options = ("-v", "error", "-read_intervals", "%+5", "-show_entries", _ENTRIES, "-of", "json=compact=1")
    return ["ffprobe", *options, f"file:{path}"]


def parse_probe(text: str) -> Metadata | None:
    """Read the JSON of ffprobe; None when there is no picture in the file."""
    try:
        facts = json.loads(text)
        streams = [stream for stream in facts["streams"] if isinstance(stream, dict)]
        video = next(stream for stream in streams if stream.get("codec_type") == "video")
    except (ValueError, KeyError, TypeError, StopIteration):
        return None
    about = facts.get("format")
    about = about if isinstance(about, dict) else {}
    return Metadata(
        duration_s=_number(about.get("duration")),
        width_px=_whole(video.get("width")),
        height_px=_whole(video.get("height")),
        codec=str(video["codec_name"]) if video.get("codec_name") else None,
        bitrate_bps=_whole(about.get("bit_rate")) or _whole(video.get("bit_rate")),
        fps=_rate(video.get("avg_frame_rate")),
        has_audio=any(stream.get("codec_type") == "audio" for stream in streams),
        raw=json.dumps(facts, separators=(",", ":")),
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < float("inf") else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _rate(value: Any) -> float | None:
    """Read `30000/1001`; `0/0` is unknown."""
    over, _, under = str(value or "").partition("/")
    top, bottom = _number(over), _number(under or "1")
    return round(top / bottom, 3) if top and bottom else None
