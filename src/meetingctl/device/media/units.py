"""Sizes and durations as the web page of the device shows them (the French units of the original)."""

from __future__ import annotations

_UNITS = ("o", "Ko", "Mo", "Go", "To")


def size_text(size_bytes: float) -> str:
    """Write bytes as `512 o`, `92.0 Ko`, `1.9 Mo`; one unit is 1024 of the one before."""
    size, unit = float(size_bytes), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} o" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def duration_text(duration_s: float | None) -> str:
    """Write seconds as `1:42:57`, nothing when they are unknown."""
    if duration_s is None:
        return ""
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
