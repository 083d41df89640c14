"""Heartbeat, availability and connection log (contract sections 5.4 and 5.5)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import InvalidInput, NotFound
from meetingctl.server.devices import store
from meetingctl.server.devices.heartbeat import BODY_CAP_BYTES
from meetingctl.server.devices.model import availability
from meetingctl.server.devices.routes import Admin, ViewerOrDevice
from meetingctl.server.front import read_body
from meetingctl.server.http import Body, SuccessReply, actor_of, describe, facts_of, need, query_int, server_of
from meetingctl.server.identity.principal import Principal, Role

router = APIRouter(tags=["presence"])


class HeartbeatDocument(Body):
    """Every field is optional; invalid ones are dropped, unknown ones ignored."""

    ip_address: Any = None
    ip_lan: Any = None
    ip_public: Any = None
    mac: Any = None
    cluster_ip: Any = None
    note: Any = None
    token_code: Any = None
    installed_version: Any = None


class HeartbeatReply(BaseModel):
    ok: bool
    ip_address: str | None
    last_seen: str


class AvailabilityReply(BaseModel):
    status: str
    last_heartbeat: str | None
    since: str | None
    uptime: int | None


class LastSeenReply(BaseModel):
    device_key: str
    last_seen: str | None


class LogEntry(BaseModel):
    timestamp: str
    event: str
    host: str
    remote: str


@router.post("/api/devices/{device_key}/online", **describe(HeartbeatReply, 404, body=HeartbeatDocument))
@router.post("/api/status/{device_key}/online", **describe(HeartbeatReply, 404, body=HeartbeatDocument))
async def online(request: Request, device_key: str) -> Response:
    """Accept a heartbeat.

    The front answers this path before routing; this is the same code behind a route, for the OpenAPI document.
    """
    server, facts = server_of(request), facts_of(request)
    body = await read_body(request.scope, request.receive, cap_bytes=BODY_CAP_BYTES)
    if body is None:
        raise InvalidInput("Incomplete body")
    payload = await server.heartbeats.accept(device_key, request.scope["headers"], facts, body)
    return Response(payload, media_type="application/json")


@router.get("/api/devices/{device_key}/availability", **describe(AvailabilityReply, 404))
def get_availability(
    request: Request,
    device_key: str,
    principal: Annotated[Principal, need(Role.VIEWER, device=True, compat_anonymous=True)],
) -> dict[str, Any]:
    """Say whether a device is available; an unknown one has status Unknown (decision D-UNKNOWNDEV)."""
    server = server_of(request)
    try:
        with server.database.read() as connection:
            last_seen_ms = store.get_device(connection, device_key)["last_seen_ms"]
    except NotFound:
        last_seen_ms = None
    return availability(last_seen_ms, now_ms(), server.settings.heartbeat_timeout_s)


@router.get("/api/status/{device_key}/last-seen", **describe(LastSeenReply, 404))
@router.get("/api/devices/{device_key}/last-seen", **describe(LastSeenReply, 404))
def get_last_seen(request: Request, device_key: str, principal: ViewerOrDevice) -> dict[str, Any]:
    """Show the time of the last heartbeat."""
    with server_of(request).database.read() as connection:
        row = store.get_device(connection, device_key)
    return {"device_key": row["device_key"], "last_seen": wire_text(row["last_seen_ms"])}


_LOG_QUERY = {"limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}}


@router.get("/api/devices/{device_key}/logs", **describe(list[LogEntry], 404, query=_LOG_QUERY))
def get_logs(request: Request, device_key: str, principal: ViewerOrDevice) -> Response:
    """Show the connection log, newest first."""
    limit = query_int(request, "limit", 100, 1, 1000)
    with server_of(request).database.read() as connection:
        rows = store.list_logs(connection, store.get_device(connection, device_key)["id"], limit)
    entries = [
        {"timestamp": wire_text(row["at_ms"]), "event": row["event"], "host": row["host"], "remote": row["remote"]}
        for row in rows
    ]
    return Response(msgspec.json.encode(entries), media_type="application/json")


@router.post("/api/devices/{device_key}/purge-logs", **describe(SuccessReply, 404))
def purge_logs(request: Request, device_key: str, principal: Admin) -> dict[str, Any]:
    """Delete the connection log; the audit log keeps a record."""
    actor = actor_of(request, principal)
    server_of(request).writer.run(lambda connection: store.purge_logs(connection, actor, device_key))
    return {"success": True}
