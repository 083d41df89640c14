"""When agents without credits must wait, and which stream pays for it: decisions without I/O.

Such an agent sends what its services say, whether the visitor reads or not. Its control connection can be left unread
only as a whole, which stops all its streams, so a visitor that accepts nothing is cut after a grace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GraceRules:
    """Bounds of the queues towards visitors. Bytes and seconds."""

    stream_bytes: int = 1 << 20
    # A stalled visitor may cost its device this much memory on the proxy.
    link_bytes: int = 4 << 20
    total_bytes: int = 256 << 20
    resume_room_bytes: int = 64 << 10
    grace_s: float = 2.0
    alone_grace_s: float = 20.0
    # An old agent gives up a write after 120 s and cuts a frame in two.
    longest_pause_s: float = 20.0


def is_over(queued_bytes: int, rules: GraceRules) -> bool:
    """Say whether one stream holds more than its share."""
    return queued_bytes >= rules.stream_bytes


def must_cut(queued_bytes: int, idle_s: float, *, is_alone: bool, rules: GraceRules) -> bool:
    """Say whether a stream ends: it is over, and its socket accepted no byte for the grace."""
    return is_over(queued_bytes, rules) and idle_s >= (rules.alone_grace_s if is_alone else rules.grace_s)


def must_pause(link_bytes: int, total_bytes: int, queues: Iterable[int], rules: GraceRules) -> bool:
    """Say whether a control connection is left unread for now."""
    if link_bytes >= rules.link_bytes:
        return True
    return total_bytes > rules.total_bytes and any(is_over(queued, rules) for queued in queues)


def may_resume(link_bytes: int, total_bytes: int, queues: Iterable[int], rules: GraceRules) -> bool:
    """Say whether a paused control connection is read again: there is room, not just one byte of it."""
    return not must_pause(link_bytes + rules.resume_room_bytes, total_bytes, queues, rules)
