"""Time as the fleet writes it: integer milliseconds inside, `YYYY-MM-DD HH:MM:SS` UTC on the wire."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """Return the wall clock in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def wire_text(at_ms: int | None) -> str | None:
    """Format a time as `YYYY-MM-DD HH:MM:SS` UTC, the form of the Meeting contract (decision D-DATE)."""
    if at_ms is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms / 1000))


def iso_text(at_ms: int | None) -> str | None:
    """Format a time as ISO 8601 in UTC with `Z`, seconds precision."""
    if at_ms is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1000))


def parse_wire(text: str) -> int:
    """Read `YYYY-MM-DD HH:MM:SS` (UTC) into milliseconds. Raises ValueError."""
    moment = datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
