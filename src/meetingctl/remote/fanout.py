"""One action on many devices at once: bounded parallelism, deadlines per device, four outcomes, and a rule to stop.

What acts is a coroutine per target; here is only who runs when, for how long, how often, and what became of it. A
target is tried again only while it could not be reached: what began on a device is never begun twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from meetingctl.core.errors import MeetingctlError, SomeFailed, TransportLost, Unreachable
from meetingctl.core.target import Target

_JITTER = random.SystemRandom()
_BACKOFF_FIRST_S = 0.5
_BACKOFF_CAP_S = 8.0


class Result(StrEnum):
    """What became of one target."""

    ok = "ok"
    failed = "failed"
    unreachable = "unreachable"
    skipped = "skipped"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many at once, how long, and when to stop. 0 as a deadline is none; `max_fail_percent` None is no limit."""

    parallel: int = 50
    total_s: float = 0.0
    idle_s: float = 0.0
    retries: int = 2
    fail_fast: bool = False
    max_fail_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one target. `exit_code` is the remote one, None when there is none; `details` are the action's."""

    target: str
    result: Result
    exit_code: int | None = None
    error: MeetingctlError | None = None
    attempts: int = 0
    duration_s: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the object that stands for the target in JSON."""
        error = self.error and {"code": self.error.code, "message": self.error.message, "hint": self.error.hint}
        return {
            "target": self.target,
            "ok": self.result is Result.ok,
            "result": self.result.value,
            "exit_code": self.exit_code,
            "error": error or None,
            "attempts": self.attempts,
            "duration_s": round(self.duration_s, 3),
            **self.details,
        }


@dataclass(frozen=True, slots=True)
class Done:
    """How an action ended that reached its device; `error` says better than an exit code what failed."""

    exit_code: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    error: MeetingctlError | None = None


Heard = Callable[[], None]
Act = Callable[[Target, Heard], Awaitable[Done]]


def why_stop(bad: int, planned: int, limits: Limits) -> str | None:
    """Decide, when `bad` targets have failed, whether those not begun are left alone; return the reason. Pure."""
    if limits.fail_fast and bad:
        return "an earlier target failed (--fail-fast)"
    if limits.max_fail_percent is not None and bad * 100 > limits.max_fail_percent * planned:
        return f"{bad} of {planned} failed, more than --max-fail {limits.max_fail_percent:g}%"
    return None


def fold_exit_code(reports: Sequence[Report]) -> int:
    """Choose one exit code: 0 all ok, 69 all unreachable, 3 some failed, else what they share or 1. Pure."""
    results = Counter(report.result for report in reports)
    if results[Result.ok] == len(reports):
        return 0
    if results[Result.unreachable] == len(reports):
        return Unreachable.exit_code
    if results[Result.ok]:
        return SomeFailed.exit_code
    codes = {report.error.exit_code if report.error is not None else 1 for report in reports}
    return codes.pop() if len(codes) == 1 else 1


def choose_pause_s(attempt: int) -> float:
    """Choose the pause before another attempt: full jitter below a doubling cap."""
    return _JITTER.uniform(0, min(_BACKOFF_CAP_S, _BACKOFF_FIRST_S * 2.0**attempt))


async def fan_out(
    targets: Sequence[Target], act: Act, limits: Limits, tell: Callable[[Report], object]
) -> list[Report]:
    """Act on every target; `tell` hears of each as it ends. Return the reports in the order of the targets.

    When this is cancelled, what runs is cancelled and told as failed, and what has not begun as skipped.
    """
    run = _Run(targets, act, limits, tell)
    return await run.finish()


class _Run:
    def __init__(self, targets: Sequence[Target], act: Act, limits: Limits, tell: Callable[[Report], object]) -> None:
        self._targets = list(targets)
        self._act = act
        self._limits = limits
        self._tell = tell
        self._reports: list[Report | None] = [None] * len(self._targets)
        self._waiting = iter(range(len(self._targets)))
        self._stopped: str | None = None
        self._bad = 0

    async def finish(self) -> list[Report]:
        workers = min(self._limits.parallel, len(self._targets))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work())
        except asyncio.CancelledError:
            self._skip_rest("interrupted")
            raise
        self._skip_rest(self._stopped or "not begun")
        return [report for report in self._reports if report is not None]

    async def _work(self) -> None:
        for index in self._waiting:
            if self._stopped is not None:
                return
            try:
                report = await self._try_often(self._targets[index])
            except asyncio.CancelledError:
                error = MeetingctlError(f"{self._targets[index]}: interrupted; what ran there may have had effects")
                self._end(index, Report(str(self._targets[index]), Result.failed, error=error))
                raise
            self._end(index, report)

    def _end(self, index: int, report: Report) -> None:
        self._reports[index] = report
        self._tell(report)
        self._bad += report.result in (Result.failed, Result.unreachable)
        self._stopped = self._stopped or why_stop(self._bad, len(self._targets), self._limits)

    def _skip_rest(self, reason: str) -> None:
        for index, report in enumerate(self._reports):
            if report is None:
                target = str(self._targets[index])
                self._end(index, Report(target, Result.skipped, error=MeetingctlError(f"{target}: skipped: {reason}")))

    async def _try_often(self, target: Target) -> Report:
        started_s = time.monotonic()
        deadline_s = started_s + self._limits.total_s if self._limits.total_s else None
        attempts = 0
        while True:
            attempts += 1
            report = await self._try_once(target, deadline_s)
            wait_s = choose_pause_s(attempts)
            may_wait = deadline_s is None or time.monotonic() + wait_s < deadline_s
            if report.result is not Result.unreachable or attempts > self._limits.retries or not may_wait:
                duration_s = time.monotonic() - started_s
                return Report(
                    report.target, report.result, report.exit_code, report.error, attempts, duration_s, report.details
                )
            await asyncio.sleep(wait_s)

    async def _try_once(self, target: Target, deadline_s: float | None) -> Report:
        name = str(target)
        try:
            done = await self._watched(target, deadline_s)
        except Unreachable as error:
            return Report(name, Result.unreachable, error=error)
        except MeetingctlError as error:
            return Report(name, Result.failed, error=error)
        if done.error is not None:
            return Report(name, Result.failed, error=done.error, details=done.details)
        if done.exit_code:
            failure = MeetingctlError(f"{name}: exit code {done.exit_code}")
            return Report(name, Result.failed, done.exit_code, failure, details=done.details)
        return Report(name, Result.ok, 0, details=done.details)

    async def _watched(self, target: Target, deadline_s: float | None) -> Done:
        """Let an action run to its end, its deadline, or a silence. Raises: Unreachable, TransportLost, its own."""
        heard_s = time.monotonic()
        is_connected = False

        def heard() -> None:
            nonlocal heard_s, is_connected
            heard_s, is_connected = time.monotonic(), True

        task = asyncio.ensure_future(self._act(target, heard))
        try:
            while True:
                now_s = time.monotonic()
                limits_s = [deadline_s] if deadline_s is not None else []
                if self._limits.idle_s and is_connected:
                    limits_s.append(heard_s + self._limits.idle_s)
                left_s = min(limits_s) - now_s if limits_s else (1.0 if self._limits.idle_s else None)
                if left_s is not None and left_s <= 0:
                    if deadline_s is not None and now_s >= deadline_s:
                        raise self._late(target, is_connected)
                    raise TransportLost(f"{target}: silent for {self._limits.idle_s:g} s")
                await asyncio.wait({task}, timeout=left_s)
                if task.done():
                    return task.result()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, MeetingctlError):
                await task

    def _late(self, target: Target, is_connected: bool) -> MeetingctlError:
        if is_connected:
            return TransportLost(f"{target}: not done within {self._limits.total_s:g} s")
        return Unreachable(f"{target}: not reached within {self._limits.total_s:g} s")
