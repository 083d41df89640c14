"""A rollout over SSH, for devices whose agent does not update them: the server decides, this side carries it out.

The server has the policy: waves, start delays, how many failures pause it. Asked is, for each device that is behind,
what it should have now; what became of it is reported as the device would report it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meetingctl.client import FleetClient
from meetingctl.core.errors import MeetingctlError, Unreachable
from meetingctl.core.target import DeviceTarget
from meetingctl.remote.fanout import Report, Result

POLL_S = 2.0  # the server takes its steps as often
ASK_AGAIN_S = 30.0
RETRY_S = 60.0
SILENT_S = 600.0  # a server that does not answer for so long ends the drive
ENDED = ("finished", "aborted", "paused")
# Also those that failed or began: after a pause, or an operator who went away, the server hands them out again.
_BEHIND = ("OUTDATED", "UNKNOWN", "FAILED", "IN_PROGRESS")

Update = Callable[[DeviceTarget], Awaitable[Report]]


@dataclass(frozen=True, slots=True)
class Driven:
    """How a drive ended: the rollout as the server has it, and what became of each device, the last try counts."""

    item: Mapping[str, Any]
    reports: Mapping[str, Report]


@dataclass(slots=True)
class Drive:
    """One operator's share in a rollout. `update` brings the release onto a device and reports that."""

    client: FleetClient
    rollout_id: int
    update: Update
    note: Callable[[str], object]
    parallel: int = 10
    once: bool = False
    poll_s: float = POLL_S
    reports: dict[str, Report] = field(default_factory=dict)
    _running: dict[str, asyncio.Future[Report]] = field(default_factory=dict)
    _due_s: dict[str, float] = field(default_factory=dict)
    _asked_s: dict[str, float] = field(default_factory=dict)
    _looked_s: float = -math.inf
    _silent_since_s: float | None = None
    _said: str = ""

    async def finish(self) -> Driven:
        """Go on until the rollout ends or is paused; with `once`, until nothing is due at this moment.

        Raises: NotFound for a rollout that is none, AuthError; Unreachable when the server does not answer at first.
        """
        item = await self._call(self.client.rollouts.show, self.rollout_id)
        try:
            while True:
                self._say(item)
                if item["state"] == "running":
                    if time.monotonic() - self._looked_s >= self.poll_s:
                        await self._look(item)
                        self._looked_s = time.monotonic()
                    await self._start_due()
                if self._is_over(item):
                    return Driven(item, self.reports)
                await self._wait()
                item = await self._refresh(item)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _is_over(self, item: Mapping[str, Any]) -> bool:
        if self._running:
            return False
        return item["state"] in ENDED or (
            self.once and not any(due <= time.monotonic() for due in self._due_s.values())
        )

    async def _look(self, item: Mapping[str, Any]) -> None:
        """Ask for devices that are behind what they should have now, and when they are to start."""
        for key in await self._call(self._list_behind, item):
            now_s = time.monotonic()
            is_busy = key in self._running or key in self._due_s or now_s < self._asked_s.get(key, 0.0)
            if is_busy or self._has_it(key):
                continue
            self._asked_s[key] = now_s + ASK_AGAIN_S
            if (delay_s := self._delay_of(await self._call(self.client.releases.wanted, key))) is not None:
                self._due_s[key] = now_s + delay_s

    def _has_it(self, key: str) -> bool:
        """Say whether it ended well here; a server that never heard of the device keeps no version of it."""
        return key in self.reports and self.reports[key].result is Result.ok

    def _list_behind(self, item: Mapping[str, Any]) -> list[str]:
        named = {name: item[name] for name in ("device_type", "distribution")}
        rows = (row for state in _BEHIND for row in self.client.releases.fleet_state({**named, "state": state}))
        return choose_behind(rows, item)

    def _delay_of(self, wanted: Mapping[str, Any]) -> float | None:
        """Return the seconds until the device is to start; None when this rollout does not hand it the version."""
        if wanted.get("rollout") != self.rollout_id or not wanted["update_available"]:
            return None
        return float(wanted["start_after_s"])

    async def _start_due(self) -> None:
        for key in sorted(self._due_s, key=self._due_s.__getitem__):
            if len(self._running) >= self.parallel or self._due_s[key] > time.monotonic():
                return
            del self._due_s[key]
            # The rollout may have been paused since it was asked.
            delay_s = self._delay_of(await self._call(self.client.releases.wanted, key))
            if delay_s == 0:
                self._running[key] = asyncio.ensure_future(self.update(DeviceTarget(key)))
            elif delay_s is not None:
                self._due_s[key] = time.monotonic() + delay_s

    async def _wait(self) -> None:
        """Wait for a device that ends, or until it is time to look again."""
        left_s = min([self.poll_s, *(due - time.monotonic() for due in self._due_s.values())])
        if not self._running:
            await asyncio.sleep(max(0.1, left_s))
            return
        ended, _ = await asyncio.wait(self._running.values(), timeout=self.poll_s, return_when=asyncio.FIRST_COMPLETED)
        for key in [key for key, task in self._running.items() if task in ended]:
            report = self._running.pop(key).result()
            self.reports[key] = report
            if report.result is Result.unreachable:
                self._asked_s[key] = time.monotonic() + RETRY_S * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load

    async def _refresh(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            fresh: Mapping[str, Any] = await self._call(self.client.rollouts.show, self.rollout_id)
            self._silent_since_s = None
            return fresh
        except Unreachable as error:
            # What runs on devices goes on; the server decides again when it is back.
            now_s = time.monotonic()
            self._silent_since_s = self._silent_since_s or now_s
            if not self._running and now_s - self._silent_since_s > SILENT_S:
                raise
            self.note(f"rollout {self.rollout_id}: {error.message}; asking again")
            return {**item, "state": "unknown"}

    def _say(self, item: Mapping[str, Any]) -> None:
        text = (
            f"rollout {self.rollout_id}: {item['state']}, wave {item['wave']} of {item['waves']}, "
            f"{item.get('success')} of {item.get('devices')} have it, {item.get('failed')} failed"
        )
        if text != self._said:
            self._said = text
            self.note(text)

    async def _call(self, ask: Callable[..., Any], *words: Any) -> Any:
        return await asyncio.to_thread(ask, *words)


def choose_behind(rows: Iterable[Mapping[str, Any]], item: Mapping[str, Any]) -> list[str]:
    """Choose the devices of the rollout's channel that should have its version and do not. Pure."""
    return [
        str(row["device_key"])
        for row in rows
        if row["channel"] == item["channel"]
        and row["target_version"] == item["version"]
        and row["installed_version"] != item["version"]
    ]


def fold_drive(driven: Driven, *, once: bool) -> MeetingctlError | None:
    """Return what is wrong at the end of a drive: a rollout that is not finished, or devices that failed. Pure."""
    item = driven.item
    if item["state"] in {"paused", "aborted"}:
        return MeetingctlError(
            f"rollout {item['id']} is {item['state']}: {item.get('reason') or 'no reason given'}",
            hint=f"meetingctl fleet rollout status {item['id']}",
        )
    bad = sorted(key for key, report in driven.reports.items() if report.result is not Result.ok)
    if once and bad:
        return MeetingctlError(
            f"{len(bad)} of {len(driven.reports)} devices do not have it: {', '.join(bad[:5])}",
            hint=f"meetingctl fleet rollout status {item['id']}",
        )
    return None
