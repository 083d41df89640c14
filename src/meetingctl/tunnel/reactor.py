"""One epoll loop on a plain thread: readiness, timers, and calls from other threads.

The data path of the tunnel. One receive buffer serves every socket of the loop; a callback must be done with it when
it returns.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

log = logging.getLogger(__name__)

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
BROKEN = select.EPOLLERR | select.EPOLLHUP
# Interest in nothing: a reset is still reported, once, where level triggering would report it for ever.
IDLE = select.EPOLLET

BUFFER_BYTES = 1 << 20
_EVENTS_PER_ROUND = 256
_LONGEST_WAIT_S = 60.0


class Pollable(Protocol):
    """What the loop calls; one object per file descriptor."""

    def on_ready(self, mask: int) -> None:
        """Act on readiness. A spurious call must do no harm."""

    def on_crash(self) -> None:
        """Let go of everything after `on_ready` raised."""


class Reactor:
    """Run callbacks on the thread that calls `run`; only `call_threadsafe` and `stop` may be called from others."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, READ)
        self._pollables: dict[int, Pollable] = {}
        self._fresh: set[int] = set()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._deferred: list[Callable[[], None]] = []
        self._stopping = False
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.now_s = time.monotonic()

    def register(self, fd: int, pollable: Pollable, mask: int) -> None:
        """Watch a descriptor; unregister it before closing it."""
        self._epoll.register(fd, mask)
        self._pollables[fd] = pollable
        self._fresh.add(fd)

    def modify(self, fd: int, mask: int) -> None:
        """Change what a descriptor is watched for."""
        self._epoll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Stop watching a descriptor; events already fetched for it are dropped."""
        if self._pollables.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call once, after the delay. There is no cancel: the callback looks whether it is still wanted."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), call))

    def defer(self, call: Callable[[], None]) -> None:
        """Call at the end of this round, so that what a round produces leaves in one write."""
        self._deferred.append(call)

    def call_threadsafe(self, call: Callable[..., None], *args: Any) -> None:
        """Have the loop make a call; from any thread."""
        self._calls.append((call, args))
        self._wake()

    def stop(self) -> None:
        """Make `run` return after its round; from any thread."""
        self._stopping = True
        self._wake()

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping:
            events = self._epoll.poll(self._wait_s(), _EVENTS_PER_ROUND)
            self.now_s = time.monotonic()
            self._fresh.clear()
            for fd, mask in events:
                self._dispatch(fd, mask)
            self._run_calls()
            self._run_timers()
            self._run_deferred()
        self._run_calls()

    def close(self) -> None:
        """Let go of what is still watched and of the loop itself, after `run` has returned."""
        for fd, pollable in list(self._pollables.items()):
            self.unregister(fd)
            self._guard(pollable.on_crash)
        self._epoll.close()
        os.close(self._wake_fd)

    def _wake(self) -> None:
        try:
            os.eventfd_write(self._wake_fd, 1)
        except BlockingIOError:
            return

    def _wait_s(self) -> float:
        if self._calls or self._deferred:
            return 0.0
        if not self._timers:
            return _LONGEST_WAIT_S
        return min(max(self._timers[0][0] - time.monotonic(), 0.0), _LONGEST_WAIT_S)

    def _dispatch(self, fd: int, mask: int) -> None:
        if fd == self._wake_fd:
            os.eventfd_read(fd)
            return
        # A descriptor closed and opened again in this round is another socket than the event speaks of.
        pollable = None if fd in self._fresh else self._pollables.get(fd)
        if pollable is None:
            return
        try:
            pollable.on_ready(mask)
        except Exception:  # boundary: a fault in one connection must not end the others
            log.exception("tunnel connection failed")
            self.unregister(fd)
            self._guard(pollable.on_crash)

    def _run_calls(self) -> None:
        for _ in range(len(self._calls)):
            call, args = self._calls.popleft()
            self._guard(call, *args)

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self.now_s:
            self._guard(heapq.heappop(self._timers)[2])

    def _run_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for call in deferred:
            self._guard(call)

    def _guard(self, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception:  # boundary: the loop outlives a fault in one of its calls
            log.exception("tunnel callback failed")
