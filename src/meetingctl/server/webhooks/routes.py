"""Webhooks: addresses that hear what happens, and what became of each delivery."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from meetingctl.client.hooks import URL_CAP, parse_hook_url
from meetingctl.core.clock import wire_text
from meetingctl.core.errors import InvalidInput
from meetingctl.server.http import (
    MAX_INT,
    Body,
    SuccessReply,
    Text,
    actor_of,
    body_of,
    describe,
    need,
    query_int,
    server_of,
    with_error,
)
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.sealing import seal
from meetingctl.server.state import ServerState
from meetingctl.server.webhooks import store
from meetingctl.server.webhooks.deliveries import delivery_name
from meetingctl.server.webhooks.outbox import ALL, EVENTS
from meetingctl.server.webhooks.signing import new_secret

router = APIRouter(tags=["webhooks"])

# Not even mode legacy-open lets somebody without a credential send requests from this server.
HookAdmin = Annotated[Principal, need(Role.ADMIN, open_mode=False, permission="admin:full")]
HookId = Annotated[str, Path(alias="id")]
STATES = ("waiting", "delivered", "dead")
_SECRET_LEAST = 16


class WebhookItem(BaseModel):
    id: int
    url: str
    events: list[str]
    active: bool
    created_by: str
    created_at: str


class WebhookWithSecret(WebhookItem):
    """The secret is here once, when it is new, and nowhere else."""

    secret: str | None = None


class WebhooksReply(BaseModel):
    webhooks: list[WebhookItem]


class WebhookBody(Body):
    url: Text = with_error("Invalid url", min_length=1, max_length=URL_CAP)
    events: list[Text] = Field(default=[ALL], min_length=1, max_length=32)
    secret: Text | None = Field(default=None, min_length=_SECRET_LEAST, max_length=256)
    active: bool = True


class WebhookChange(Body):
    url: Text | None = Field(default=None, min_length=1, max_length=URL_CAP)
    events: list[Text] | None = Field(default=None, min_length=1, max_length=32)
    secret: Text | None = Field(default=None, min_length=_SECRET_LEAST, max_length=256)
    new_secret: bool = False
    active: bool | None = None


class DeliveryItem(BaseModel):
    id: int
    name: str
    event: str
    subject: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: str
    next_attempt_at: str | None
    finished_at: str | None
    body: dict[str, Any]


class DeliveriesReply(BaseModel):
    deliveries: list[DeliveryItem]
    next: int | None


_DELIVERIES_QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "before": {"type": "integer", "minimum": 0},
    "state": {"type": "string", "enum": list(STATES)},
}


@router.get("/api/webhooks", **describe(WebhooksReply))
def list_webhooks(request: Request, principal: HookAdmin) -> dict[str, Any]:
    """List the webhooks, without their secrets."""
    with server_of(request).database.read() as connection:
        return {"webhooks": [_shown(row) for row in store.list_webhooks(connection)]}


@router.post("/api/webhooks", **describe(WebhookWithSecret, 409, body=WebhookBody))
def create_webhook(
    request: Request, principal: HookAdmin, body: Annotated[WebhookBody, Depends(body_of(WebhookBody))]
) -> dict[str, Any]:
    """Add a webhook; its secret is in this answer and nowhere else."""
    server, actor = server_of(request), actor_of(request, principal)
    parse_hook_url(body.url)
    events, secret = _checked_events(body.events), body.secret or new_secret()
    sealed = _sealed(server, secret)
    row = server.writer.run(
        lambda c: store.create_webhook(c, actor, url=body.url, events=events, secret_sealed=sealed, active=body.active)
    )
    return _shown(row) | {"secret": secret}


@router.get("/api/webhooks/{id}", **describe(WebhookItem, 404))
def get_webhook(request: Request, hook_id: HookId, principal: HookAdmin) -> dict[str, Any]:
    """Show a webhook, without its secret."""
    number = parse_id(hook_id)
    with server_of(request).database.read() as connection:
        return _shown(store.get_webhook(connection, number))


@router.put("/api/webhooks/{id}", **describe(WebhookWithSecret, 404, 409, body=WebhookChange))
def change_webhook(
    request: Request,
    hook_id: HookId,
    principal: HookAdmin,
    body: Annotated[WebhookChange, Depends(body_of(WebhookChange))],
) -> dict[str, Any]:
    """Change a webhook; `new_secret` makes another secret, which this answer shows once."""
    server, actor, number = server_of(request), actor_of(request, principal), parse_id(hook_id)
    changes: dict[str, Any] = {}
    if body.url is not None:
        parse_hook_url(body.url)
        changes["url"] = body.url
    if body.events is not None:
        changes["events"] = _checked_events(body.events)
    if body.active is not None:
        changes["active"] = body.active
    secret = body.secret or (new_secret() if body.new_secret else None)
    if secret is not None:
        changes["secret_sealed"] = _sealed(server, secret)
    if not changes:
        raise InvalidInput("Nothing to update")
    row = server.writer.run(lambda connection: store.change_webhook(connection, actor, number, changes))
    return _shown(row) | ({"secret": secret} if secret is not None else {})


@router.delete("/api/webhooks/{id}", **describe(SuccessReply, 404))
def delete_webhook(request: Request, hook_id: HookId, principal: HookAdmin) -> dict[str, Any]:
    """Remove a webhook with its deliveries."""
    actor, number = actor_of(request, principal), parse_id(hook_id)
    server_of(request).writer.run(lambda connection: store.delete_webhook(connection, actor, number))
    return {"success": True}


@router.post("/api/webhooks/{id}/ping", **describe(DeliveryItem, 404, 409))
def ping_webhook(request: Request, hook_id: HookId, principal: HookAdmin) -> dict[str, Any]:
    """Queue a delivery of event `ping`."""
    actor, number = actor_of(request, principal), parse_id(hook_id)
    return _delivery(server_of(request).writer.run(lambda c: store.ping_webhook(c, actor, number)))


@router.get("/api/webhooks/{id}/deliveries", **describe(DeliveriesReply, 404, query=_DELIVERIES_QUERY))
def list_deliveries(request: Request, hook_id: HookId, principal: HookAdmin) -> dict[str, Any]:
    """List deliveries, newest first; `next` is the `before` of the following page."""
    number, limit = parse_id(hook_id), query_int(request, "limit", 100, 1, 1000)
    before, state = query_int(request, "before", 0, 0, MAX_INT), request.query_params.get("state", "")
    if state and state not in STATES:
        raise InvalidInput("Invalid state", hint=f"use {', '.join(STATES)}")
    with server_of(request).database.read() as connection:
        rows = store.list_deliveries(connection, number, limit=limit + 1, before=before, state=state)
    return {
        "deliveries": [_delivery(row) for row in rows[:limit]],
        "next": rows[limit - 1]["id"] if len(rows) > limit else None,
    }


@router.post("/api/webhooks/{id}/deliveries/{delivery_id}/redeliver", **describe(DeliveryItem, 404, 409))
def redeliver(request: Request, hook_id: HookId, delivery_id: str, principal: HookAdmin) -> dict[str, Any]:
    """Send a delivery again that was delivered or given up."""
    actor, number, delivery = actor_of(request, principal), parse_id(hook_id), parse_id(delivery_id)
    return _delivery(server_of(request).writer.run(lambda c: store.redeliver(c, actor, number, delivery)))


def parse_id(text: str) -> int:
    """Read the number of a row. Raises: InvalidInput."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > MAX_INT:
        raise InvalidInput("Invalid id")
    return int(text)


def _checked_events(events: list[str]) -> list[str]:
    for event in events:
        if event not in (*EVENTS, ALL):
            raise InvalidInput("Unknown event", hint=f"use {', '.join(EVENTS)}, or {ALL} for all")
    return [ALL] if ALL in events else [event for event in EVENTS if event in events]


def _sealed(server: ServerState, secret: str) -> str:
    return seal(server.settings, server.data_dir, secret)


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "url": row["url"],
        "events": row["events"],
        "active": bool(row["active"]),
        "created_by": row["created_by"],
        "created_at": wire_text(row["created_at_ms"]),
    }


def _delivery(row: Any) -> dict[str, Any]:
    body = json.loads(row["body"])
    return {
        "id": row["id"],
        "name": delivery_name(row["id"], row["created_at_ms"]),
        "event": row["event"],
        "subject": body["subject"],
        "state": row["state"],
        "attempts": row["attempts"],
        "last_status": row["last_status"],
        "last_error": row["last_error"],
        "created_at": wire_text(row["created_at_ms"]),
        "next_attempt_at": wire_text(row["next_attempt_ms"]),
        "finished_at": wire_text(row["finished_at_ms"]),
        "body": body,
    }
