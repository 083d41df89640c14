"""Window accounting of one stream, without I/O: who may send how much, and when credit goes back.

A sender reads from its source only what the receiver has room for, so a visitor that stops reading holds one window
and nobody else waits.
"""

from __future__ import annotations

SMALLEST_WINDOW_BYTES = 32 << 10
LARGEST_CREDIT_BYTES = 1 << 31
# All windows of one agent and direction together; beyond it new streams start smaller.
AGENT_BUDGET_BYTES = 16 << 20


def initial_window(window_bytes: int, open_streams: int) -> int:
    """Return the credit that a new stream starts with beside `open_streams` others, in bytes."""
    fair_share = AGENT_BUDGET_BYTES // (open_streams + 1)
    return max(SMALLEST_WINDOW_BYTES, min(window_bytes, fair_share))


class SendCredit:
    """What the peer still takes of one stream."""

    __slots__ = ("left_bytes",)

    def __init__(self, window_bytes: int) -> None:
        self.left_bytes = window_bytes

    def spend(self, count_bytes: int) -> None:
        """Note that DATA was sent; the caller never sends more than `left_bytes`."""
        self.left_bytes -= count_bytes

    def refill(self, count_bytes: int) -> bool:
        """Note a WINDOW frame; False when the credit grows beyond what a sane peer grants."""
        self.left_bytes += count_bytes
        return self.left_bytes <= LARGEST_CREDIT_BYTES


class ReceiveWindow:
    """What the peer may still send of one stream, and what it has to be told.

    Credit goes back in portions of half the window. `smallest_window_bytes` is the least window that the sender may
    believe in when the two ends count open streams differently: a portion above half of it could starve the sender.
    """

    __slots__ = ("_delivered_bytes", "_portion_bytes", "_room_bytes")

    def __init__(self, window_bytes: int, *, smallest_window_bytes: int | None = None) -> None:
        self._room_bytes = window_bytes
        self._delivered_bytes = 0
        self._portion_bytes = (smallest_window_bytes or window_bytes) // 2

    def take(self, count_bytes: int) -> bool:
        """Note arrived DATA; False when the peer sent more than it was granted."""
        self._room_bytes -= count_bytes
        return self._room_bytes >= 0

    def deliver(self, count_bytes: int) -> None:
        """Note bytes that the local socket accepted."""
        self._delivered_bytes += count_bytes

    def credit_due(self) -> int:
        """Return the bytes to give back now, 0 while it is too early, and count them as given."""
        due = self._delivered_bytes
        if due < self._portion_bytes:
            return 0
        self._delivered_bytes = 0
        self._room_bytes += due
        return due
