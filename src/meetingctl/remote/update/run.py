"""One device from its release to another, over as many connections as it takes.

The work on the device is a transient unit, so a lost link stops nothing. This side connects again, looks where things
stand, and goes on from there; so does the same command begun anew.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from meetingctl.core.errors import HostKeyChanged, MeetingctlError, TransportLost, Unreachable
from meetingctl.remote.update.job import Job, Result
from meetingctl.remote.update.stages import go_on
from meetingctl.remote.visit import Visit

RECONNECT_PAUSE_S = (0.5, 10.0)

Use = Callable[[Visit], Awaitable[Result]]
VisitDevice = Callable[[Use], Awaitable[Result]]


async def update_device(job: Job, visit_device: VisitDevice) -> Result:
    """Update one device, over as many connections as it takes.

    `visit_device` logs in and lets a function use the connection. Raises: Unreachable when the first connection fails;
    TransportLost when the link stays away, saying where things stand; MeetingctlError and its leaves.
    """
    lost_s: float | None = None
    pause_s = RECONNECT_PAUSE_S[0]

    async def use(visit: Visit) -> Result:
        nonlocal lost_s, pause_s
        lost_s, pause_s = None, RECONNECT_PAUSE_S[0]
        job.has_begun = True
        return await go_on(visit, job)

    while True:
        try:
            return await visit_device(use)
        except HostKeyChanged:
            raise
        except MeetingctlError as error:
            # A system that goes down or comes up also refuses logins.
            is_away = isinstance(error, TransportLost | Unreachable) or job.stage == "reboot"
            if not is_away or not job.has_begun:
                raise
            now_s = time.monotonic()
            if lost_s is None:
                lost_s = now_s
                job.tell(f"link lost while {job.at}; connecting again")
            if now_s - lost_s + pause_s > job.order.reconnect_s:
                raise _lost(job, error) from error
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
        pause_s = min(2 * pause_s, RECONNECT_PAUSE_S[1])


def _lost(job: Job, error: MeetingctlError) -> TransportLost:
    runs_on = ", which goes on there" if job.is_at_work else ""
    return TransportLost(
        f"{job.target}: the link was lost and not back within {job.order.reconnect_s:g} s; "
        f"the update stands at: {job.at}{runs_on}; {error.message.removeprefix(f'{job.target}: ')}",
        hint="the same command goes on where it stands",
    )
