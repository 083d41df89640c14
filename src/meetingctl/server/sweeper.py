"""Housekeeping: free expired ports, forget silent proxies, drop old logs."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import MeetingctlError
from meetingctl.server.catalog.orphans import sweep_icons, sweep_uploads
from meetingctl.server.db.schema import connection_logs, tunnel_visits
from meetingctl.server.state import ServerState
from meetingctl.server.tunnels.directory import forget_silent_proxies
from meetingctl.server.tunnels.ports import free_expired

log = logging.getLogger(__name__)
EVERY_S = 10.0
UPLOADS_EVERY_S = 600.0
KEEP_LOGS_MS = 90 * 86_400_000


def sweep(connection: sa.Connection) -> int:
    """Do it once; return how many ports became free."""
    forget_silent_proxies(connection)
    oldest = now_ms() - KEEP_LOGS_MS
    connection.execute(connection_logs.delete().where(connection_logs.c.at_ms < oldest))
    connection.execute(tunnel_visits.delete().where(tunnel_visits.c.opened_at_ms < oldest))
    return free_expired(connection)


async def sweep_for_ever(state: ServerState) -> Any:
    """Sweep at an interval until cancelled."""
    uploads_at_s = time.monotonic()
    while True:
        try:
            if await state.writer.run_async(sweep):
                state.changes.announce()
        except MeetingctlError as exc:
            log.warning("sweep failed", extra={"error": exc.message})
        if time.monotonic() >= uploads_at_s:
            uploads_at_s = time.monotonic() + UPLOADS_EVERY_S
            await _sweep_uploads(state)
        await asyncio.sleep(EVERY_S)


async def _sweep_uploads(state: ServerState) -> None:
    try:
        for name in await asyncio.to_thread(sweep_uploads, state.data_dir):
            log.warning("removed what an upload had left", extra={"file": name})
        await asyncio.to_thread(_sweep_icons, state)
    except (OSError, MeetingctlError) as exc:
        log.warning("sweep of uploads failed", extra={"error": str(exc)})


def _sweep_icons(state: ServerState) -> None:
    with state.database.read() as connection:
        sweep_icons(state.data_dir, connection)
