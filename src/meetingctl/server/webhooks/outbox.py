"""Queue what webhooks are to hear, in the transaction of the change itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import iso_text, now_ms
from meetingctl.server.db.schema import webhook_deliveries, webhooks

log = logging.getLogger(__name__)

EVENTS = (
    "device.offline",
    "device.back",
    "tunnel.opened",
    "release.published",
    "update.failed",
    "rollout.paused",
    "rollout.finished",
)
ALL = "*"
PING = "ping"
MAX_WAITING = 10_000  # of one webhook; what comes beyond is dropped


def emit(connection: sa.Connection, event: str, subject: str, facts: Mapping[str, Any]) -> int:
    """Queue a delivery for each active webhook that wants the event; return how many."""
    query = sa.select(webhooks.c.id, webhooks.c.events).where(webhooks.c.active)
    wanting = [row.id for row in connection.execute(query) if event in row.events or ALL in row.events]
    wanting = [webhook_id for webhook_id in wanting if not _is_full(connection, webhook_id, event)]
    queue(connection, wanting, event, subject, facts)
    return len(wanting)


def queue(
    connection: sa.Connection, webhook_ids: Sequence[int], event: str, subject: str, facts: Mapping[str, Any]
) -> None:
    """Queue a delivery for each of these webhooks."""
    at_ms = now_ms()
    body = json.dumps({"event": event, "subject": subject, "at": iso_text(at_ms), "facts": dict(facts)})
    values = [
        {
            "webhook_id": webhook_id,
            "event": event,
            "body": body,
            "state": "waiting",
            "attempts": 0,
            "next_attempt_ms": at_ms,
            "created_at_ms": at_ms,
        }
        for webhook_id in webhook_ids
    ]
    if values:
        connection.execute(webhook_deliveries.insert(), values)


def _is_full(connection: sa.Connection, webhook_id: int, event: str) -> bool:
    waiting = (
        sa.select(webhook_deliveries.c.id)
        .where(webhook_deliveries.c.webhook_id == webhook_id, webhook_deliveries.c.state == "waiting")
        .limit(MAX_WAITING)
        .subquery()
    )
    if connection.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one() < MAX_WAITING:
        return False
    log.warning("webhook has too many deliveries that wait", extra={"webhook": webhook_id, "event": event})
    return True
