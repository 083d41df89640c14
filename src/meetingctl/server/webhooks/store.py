"""Webhooks in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Conflict, NotFound
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import webhook_deliveries, webhooks
from meetingctl.server.webhooks.outbox import PING, queue

MAX_WEBHOOKS = 100


def list_webhooks(connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """Return all webhooks, oldest first."""
    return connection.execute(sa.select(webhooks).order_by(webhooks.c.id)).mappings().all()


def get_webhook(connection: sa.Connection, webhook_id: int) -> sa.RowMapping:
    """Return one webhook. Raises: NotFound."""
    row = connection.execute(sa.select(webhooks).where(webhooks.c.id == webhook_id)).mappings().first()
    if row is None:
        raise NotFound("Webhook not found", hint="meetingctl fleet webhooks list")
    return row


def create_webhook(
    connection: sa.Connection, actor: Actor, *, url: str, events: Sequence[str], secret_sealed: str, active: bool
) -> sa.RowMapping:
    """Add a webhook. Raises: Conflict when there are too many, or one with this address."""
    known = list_webhooks(connection)
    if any(row["url"] == url for row in known):
        raise Conflict("Webhook exists already", hint="meetingctl fleet webhooks list")
    if len(known) >= MAX_WEBHOOKS:
        raise Conflict(f"There are {MAX_WEBHOOKS} webhooks already", hint="meetingctl fleet webhooks rm ID")
    values = {
        "url": url,
        "events": list(events),
        "secret_sealed": secret_sealed,
        "active": active,
        "created_by": actor.principal[:160],
        "created_at_ms": now_ms(),
    }
    row = connection.execute(webhooks.insert().values(values).returning(*webhooks.c)).mappings().one()
    append(connection, actor, "webhook.create", f"webhook:{row['id']}", after=audit_facts(row))
    return row


def change_webhook(connection: sa.Connection, actor: Actor, webhook_id: int, changes: dict[str, Any]) -> sa.RowMapping:
    """Write columns of a webhook. Raises: NotFound, Conflict when another one has the address."""
    before = get_webhook(connection, webhook_id)
    if any(row["url"] == changes.get("url") and row["id"] != webhook_id for row in list_webhooks(connection)):
        raise Conflict("Webhook exists already", hint="meetingctl fleet webhooks list")
    statement = webhooks.update().where(webhooks.c.id == webhook_id).values(changes).returning(*webhooks.c)
    row = connection.execute(statement).mappings().one()
    after = audit_facts(row) | ({"new_secret": True} if "secret_sealed" in changes else {})
    append(connection, actor, "webhook.update", f"webhook:{webhook_id}", before=audit_facts(before), after=after)
    return row


def delete_webhook(connection: sa.Connection, actor: Actor, webhook_id: int) -> None:
    """Remove a webhook with its deliveries. Raises: NotFound."""
    before = get_webhook(connection, webhook_id)
    connection.execute(webhook_deliveries.delete().where(webhook_deliveries.c.webhook_id == webhook_id))
    connection.execute(webhooks.delete().where(webhooks.c.id == webhook_id))
    append(connection, actor, "webhook.delete", f"webhook:{webhook_id}", before=audit_facts(before))


def ping_webhook(connection: sa.Connection, actor: Actor, webhook_id: int) -> sa.RowMapping:
    """Queue a delivery that says nothing but that it arrives; return it. Raises: NotFound, Conflict when it is off."""
    row = get_webhook(connection, webhook_id)
    if not row["active"]:
        raise Conflict("Webhook is off", hint=f"meetingctl fleet webhooks update {webhook_id} --on")
    queue(connection, [webhook_id], PING, f"webhook:{webhook_id}", {"by": actor.principal})
    append(connection, actor, "webhook.ping", f"webhook:{webhook_id}")
    return list_deliveries(connection, webhook_id, limit=1)[0]


def list_deliveries(
    connection: sa.Connection, webhook_id: int, *, limit: int, before: int = 0, state: str = ""
) -> Sequence[sa.RowMapping]:
    """Return deliveries of a webhook, newest first. Raises: NotFound."""
    get_webhook(connection, webhook_id)
    query = sa.select(webhook_deliveries).where(webhook_deliveries.c.webhook_id == webhook_id)
    if before:
        query = query.where(webhook_deliveries.c.id < before)
    if state:
        query = query.where(webhook_deliveries.c.state == state)
    return connection.execute(query.order_by(webhook_deliveries.c.id.desc()).limit(limit)).mappings().all()


def redeliver(connection: sa.Connection, actor: Actor, webhook_id: int, delivery_id: int) -> sa.RowMapping:
    """Send a delivery again, with the same body and the same name. Raises: NotFound, Conflict while it waits."""
    same = (webhook_deliveries.c.webhook_id == webhook_id, webhook_deliveries.c.id == delivery_id)
    webhook = get_webhook(connection, webhook_id)
    row = connection.execute(sa.select(webhook_deliveries).where(*same)).mappings().first()
    if row is None:
        raise NotFound("Delivery not found", hint=f"meetingctl fleet webhooks deliveries {webhook_id}")
    if row["state"] == "waiting":
        raise Conflict("Delivery waits already", hint=f"meetingctl fleet webhooks deliveries {webhook_id}")
    if not webhook["active"]:
        raise Conflict("Webhook is off", hint=f"meetingctl fleet webhooks update {webhook_id} --on")
    values = {
        "state": "waiting",
        "attempts": 0,
        "next_attempt_ms": now_ms(),
        "claimed_until_ms": None,
        "finished_at_ms": None,
    }
    statement = webhook_deliveries.update().where(*same).values(values).returning(*webhook_deliveries.c)
    again = connection.execute(statement).mappings().one()
    append(connection, actor, "webhook.redeliver", f"webhook:{webhook_id}", after={"delivery": delivery_id})
    return again


def audit_facts(row: sa.RowMapping) -> dict[str, Any]:
    """Return what the audit log keeps: of the address only its host, because a path may hold a secret."""
    host = str(row["url"]).partition("://")[2].partition("/")[0].partition("?")[0]
    return {"host": host, "events": row["events"], "active": bool(row["active"])}
