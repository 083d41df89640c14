"""Tunnel endpoints (contract section 5.2 and `request-port`), and the operator's own: show, close, figures."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from pydantic import AliasChoices, BaseModel, Field

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import AuthError, Forbidden, InvalidInput, NotFound
from meetingctl.core.net import parse_networks
from meetingctl.core.services import TUNNEL_SERVICES, service_url
from meetingctl.server.devices.routes import Operator, OperatorOrDevice
from meetingctl.server.devices.store import Choice, get_device
from meetingctl.server.http import (
    Access,
    Body,
    SuccessReply,
    Text,
    actor_of,
    authorize,
    body_of,
    describe,
    facts_of,
    need,
    parse_body,
    presented,
    read_json,
    server_of,
    with_error,
)
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.state import ServerState
from meetingctl.server.tunnels import ports, status

router = APIRouter(tags=["tunnels"])

Viewer = Annotated[Principal, need(Role.VIEWER, limits="both")]
Closer = Annotated[Principal, need(Role.OPERATOR, limits="both")]

Port = Annotated[int, Field(ge=1, le=65535)]
_TTL_MAX_S = 31_536_000


class TunnelItem(BaseModel):
    device_key: str
    service: str
    port: int
    local_port: int
    expires_at: str | None


class TunnelListReply(BaseModel):
    tunnels: list[TunnelItem]


class ServiceRequestBody(Body):
    """`type` is what existing devices send instead of `service` (decision D-SVCALIAS)."""

    service: Text = Field(
        validation_alias=AliasChoices("service", "type"), json_schema_extra={"error": "Missing service param"}
    )
    port: Any = None
    ttl_s: float | None = Field(default=None, ge=1, le=_TTL_MAX_S)
    allow_from: list[Text] | None = Field(default=None, min_length=1, max_length=64)


class OpenedReply(BaseModel):
    port: int
    url: str
    expires_at: str | None


class PortRequestBody(Body):
    device_key: Text | None = Field(default=None, validation_alias=AliasChoices("device_key", "devicekey"))
    service: Text = "ssh"
    port: Any = None


class PortReply(BaseModel):
    status: str
    port: int
    service: str
    device_key: str


class PrecheckReply(BaseModel):
    ok: bool
    device_key: str
    authorized: bool
    token_code: str
    token_count: int
    distribution: str | None
    registered_at: str | None


class PendingReply(BaseModel):
    pending: bool
    request: dict[str, Any] | None = None


class StatusBody(Body):
    service: Text = with_error("Missing service param", min_length=1, max_length=64)
    port: Port | None = None
    url: Text | None = Field(default=None, max_length=512)
    upnp: Any = None
    error: Text | None = Field(default=None, max_length=2000)


class StatusReply(BaseModel):
    ok: bool
    status: dict[str, Any]


class TunnelReply(TunnelItem):
    opened_at: str | None
    requested_by: str | None
    allow_from: list[str] | None
    online: bool
    agent: dict[str, Any] | None
    streams: int
    bytes_in: int
    bytes_out: int
    url: str


class ClosedReply(SuccessReply):
    closed: int


class StatsReply(BaseModel):
    stats: list[dict[str, Any]]
    agents: list[dict[str, Any]]


def _item(row: Any) -> dict[str, Any]:
    return {
        "device_key": row["device_key"],
        "service": row["service"],
        "port": row["port"],
        "local_port": row["local_port"],
        "expires_at": wire_text(row["expires_at_ms"]),
    }


@router.get("/api/tunnels", **describe(TunnelListReply))
def list_tunnels(
    request: Request, principal: Annotated[Principal, need(Role.VIEWER, services=("proxy",), limits="both")]
) -> dict[str, Any]:
    """List the tunnels that are open."""
    with server_of(request).database.read() as connection:
        return {"tunnels": [_item(row) for row in ports.list_tunnels(connection, _within(principal))]}


def _within(principal: Principal) -> sa.ColumnElement[bool]:
    """Return the condition that a tunnel belongs to a device within the limits of the caller's key."""
    return Choice(allowed_types=principal.device_types, allowed_tags=principal.tags).clause()


@router.get("/api/tunnels/stats", **describe(StatsReply, query={"device_key": {"type": "string"}}))
def tunnel_stats(request: Request, principal: Viewer) -> dict[str, Any]:
    """Show visits and bytes per device and service, and the agents that are connected."""
    device_key = request.query_params.get("device_key", "")[:128]
    with server_of(request).database.read() as connection:
        return status.stats(connection, device_key, _within(principal))


@router.post("/api/tunnels/close-all", **describe(ClosedReply))
def close_all(request: Request, principal: Operator) -> dict[str, Any]:
    """Close every tunnel."""
    server, actor = server_of(request), actor_of(request, principal)
    closed = server.writer.run(lambda connection: ports.close_all_tunnels(connection, actor))
    server.changes.announce()
    return {"success": True, "closed": closed}


