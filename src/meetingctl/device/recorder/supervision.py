"""One run of ffmpeg, from its start to its end: what it says, whether it still writes, and how it is stopped."""

from __future__ import annotations

import logging
import os
import selectors
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from meetingctl.device.recorder.command import Ending, closed_segment, explain_ending, mask
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.recorder.pace import STALL_AFTER_S, ClockWatch, Growth
from meetingctl.device.system import Child, System

TICK_S = 0.25
INTERRUPT_GRACE_S = 12.0  # a source that hangs holds ffmpeg for its read timeout, twice
TERMINATE_GRACE_S = 3.0

_LONGEST_LINE = 65536
_KEPT_LINES = 20
_STALLED = f"nothing was written for {STALL_AFTER_S:.0f} s"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. `recorded_s` counts from its first byte; one that we stopped on purpose is no failure."""

    ending: Ending
    recorded_s: float
    is_failure: bool


class Supervision:
    """Watch one ffmpeg.

    `on_start(pid)` is told the process, `on_segment(name)` each closed segment, `on_tick(growth)` is called several
    times a second, and `should_stop()` says when the run must end.
    """

    def __init__(
        self,
        system: System,
        folder: RecordFolder,
        *,
        on_start: Callable[[int], None],
        on_segment: Callable[[str], None],
        on_tick: Callable[[Growth], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._system = system
        self._folder = folder
        self._on_start = on_start
        self._on_segment = on_segment
        self._on_tick = on_tick
        self._should_stop = should_stop
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._rest: dict[int, bytes] = {}
        self._is_pressed = False

    def run(self, argv: list[str]) -> Run:
        """Start ffmpeg, watch it until it ends, and return why. Raises: NotFound when ffmpeg is missing."""
        clock = self._system.clock
        started_s = clock.monotonic_s()
        watch = ClockWatch.start(clock.wall_s(), started_s)
        growth = Growth(started_s)
        wrote_from_s: float | None = None
        reason: str | None = None
        asked_at_s = 0.0
        with self._system.spawn(*argv, stdout="pipe", stderr="pipe") as child, selectors.DefaultSelector() as pipes:
            self._watch_pipes(pipes, child)
            self._on_start(child.pid)
            while child.poll() is None:
                self._read_pipes(pipes, TICK_S)
                now_s = clock.monotonic_s()
                growth = growth.seen(*(self._folder.open_segment() or ("", 0)), now_s)
                if wrote_from_s is None and growth.size_bytes:
                    wrote_from_s = now_s
                self._on_tick(growth)
                if reason is not None:
                    self._press(child, now_s - asked_at_s)
                elif (reason := self._reason_to_stop(growth, watch, now_s)) is not None:
                    asked_at_s = now_s
                    child.send(signal.SIGINT)
            code = child.poll() or 0
            self._read_pipes(pipes, 0.0)
        recorded_s = clock.monotonic_s() - wrote_from_s if wrote_from_s is not None else 0.0
        if reason is not None:
            return Run(Ending(reason), recorded_s, is_failure=reason == _STALLED)
        return Run(explain_ending(code, self._said), recorded_s, is_failure=True)

    def _reason_to_stop(self, growth: Growth, watch: ClockWatch, now_s: float) -> str | None:
        """Return why the run must end, empty for a plain stop, None while it goes on."""
        if self._should_stop():
            return ""
        if jump_s := watch.jump_s(self._system.clock.wall_s(), now_s):
            log.info("the clock was set, a new segment starts", extra={"jump_s": round(jump_s)})
            return f"the clock was set by {jump_s:+.0f} s"
        if growth.is_stalled(now_s):
            return _STALLED
        return None

    def _press(self, child: Child, waited_s: float) -> None:
        """Stop an ffmpeg that does not heed the first signal: the second one breaks off its reading."""
        if waited_s > INTERRUPT_GRACE_S + TERMINATE_GRACE_S:
            child.send(signal.SIGKILL)
        elif waited_s > INTERRUPT_GRACE_S and not self._is_pressed:
            self._is_pressed = True
            child.send(signal.SIGTERM)

    def _watch_pipes(self, pipes: selectors.BaseSelector, child: Child) -> None:
        for pipe, use in ((child.stdout, self._segment_line), (child.stderr, self._message)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                pipes.register(pipe, selectors.EVENT_READ, use)

    def _read_pipes(self, pipes: selectors.BaseSelector, timeout_s: float) -> None:
        """Hand on every whole line that is there; wait at most `timeout_s` for the first."""
        for key, _ in pipes.select(timeout_s):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]  # only pipes are registered
            while chunk := pipe.read(_LONGEST_LINE):
                *lines, rest = (self._rest.get(key.fd, b"") + chunk).split(b"\n")
                self._rest[key.fd] = rest[-_LONGEST_LINE:]
                for line in lines:
                    key.data(line.decode("utf-8", "replace").rstrip("\r"))
            if chunk == b"":
                pipes.unregister(pipe)

    def _segment_line(self, line: str) -> None:
        name = closed_segment(line)
        if name is not None and (settled := self._folder.settle(name)) is not None:
            self._on_segment(settled)

    def _message(self, line: str) -> None:
        if line.strip():
            self._said.append(line)
            log.debug("ffmpeg", extra={"line": mask(line)[:300]})
