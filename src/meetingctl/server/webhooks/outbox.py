"""Queue what webhooks are to hear, in the transaction of the change itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import iso_text, now_ms
from meetingctl.server.db.schema import webhook_deliveries, webhooks


def emit(connection: sa.Connection, event: str, subject: str, facts: Mapping[str, Any]) -> int:
    """Queue a delivery for each active webhook that wants the event; return how many."""
    at_ms = now_ms()
    query = sa.select(webhooks.c.id, webhooks.c.events).where(webhooks.c.active)
    wanting = [row.id for row in connection.execute(query) if event in row.events or "*" in row.events]
    if not wanting:
        return 0
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
        for webhook_id in wanting
    ]
    connection.execute(webhook_deliveries.insert(), values)
    return len(wanting)
