"""Run ffmpeg and ffprobe so that the live stream does not notice: lowest priority, a deadline, and a way out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.system import CODE_MISSING, CODE_TIMED_OUT, System

_LOW_PRIORITY = ("nice", "-n", "10", "ionice", "-t", "-c", "3")
_STEP_S = 0.1
_LARGEST_OUTPUT_BYTES = 60_000  # below the size of a pipe: the output is read when the program has ended


@dataclass(frozen=True, slots=True)
class Quiet:
    """How a program ended; `code` is 127 when it is missing and 124 when the deadline passed or we stopped it."""

    code: int
    out: bytes = b""

    @property
    def ok(self) -> bool:
        return self.code == 0


def run_quietly(system: System, *argv: str, timeout_s: float, should_stop: Callable[[], bool] = lambda: False) -> Quiet:
    """Run a program with little output to its end."""
    try:
        child = system.spawn(*_LOW_PRIORITY, *argv, stdout="pipe")
    except MeetingctlError:
        return Quiet(CODE_MISSING)
    deadline_s = time.monotonic() + timeout_s
    with child:
        while child.wait(_STEP_S) is None:
            if should_stop() or time.monotonic() >= deadline_s:
                return Quiet(CODE_TIMED_OUT)
        out = child.stdout.read(_LARGEST_OUTPUT_BYTES) if child.stdout is not None else b""
        return Quiet(child.poll() or 0, out or b"")
