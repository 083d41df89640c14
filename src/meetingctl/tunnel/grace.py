"""When agents without credits must wait, and which stream pays for it: decisions without I/O.

Such an agent sends what its services say, whether the visitor reads or not. Its control connection can be left unread
only as a whole, which stops all its streams, so a visitor that accepts nothing is cut after a grace.
"""

from __future__ import annotations

from collections.abc import Collection
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
    # At first the kernel finds room for some bytes more in its own buffers; that is no sign of a visitor that reads.
    longest_settling_s: float = 0.5
    # An old agent gives up a write after 120 s and cuts a frame in two.
    longest_pause_s: float = 20.0

    @property
    def settling_s(self) -> float:
        """Return how long accepted bytes do not count as progress after a socket stopped taking everything."""
        return min(self.longest_settling_s, self.grace_s / 2)


def allowed_bytes(queues: Collection[int], *, is_paused: bool, rules: GraceRules) -> int:
    """Return how much one stream may hold before it is over.

    While the connection is left unread that is a fair share: otherwise many visitors that stall together, each below
    its limit, would stop the device for as long as a pause may last.
    """
    if not is_paused:
        return rules.stream_bytes
    holders = sum(queued > 0 for queued in queues)
    return min(rules.stream_bytes, rules.link_bytes // max(1, holders))


def must_cut(queued_bytes: int, idle_s: float, *, allowed: int, is_alone: bool, rules: GraceRules) -> bool:
    """Say whether a stream ends: it holds `allowed` bytes or more, and its socket accepted none for the grace."""
    return queued_bytes >= allowed and idle_s >= (rules.alone_grace_s if is_alone else rules.grace_s)


def must_pause(link_bytes: int, total_bytes: int, queues: Collection[int], rules: GraceRules) -> bool:
    """Say whether a control connection is left unread for now."""
    if link_bytes >= rules.link_bytes:
        return True
    return total_bytes > rules.total_bytes and any(queued >= rules.stream_bytes for queued in queues)


def may_resume(link_bytes: int, total_bytes: int, queues: Collection[int], rules: GraceRules) -> bool:
    """Say whether a paused control connection is read again: there is room, not just one byte of it."""
    return not must_pause(link_bytes + rules.resume_room_bytes, total_bytes, queues, rules)
