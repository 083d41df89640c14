"""The coroutine that lets rollouts go on."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from meetingctl.core.errors import MeetingctlError
from meetingctl.server.state import ServerState
from meetingctl.server.updates.rollouts import step_rollouts

log = logging.getLogger(__name__)
EVERY_S = 2.0
LONGEST_S = 60.0
_JITTER = random.SystemRandom()


async def run_rollouts(state: ServerState) -> None:
    """Step until cancelled: at once after a change, else at an interval that leaves nine tenths of the time free."""
    while True:
        began_s = time.monotonic()
        changed = 0
        try:
            changed = await asyncio.to_thread(step_rollouts, state)
        except MeetingctlError as exc:
            log.warning("rollouts cannot go on", extra={"error": exc.message})
        except Exception:  # a boundary: one bad rollout must not end the coroutine that serves all
            log.exception("rollouts cannot go on")
        took_s = time.monotonic() - began_s
        pause_s = took_s if changed else min(LONGEST_S, max(EVERY_S, took_s * 9))
        await asyncio.sleep(max(0.01, pause_s * _JITTER.uniform(0.8, 1.2)))
