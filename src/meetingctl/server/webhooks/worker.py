"""The coroutine that sends deliveries."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from meetingctl.client.hooks import post_hook
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.net import parse_networks
from meetingctl.server.sealing import unseal
from meetingctl.server.state import ServerState
from meetingctl.server.webhooks.deliveries import Claim, Outcome, claim, finish, has_due
from meetingctl.server.webhooks.signing import delivery_headers

log = logging.getLogger(__name__)
EVERY_S = 1.0
MOST_AT_ONCE = 32
_AFTER_ERROR_S = 10.0
_JITTER = random.SystemRandom()


async def run_deliveries(state: ServerState) -> None:
    """Send what is due until cancelled; what was being sent then is sent again when its claim ends."""
    running: dict[asyncio.Task[None], int] = {}
    try:
        while True:
            pause_s = EVERY_S
            try:
                for item in await _claim_due(state, running):
                    running[asyncio.create_task(_deliver(state, item))] = item.webhook_id
            except MeetingctlError as exc:
                log.warning("deliveries cannot go on", extra={"error": exc.message})
                pause_s = _AFTER_ERROR_S
            except Exception:  # a boundary: one bad row must not end the coroutine that serves all
                log.exception("deliveries cannot go on")
                pause_s = _AFTER_ERROR_S
            await _wait(running, pause_s * _JITTER.uniform(0.8, 1.2))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _claim_due(state: ServerState, running: dict[asyncio.Task[None], int]) -> list[Claim]:
    most, busy = MOST_AT_ONCE - len(running), tuple(running.values())
    if most <= 0 or not await asyncio.to_thread(_look, state):
        return []
    return await state.writer.run_async(lambda connection: claim(connection, most, busy))


def _look(state: ServerState) -> bool:
    with state.database.read() as connection:
        return has_due(connection)


async def _wait(running: dict[asyncio.Task[None], int], pause_s: float) -> None:
    """Wait for the pause, or until an attempt ended and there may be room for the next."""
    if not running:
        await asyncio.sleep(pause_s)
        return
    done, _ = await asyncio.wait(running, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        del running[task]


async def _deliver(state: ServerState, item: Claim) -> None:
    """Send one delivery and write down what became of it."""
    try:
        outcome = await _attempt(state, item)
        settings = state.settings
        await state.writer.run_async(
            lambda c: finish(c, item, outcome, attempts=settings.webhook_attempts, retry_s=settings.webhook_retry_s)
        )
    except MeetingctlError as exc:
        log.warning("delivery not recorded", extra={"delivery": item.name, "error": exc.message})
    except Exception:  # a boundary: the claim ends by itself and the delivery is tried again
        log.exception("delivery failed", extra={"delivery": item.name})


async def _attempt(state: ServerState, item: Claim) -> Outcome:
    settings, body = state.settings, item.body.encode()
    try:
        secret = await asyncio.to_thread(unseal, settings, state.data_dir, item.secret_sealed)
        headers = delivery_headers(
            secret=secret,
            event=item.event,
            delivery=item.name,
            attempt=item.attempt,
            at_s=int(time.time()),
            body=body,
        )
        networks = parse_networks(settings.webhook_networks)
        status = await post_hook(item.url, body, headers, timeout_s=settings.webhook_timeout_s, networks=networks)
    except MeetingctlError as exc:
        return Outcome(None, exc.message)
    if 300 <= status < 400:
        return Outcome(status, "redirections are not followed")
    return Outcome(status, "" if status < 300 else f"the receiver answered {status}")
