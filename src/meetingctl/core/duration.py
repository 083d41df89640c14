"""Durations as people write them: `90`, `90s`, `15m`, `1h30m`, `2d`."""

from __future__ import annotations

import re

from meetingctl.core.errors import InvalidInput

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
LONGEST_S = 100 * 365 * 86400.0


def parse_duration_s(text: str | float) -> float:
    """Read a duration into seconds; a bare number means seconds.

    Raises: InvalidInput for anything else, a negative value or more than a hundred years.
    """
    if isinstance(text, bool):
        raise InvalidInput(f"not a duration: {text!r}", hint="use for example 30s, 15m, 1h30m or 2d")
    compact = str(text).strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(?:\.\d+)?", compact):
        seconds = float(compact)
    elif compact and _PART.sub("", compact) == "":
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(compact))
    else:
        raise InvalidInput(f"not a duration: {str(text)!r}", hint="use for example 30s, 15m, 1h30m or 2d")
    if seconds > LONGEST_S:
        raise InvalidInput(f"duration too long: {str(text)!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """Write a duration with its two largest units: `1h30m`, `2d4h`, `45s`."""
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