@router.get("/api/tunnels/{port}", **describe(TunnelReply, 404))
def show_tunnel(request: Request, port: str, principal: Viewer) -> dict[str, Any]:
    """Show one tunnel, named by its public port, with live figures."""
    server = server_of(request)
    with server.database.read() as connection:
        row = ports.find_tunnel(connection, _port_number(port), _within(principal))
        live = status.live_figures(connection, row["device_id"])
    url = service_url(row["service"], server.settings.tunnel_public_host, row["port"])
    shown = {
        "opened_at": wire_text(row["opened_at_ms"]),
        "requested_by": row["requested_by"],
        "allow_from": row["allow_from"],
        "url": url,
    }
    return _item(row) | shown | live


@router.delete("/api/tunnels/{port}", **describe(SuccessReply, 404))
def close_tunnel(request: Request, port: str, principal: Closer) -> dict[str, Any]:
    """Close one tunnel, named by its public port."""
    server, actor = server_of(request), actor_of(request, principal)
    number, within = _port_number(port), _within(principal)

    def change(connection: Any) -> None:
        if principal.is_limited:
            ports.find_tunnel(connection, number, within)
        ports.close_tunnel(connection, actor, number)

    server.writer.run(change)
    server.changes.announce()
    return {"success": True}


def _port_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise NotFound("Tunnel not found", hint="meetingctl tunnel list")
    return int(text)


async def _may_open(request: Request) -> Principal:
    device_too = server_of(request).settings.tunnel_device_may_request
    return await authorize(request, Access(Role.OPERATOR, device=device_too), request.path_params["device_key"])


@router.post("/api/devices/{device_key}/service", **describe(OpenedReply, 404, 500, body=ServiceRequestBody))
def open_tunnel(
    request: Request,
    device_key: str,
    principal: Annotated[Principal, Depends(_may_open)],
    body: Annotated[ServiceRequestBody, Depends(body_of(ServiceRequestBody))],
) -> dict[str, Any]:
    """Request a tunnel; the same request again renews it."""
    server = server_of(request)
    row = _reserve(request, principal, device_key, body.service, body.port, ttl_s=body.ttl_s, allow=body.allow_from)
    return {
        "port": row["port"],
        "url": service_url(body.service, server.settings.tunnel_public_host, row["port"]),
        "expires_at": wire_text(row["expires_at_ms"]),
    }


def _reserve(
    request: Request,
    principal: Principal,
    device_key: str,
    service: str,
    port: Any,
    *,
    ttl_s: float | None = None,
    allow: list[str] | None = None,
) -> Any:
    """Check the request, reserve the port, tell the proxy."""
    server, actor = server_of(request), actor_of(request, principal)
    if service not in TUNNEL_SERVICES:
        raise InvalidInput("Unsupported service", hint=f"use {', '.join(TUNNEL_SERVICES)}")
    relay_port = _relay_port(server, port) if service == "relay" else None
    allow_from = _allow_from(server, principal, allow, facts_of(request).peer)
    ttl_s = server.settings.tunnel_ttl_s if ttl_s is None else ttl_s

    def change(connection: Any) -> Any:
        overrides = get_device(connection, device_key)["local_ports"]
        local_port = relay_port or ports.usual_local_port(server.settings, overrides, service)
        ttl_ms = int(ttl_s * 1000) or None
        wanted = ports.PortRequest(device_key, service, local_port, ttl_ms, allow_from, is_choice=allow is not None)
        return ports.reserve_port(connection, actor, wanted)

    row = server.writer.run(change)
    server.changes.announce()
    return row


def _relay_port(server: ServerState, port: Any) -> int:
    """Check the port of a relay. Raises: InvalidInput when it is missing, Forbidden when it is not on the list."""
    if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) <= 5:
        port = int(port)
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise InvalidInput("Missing relay port")
    if port not in server.settings.tunnel_relay_ports:
        raise Forbidden(
            "Relay port not allowed", hint="MEETINGCTL_TUNNEL_RELAY_PORTS of the server lists the allowed ones"
        )
    return port


def _allow_from(server: ServerState, principal: Principal, asked: list[str] | None, peer: str) -> list[str] | None:
    """Return the networks that may visit, None for everybody. A device's own request never means its own address."""
    rule = asked or list(server.settings.tunnel_allow_from)
    if not rule:
        rule = ["requester"] if server.settings.mode == "enforce" and principal.kind != "device" else ["any"]
    if "any" in rule or (principal.kind == "device" and rule == ["requester"]):
        return None
    listed = [peer if word == "requester" else word for word in rule]
    return [str(network) for network in parse_networks(listed)]


_PORT_ERRORS = (404, 503)


