"""Notice devices that fell silent or came back, and tell each change once.

What was told last stands in `presence_reports`, so that neither a restart nor a second API process tells it again. Time
in which this server did not run, or did not get its turn, is no silence of a device: it waits anew before it judges.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from meetingctl.core.clock import iso_text, now_ms
from meetingctl.core.errors import MeetingctlError
from meetingctl.server.db.schema import connection_logs, devices, presence, presence_reports
from meetingctl.server.state import ServerState
from meetingctl.server.webhooks.outbox import emit

log = logging.getLogger(__name__)
EVERY_S = 10.0
LONGEST_S = 120.0
PAGE_ROWS = 200
OFFLINE = "Offline"  # the event in the connection log
_JITTER = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What counts as silent: nothing heard since `cutoff_ms`. `is_settled` is false while silence proves nothing."""

    cutoff_ms: int
    is_settled: bool
    after_s: float


def judge(at_ms: int, listening_since_ms: int, after_s: float) -> Judgement:
    """Decide what may be said at this time. Pure."""
    cutoff_ms = at_ms - int(after_s * 1000)
    return Judgement(cutoff_ms, listening_since_ms <= cutoff_ms, after_s)


def find_changes(connection: sa.Connection, judgement: Judgement, after_id: int) -> list[int]:
    """Return the ids of up to `PAGE_ROWS` devices whose report is no longer true, in order, beyond `after_id`."""
    query = _changed(judgement).where(presence.c.device_id > after_id).order_by(presence.c.device_id)
    return [row.device_id for row in connection.execute(query.limit(PAGE_ROWS))]


def tell_changes(connection: sa.Connection, judgement: Judgement, device_ids: Sequence[int]) -> int:
    """Look again at these devices, write down what is true and queue the alerts; return how many changes were told."""
    rows = connection.execute(_changed(judgement).where(presence.c.device_id.in_(device_ids))).mappings().all()
    at_ms = now_ms()
    fresh = [
        {"device_id": row["device_id"], "online": row["last_seen_ms"] >= judgement.cutoff_ms, "since_ms": at_ms}
        for row in rows
        if row["online"] is None
    ]
    if fresh:
        connection.execute(presence_reports.insert(), fresh)
    lost = [row for row in rows if row["online"]]
    back = [row for row in rows if row["online"] is not None and not row["online"]]
    for changed, is_online in ((lost, False), (back, True)):
        chosen = presence_reports.c.device_id.in_([row["device_id"] for row in changed])
        if changed:
            connection.execute(presence_reports.update().where(chosen).values(online=is_online, since_ms=at_ms))
    _log_offline(connection, lost, at_ms)
    for row in lost:
        emit(connection, "device.offline", row["device_key"], _facts(row) | {"offline_after_s": judgement.after_s})
    for row in back:
        facts = _facts(row) | {"offline_since": iso_text(row["since_ms"])}
        emit(connection, "device.back", row["device_key"], facts)
    return len(lost) + len(back)


def _changed(judgement: Judgement) -> sa.Select[tuple[object, ...]]:
    """Select devices without a report, online ones that are silent, and offline ones that were heard."""
    heard = presence.c.last_seen_ms >= judgement.cutoff_ms
    reports = presence_reports.c
    back = sa.and_(heard, sa.or_(reports.device_id.is_(None), sa.not_(reports.online)))
    silent = sa.and_(sa.not_(heard), sa.or_(reports.device_id.is_(None), reports.online))
    columns = (presence.c.device_id, presence.c.last_seen_ms, reports.online, reports.since_ms)
    joined = presence.join(devices, devices.c.id == presence.c.device_id).outerjoin(
        presence_reports, reports.device_id == presence.c.device_id
    )
    return (
        sa.select(*columns, devices.c.device_key, devices.c.device_type)
        .select_from(joined)
        .where(sa.or_(back, silent) if judgement.is_settled else back)
    )


def _facts(row: sa.RowMapping) -> dict[str, object]:
    return {"device_type": row["device_type"], "last_seen": iso_text(row["last_seen_ms"])}


def _log_offline(connection: sa.Connection, rows: Sequence[sa.RowMapping], at_ms: int) -> None:
    values = [
        {"device_id": row["device_id"], "at_ms": at_ms, "event": OFFLINE, "host": "", "remote": ""} for row in rows
    ]
    if values:
        connection.execute(connection_logs.insert(), values)


async def watch_presence(state: ServerState) -> None:
    """Look at an interval until cancelled; without `alert_offline_after_s` do nothing."""
    after_s = state.settings.alert_offline_after_s
    if not after_s:
        return
    listening_since_ms = looked_ms = now_ms()
    while True:
        began_s, at_ms = time.monotonic(), now_ms()
        if not 0 <= at_ms - looked_ms <= LONGEST_S * 1000 + after_s * 500:
            listening_since_ms = at_ms  # the machine slept, or its clock was set
        try:
            await _look(state, judge(at_ms, listening_since_ms, after_s))
            looked_ms = now_ms()
        except MeetingctlError as exc:
            log.warning("presence is not watched", extra={"error": exc.message})
            listening_since_ms = now_ms()  # heartbeats may not have been written either
        except Exception:  # a boundary: one bad row must not end the coroutine that serves all
            log.exception("presence is not watched")
        took_s = time.monotonic() - began_s
        pause_s = min(LONGEST_S, max(min(EVERY_S, after_s / 4), took_s * 9))
        await asyncio.sleep(pause_s * _JITTER.uniform(0.8, 1.2))


async def _look(state: ServerState, judgement: Judgement) -> None:
    """Go through all devices once, page by page."""

    def find(after_id: int) -> list[int]:
        with state.database.read() as connection:
            return find_changes(connection, judgement, after_id)

    after_id = 0
    while ids := await asyncio.to_thread(find, after_id):
        await state.writer.run_async(lambda connection, ids=ids: tell_changes(connection, judgement, ids))  # type: ignore[misc]
        after_id = ids[-1]
