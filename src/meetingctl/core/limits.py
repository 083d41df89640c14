"""Rate limits without I/O: callers bring the time."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable


class FailureLimiter:
    """Count failures per subject in a sliding window and say when a subject must wait.

    Holds at most `capacity` subjects (the least recently failing one is forgotten), so that a flood of invented
    subjects cannot grow memory.
    """

    def __init__(self, *, limit: int, window_s: float, capacity: int = 10_000) -> None:
        self._limit = limit
        self._window_s = window_s
        self._capacity = capacity
        self._failures: OrderedDict[Hashable, list[float]] = OrderedDict()

    def retry_after_s(self, subject: Hashable, now_s: float) -> int:
        """Return whole seconds until the subject may try again, 0 when it may try now."""
        times = self._failures.get(subject)
        if times is None or len(times) < self._limit:
            return 0
        return max(0, math.ceil(times[-self._limit] + self._window_s - now_s))

    def has_failed(self, subject: Hashable, now_s: float) -> bool:
        """Say whether the subject failed within the window."""
        times = self._failures.get(subject)
        return times is not None and times[-1] > now_s - self._window_s

    def fail(self, subject: Hashable, now_s: float) -> None:
        """Record one failure."""
        times = [t for t in self._failures.get(subject, ()) if t > now_s - self._window_s]
        times.append(now_s)
        self._failures[subject] = times[-self._limit :]
        self._failures.move_to_end(subject)
        if len(self._failures) > self._capacity:
            self._failures.popitem(last=False)

    def clear(self, subject: Hashable) -> None:
        """Forget the failures of a subject, after a success."""
        self._failures.pop(subject, None)


class TokenBucket:
    """Allow `burst` calls at once and then one per `interval_s`, per subject, in bounded memory."""

    def __init__(self, *, interval_s: float, burst: int, capacity: int = 100_000) -> None:
        self._interval_s = interval_s
        self._tolerance_s = interval_s * (burst - 1)
        self._capacity = capacity
        self._next_free: dict[Hashable, float] = {}

    def allow(self, subject: Hashable, now_s: float) -> bool:
        """Take one token; False means too many calls (generic cell rate algorithm, ITU-T I.371)."""
        free_at = self._next_free.get(subject, now_s)
        if free_at - now_s > self._tolerance_s:
            return False
        if len(self._next_free) >= self._capacity and subject not in self._next_free:
            self._forget_idle(now_s)
        self._next_free[subject] = (free_at if free_at > now_s else now_s) + self._interval_s
        return True

    def retry_after_s(self, subject: Hashable, now_s: float) -> int:
        """Return whole seconds until the next token."""
        return max(1, math.ceil(self._next_free.get(subject, now_s) - self._tolerance_s - now_s))

    def _forget_idle(self, now_s: float) -> None:
        busy = {key: at for key, at in self._next_free.items() if at > now_s}
        if len(busy) >= self._capacity:
            busy = dict(list(busy.items())[self._capacity // 2 :])
        self._next_free = busy