@router.post("/api/forcecommand/request-port", **describe(PortReply, *_PORT_ERRORS, body=PortRequestBody))
async def request_port(request: Request) -> dict[str, Any]:
    """Reserve a port; the device key stands in the body or in the query."""
    value = await read_json(request)
    device_key = value.get("device_key") or value.get("devicekey") or request.query_params.get("device_key")
    if not isinstance(device_key, str) or not device_key:
        if not presented(request) and server_of(request).settings.mode != "legacy-open":
            raise AuthError("Unauthorized", hint="meetingctl login")
        raise InvalidInput("Missing device_key")
    return await _request_port(request, device_key, value)


@router.post(
    "/api/devices/{device_key}/request-tunnel-port", **describe(PortReply, *_PORT_ERRORS, body=PortRequestBody)
)
async def request_tunnel_port(request: Request, device_key: str) -> dict[str, Any]:
    """The alias with the key in the path, which wins (decision D-ALIAS)."""
    value = await read_json(request)
    named = value.get("device_key") or value.get("devicekey") or device_key
    if named != device_key:
        raise InvalidInput("device_key does not match the path")
    return await _request_port(request, device_key, value)


async def _request_port(request: Request, device_key: str, value: dict[str, Any]) -> dict[str, Any]:
    from starlette.concurrency import run_in_threadpool

    principal = await authorize(request, Access(Role.OPERATOR, device=True), device_key)
    body = parse_body(PortRequestBody, value)
    server = server_of(request)

    def reserve() -> dict[str, Any]:
        _refuse_offline(server, device_key)
        row = _reserve(request, principal, device_key, body.service, body.port)
        return {"status": "ok", "port": row["port"], "service": body.service, "device_key": device_key}

    return await run_in_threadpool(reserve)


def _refuse_offline(server: ServerState, device_key: str) -> None:
    """Raises: NotFound, Forbidden for a device that is not authorized or was not seen lately (decision D-OFFLINE)."""
    with server.database.read() as connection:
        row = get_device(connection, device_key)
    if not row["authorized"]:
        raise Forbidden("Device not authorized", hint=f"meetingctl fleet authorize {device_key}")
    age_ms = now_ms() - (row["last_seen_ms"] or 0)
    if age_ms > server.settings.tunnel_max_last_seen_s * 1000:
        raise Forbidden("Device offline (no recent heartbeat)")


@router.post("/api/devices/{device_key}/authorize-tunnel", **describe(PrecheckReply, 404))
def authorize_tunnel(
    request: Request,
    device_key: str,
    principal: Annotated[Principal, need(Role.OPERATOR, device=True, services=("proxy",))],
) -> dict[str, Any]:
    """Say whether a device is authorized and has tokens; consumes none."""
    with server_of(request).database.read() as connection:
        row = get_device(connection, device_key)
    if not row["authorized"]:
        raise Forbidden("Device not authorized", hint=f"meetingctl fleet authorize {device_key}")
    if row["token_count"] <= 0:
        raise Forbidden("No tokens left", hint=f"meetingctl fleet tokens {device_key} --set 1")
    plain = principal.may_see_secrets(device_key) or principal.service == "proxy"
    return {
        "ok": True,
        "device_key": device_key,
        "authorized": True,
        "token_code": row["token_code"] if plain else "******",
        "token_count": row["token_count"],
        "distribution": row["distribution"],
        "registered_at": wire_text(row["registered_at_ms"]),
    }


@router.get("/api/devices/{device_key}/tunnel-pending", **describe(PendingReply, 404))
def tunnel_pending(request: Request, device_key: str, principal: OperatorOrDevice) -> dict[str, Any]:
    """Show the tunnel request that waits for the device; reading changes nothing (decision D-PENDING)."""
    with server_of(request).database.read() as connection:
        row = ports.pending_tunnel(connection, get_device(connection, device_key)["id"])
    if row is None:
        return {"pending": False}
    waiting = {
        "service": row["service"],
        "port": row["port"],
        "local_port": row["local_port"],
        "requested_at": wire_text(row["opened_at_ms"]),
        "expires_at": wire_text(row["expires_at_ms"]),
    }
    return {"pending": True, "request": waiting}


@router.post("/api/devices/{device_key}/tunnel-status", **describe(StatusReply, 404, body=StatusBody))
def set_tunnel_status(
    request: Request,
    device_key: str,
    principal: Annotated[Principal, need(Role.OPERATOR, device=True)],
    body: Annotated[StatusBody, Depends(body_of(StatusBody))],
) -> dict[str, Any]:
    """Store what an agent says of one of its tunnels."""
    record = status.status_record(body.model_dump())
    server_of(request).writer.run(lambda connection: status.store_status(connection, device_key, record))
    return {"ok": True, "status": record}
