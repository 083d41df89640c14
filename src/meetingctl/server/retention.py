"""Drop records that are older than the settings say, in batches that hold nobody up."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.settings import Settings
from meetingctl.server.db.schema import (
    connection_logs,
    device_key_log,
    device_updates,
    refresh_tokens,
    tunnel_visits,
    update_attempts,
    webhook_deliveries,
)
from meetingctl.server.state import ServerState

log = logging.getLogger(__name__)
BATCH_ROWS = 1000
MOST_BATCHES = 100  # of one table at a time; the next sweep goes on
_PAUSE_S = 0.02
_EXPIRED_KEEP_S = 86_400.0


class Rule(NamedTuple):
    """Rows of `table` whose `column` (milliseconds) is older than `keep_s` go."""

    table: sa.Table
    column: sa.Column[Any]
    keep_s: float
    unless: tuple[sa.ColumnElement[bool], ...] = ()


def rules_of(settings: Settings) -> list[Rule]:
    """Return the rules that are on. A device's last update attempt stays, however old."""
    is_last = sa.exists().where(
        device_updates.c.device_id == update_attempts.c.device_id, device_updates.c.attempt_id == update_attempts.c.id
    )
    rules = [
        Rule(connection_logs, connection_logs.c.at_ms, settings.keep_connection_logs_s),
        Rule(tunnel_visits, tunnel_visits.c.opened_at_ms, settings.keep_tunnel_visits_s),
        Rule(device_key_log, device_key_log.c.at_ms, settings.keep_key_log_s),
        Rule(
            update_attempts,
            update_attempts.c.created_at_ms,
            settings.keep_update_attempts_s,
            (~is_last,),
        ),
        Rule(refresh_tokens, refresh_tokens.c.expires_at_ms, _EXPIRED_KEEP_S),
    ]
    return [rule for rule in rules if rule.keep_s]


def drop_old(connection: sa.Connection, rule: Rule, at_ms: int) -> int:
    """Drop one batch, oldest first; return how many rows went."""
    oldest = (
        sa.select(rule.table.c.id)
        .where(rule.column < at_ms - int(rule.keep_s * 1000), *rule.unless)
        .order_by(rule.column)
        .limit(BATCH_ROWS)
    )
    return connection.execute(rule.table.delete().where(rule.table.c.id.in_(oldest))).rowcount


def drop_old_deliveries(connection: sa.Connection, keep_s: float, at_ms: int) -> int:
    """Drop one batch of deliveries: among the first ones by number those that are old; return how many went.

    Their time has no index, and needs none: they are numbered as they come.
    """
    first = sa.select(webhook_deliveries.c.id).order_by(webhook_deliveries.c.id).limit(BATCH_ROWS)
    is_old = webhook_deliveries.c.created_at_ms < at_ms - int(keep_s * 1000)
    return connection.execute(webhook_deliveries.delete().where(webhook_deliveries.c.id.in_(first), is_old)).rowcount


async def drop_all_old(state: ServerState) -> int:
    """Apply every rule; return how many rows went. A table whose turn fails waits for the next sweep."""
    gone = 0
    settings = state.settings
    for rule in rules_of(settings):
        gone += await _repeat(state, rule.table.name, lambda c, rule=rule: drop_old(c, rule, now_ms()))
    if settings.keep_deliveries_s:
        keep_s = settings.keep_deliveries_s
        gone += await _repeat(state, "webhook_deliveries", lambda c: drop_old_deliveries(c, keep_s, now_ms()))
    return gone


async def _repeat(state: ServerState, name: str, drop: Any) -> int:
    gone = 0
    try:
        for _ in range(MOST_BATCHES):
            count = int(await state.writer.run_async(drop))
            gone += count
            if count < BATCH_ROWS:
                break
            await asyncio.sleep(_PAUSE_S)
    except MeetingctlError as exc:
        log.warning("old records stay", extra={"table": name, "error": exc.message})
    if gone:
        log.info("dropped old records", extra={"table": name, "rows": gone})
    return gone
