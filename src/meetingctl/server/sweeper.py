"""Housekeeping: free expired ports, forget silent proxies, drop old records and what uploads left."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import sqlalchemy as sa

from meetingctl.core.errors import MeetingctlError
from meetingctl.server.aside import recover_files
from meetingctl.server.builder import store as builds
from meetingctl.server.catalog import tree
from meetingctl.server.catalog.orphans import sweep_icons, sweep_uploads
from meetingctl.server.retention import drop_all_old
from meetingctl.server.state import ServerState
from meetingctl.server.tunnels.directory import forget_silent_proxies
from meetingctl.server.tunnels.ports import free_expired

log = logging.getLogger(__name__)
EVERY_S = 10.0
UPLOADS_EVERY_S = 600.0
WORKING_S = 120.0  # a change that began longer ago belongs to a process that died
RECORDS_EVERY_S = 300.0


def sweep(connection: sa.Connection) -> int:
    """Do it once; return how many ports became free."""
    forget_silent_proxies(connection)
    return free_expired(connection)


async def sweep_for_ever(state: ServerState) -> Any:
    """Sweep at an interval until cancelled."""
    uploads_at_s = records_at_s = time.monotonic()
    while True:
        try:
            if await state.writer.run_async(sweep):
                state.changes.announce()
        except MeetingctlError as exc:
            log.warning("sweep failed", extra={"error": exc.message})
        if time.monotonic() >= records_at_s:
            records_at_s = time.monotonic() + RECORDS_EVERY_S
            await drop_all_old(state)
        if time.monotonic() >= uploads_at_s:
            uploads_at_s = time.monotonic() + UPLOADS_EVERY_S
            await _sweep_uploads(state)
        await asyncio.sleep(EVERY_S)


def recover_changes(state: ServerState, *, older_than_s: float = WORKING_S) -> list[str]:
    """Undo changes of files whose transaction a crash interrupted; return the names of the files."""
    found = []
    for folder, look_up in ((tree.STORAGE, tree.checksum_of), (builds.BUILDS, builds.checksum_of)):
        with state.database.read() as connection:
            incoming = state.data_dir / folder / tree.INCOMING
            found += recover_files(state.data_dir, incoming, partial(look_up, connection), older_than_s=older_than_s)
    return found


async def _sweep_uploads(state: ServerState) -> None:
    try:
        for name in await asyncio.to_thread(recover_changes, state):
            log.warning("put back a file whose change was interrupted", extra={"file": name})
        for name in await asyncio.to_thread(sweep_uploads, state.data_dir):
            log.warning("removed what an upload had left", extra={"file": name})
        await asyncio.to_thread(_sweep_icons, state)
    except (OSError, MeetingctlError) as exc:
        log.warning("sweep of uploads failed", extra={"error": str(exc)})


def _sweep_icons(state: ServerState) -> None:
    with state.database.read() as connection:
        sweep_icons(state.data_dir, connection)
