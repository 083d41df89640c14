"""Registry endpoints: list, show, change, delete, notes and services (contract sections 5.2, 5.3 and 5.7)."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Forbidden, InvalidInput
from meetingctl.core.ids import TOKEN_CODE_PATTERN, parse_token_code
from meetingctl.core.services import DECLARED_SERVICES, DEFAULT_LOCAL_PORTS, TUNNEL_SERVICES
from meetingctl.server.audit.chain import append
from meetingctl.server.devices import store
from meetingctl.server.devices.model import device_object, secret_fields
from meetingctl.server.http import (
    Bit,
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
from meetingctl.server.tunnels.ports import close_tunnels_of, follow_local_ports

router = APIRouter(tags=["devices"])

Viewer = Annotated[Principal, need(Role.VIEWER)]
Lister = Annotated[Principal, need(Role.VIEWER, limits="both")]
ViewerOrDevice = Annotated[Principal, need(Role.VIEWER, device=True)]
Reader = Annotated[Principal, need(Role.VIEWER, device=True, services=("proxy",))]
Operator = Annotated[Principal, need(Role.OPERATOR)]
OperatorOrDevice = Annotated[Principal, need(Role.OPERATOR, device=True)]
Admin = Annotated[Principal, need(Role.ADMIN)]


class DeviceReply(BaseModel):
    """A device. Secrets appear for administrators, and for the device about itself."""

    device_key: str
    device_name: str
    product_serial: str | None
    authorized: bool
    device_type: str | None
    distribution: str | None
    token_count: int
    note: str
    status_note: str
    ip_address: str | None
    ip_lan: str | None
    ip_public: str | None
    mac: str | None
    cluster_ip: str | None
    last_seen: str | None
    registered_at: str | None
    parent_device_key: str | None
    bundles: list[Any]
    ghost_candidate_url: str | None
    services: list[str]
    local_ports: dict[str, int]
    online: bool
    status: str
    installed_version: str | None
    tags: list[str]
    provision: dict[str, Any] | None = None
    token_code: str | None = None
    ap_ssid: str | None = None
    ap_password: str | None = None
    http_pw_low: str | None = None
    http_pw_medium: str | None = None
    http_pw_high: str | None = None


class DeviceListReply(BaseModel):
    """One page; `total` counts all matches."""

    devices: list[DeviceReply]
    total: int
    limit: int
    offset: int


class NoteBody(Body):
    note: Text = with_error("Missing note")


class NoteReply(BaseModel):
    note: str


class NoteSetReply(SuccessReply):
    note: str


class ServicesBody(Body):
    services: list[Text] | None = Field(default=None, max_length=64)
    local_ports: dict[Text, Annotated[int, Field(ge=1, le=65535)]] | None = None
    device_name: Text | None = Field(default=None, max_length=128)


class ServicesReply(BaseModel):
    services: list[str]


class AuthorizeBody(Body):
    authorized: Bit = with_error("Missing authorized")


class AuthorizeReply(SuccessReply):
    authorized: int


class TokensBody(Body):
    token_count: int = with_error("token_count must be an integer", ge=0, le=1_000_000)


class TokensReply(SuccessReply):
    token_count: int


class TokenCodeBody(Body):
    token_code: str = with_error("Invalid token_code", pattern=TOKEN_CODE_PATTERN)


class TokenCodeReply(SuccessReply):
    token_code: str


class FlashReply(SuccessReply):
    tokens_left: int


_PAGE = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 25},
    "offset": {"type": "integer", "minimum": 0, "default": 0},
    "prefix": {"type": "string", "maxLength": 128},
    "tag": {"type": "string", "maxLength": 64},
}


class CountCache:
    """Totals that may be two seconds old, so that paging never counts a million rows per request."""

    def __init__(self) -> None:
        self._counts: dict[store.Choice, tuple[float, int]] = {}

    def get(self, choice: store.Choice) -> int | None:
        entry = self._counts.get(choice)
        return entry[1] if entry is not None and entry[0] > time.monotonic() else None

    def put(self, choice: store.Choice, count: int) -> int:
        if len(self._counts) > 1000:
            self._counts.clear()
        self._counts[choice] = (time.monotonic() + (2.0 if count > 10_000 else 0.0), count)
        return count


_counts = CountCache()


@router.get("/api/devices", **describe(DeviceListReply, query=_PAGE))
def list_devices(request: Request, principal: Lister) -> Response:
    """List devices, in the order of their keys."""
    server = server_of(request)
    limit, offset = query_int(request, "limit", 25, 1, 100), query_int(request, "offset", 0, 0, 2**31)
    choice = store.Choice(
        prefix=request.query_params.get("prefix", "")[:128],
        tag=request.query_params.get("tag"),
        allowed_types=principal.device_types,
        allowed_tags=principal.tags,
    )
    with server.database.read() as connection:
        rows = store.list_devices(connection, choice, limit=limit, offset=offset)
        tags = store.tags_of(connection, [row["id"] for row in rows])
        total = _counts.get(choice)
        if total is None:
            total = _counts.put(choice, store.count_devices(connection, choice))
    now, timeout_s = now_ms(), server.settings.heartbeat_timeout_s
    page = {
        "devices": [device_object(row, now, timeout_s, tags.get(row["id"], ())) for row in rows],
        "total": total,
        "limit": limit,
        "offset": offset,
    }
    return Response(msgspec.json.encode(page), media_type="application/json")


_SECRETS = {"secrets": {"type": "integer", "enum": [0, 1], "default": 1}}


@router.get("/api/devices/{device_key}", **describe(DeviceReply, 404, query=_SECRETS))
def get_device(request: Request, device_key: str, principal: Reader) -> dict[str, Any]:
    """Show a device. An administrator sees its secrets, which is audited; `?secrets=0` asks for none."""
    server = server_of(request)
    with server.database.read() as connection:
        row = store.get_device(connection, device_key)
        tags = store.tags_of(connection, [row["id"]]).get(row["id"], ())
    shown = device_object(row, now_ms(), server.settings.heartbeat_timeout_s, tags) | {"provision": row["provision"]}
    if principal.kind == "device":
        return shown | secret_fields(row, admin=False)
    if principal.has_role(Role.ADMIN) and query_int(request, "secrets", 1, 0, 1):
        actor = actor_of(request, principal)
        server.writer.run(lambda c: append(c, actor, "device.reveal", f"device:{device_key}"))
        return shown | secret_fields(row, admin=True)
    return shown


@router.delete("/api/devices/{device_key}", **describe(SuccessReply, 404))
def delete_device(request: Request, device_key: str, principal: Admin) -> dict[str, Any]:
    """Delete a device with its tunnels, keys, logs and pending requests."""
    server, actor = server_of(request), actor_of(request, principal)

    def change(connection: Any) -> None:
        close_tunnels_of(connection, device_key)
        store.delete_device(connection, actor, device_key)

    server.writer.run(change)
    forget(request, device_key)
    return {"success": True}


@router.put("/api/devices/{device_key}", **describe(SuccessReply, 404, body=ServicesBody))
def set_services(
    request: Request,
    device_key: str,
    principal: Operator,
    body: Annotated[ServicesBody, Depends(body_of(ServicesBody))],
) -> dict[str, Any]:
    """Set the enabled services (the full set), where they listen on the device, and the name that people read."""
    changes: dict[str, Any] = {}
    if body.services is not None:
        _check_names(body.services, DECLARED_SERVICES)
        changes["services"] = [name for name in DECLARED_SERVICES if name in body.services]
    if body.local_ports is not None:
        _check_names(body.local_ports, TUNNEL_SERVICES[:-1])
        _check_local_ports(request, principal, body.local_ports)
        changes["local_ports"] = body.local_ports
    if body.device_name is not None:
        changes["device_name"] = body.device_name.strip() or None
    if not changes:
        raise InvalidInput("Nothing to update")
    server, actor = server_of(request), actor_of(request, principal)

    def change(connection: Any) -> None:
        store.change_device(connection, actor, device_key, "device.services", changes)
        if body.local_ports is not None:
            follow_local_ports(connection, server.settings, device_key, body.local_ports)

    server.writer.run(change)
    forget(request, device_key)
    return {"success": True}


def _check_local_ports(request: Request, principal: Principal, wanted: dict[str, int]) -> None:
    """Keep operators to the ports that a relay may reach. Raises: Forbidden."""
    allowed = {*server_of(request).settings.tunnel_relay_ports, *DEFAULT_LOCAL_PORTS.values()}
    if not principal.has_role(Role.ADMIN) and not allowed.issuperset(wanted.values()):
        raise Forbidden(
            "Local port not allowed", hint="MEETINGCTL_TUNNEL_RELAY_PORTS of the server lists the allowed ones"
        )


def _check_names(names: Any, allowed: tuple[str, ...]) -> None:
    for name in names:
        if name not in allowed:
            raise InvalidInput(f"Unknown service: {name[:64]}", hint=f"use {', '.join(allowed)}")


@router.get("/api/devices/{device_key}/service", **describe(ServicesReply, 404))
def get_services(request: Request, device_key: str, principal: ViewerOrDevice) -> dict[str, Any]:
    """Show the enabled services."""
    with server_of(request).database.read() as connection:
        return {"services": store.get_device(connection, device_key)["services"]}


@router.get("/api/devices/{device_key}/note", **describe(NoteReply, 404))
def get_note(request: Request, device_key: str, principal: ViewerOrDevice) -> dict[str, Any]:
    """Show the operator's note, or what the device says of itself when there is none."""
    with server_of(request).database.read() as connection:
        row = store.get_device(connection, device_key)
    return {"note": row["note"] or row["status_note"] or ""}


@router.put("/api/devices/{device_key}/note", **describe(NoteSetReply, 404, body=NoteBody))
def set_note(
    request: Request, device_key: str, principal: Operator, body: Annotated[NoteBody, Depends(body_of(NoteBody))]
) -> dict[str, Any]:
    """Write the note, at most 2000 characters."""
    if len(body.note) > 2000:
        raise InvalidInput("Note too long")
    apply_change(request, principal, device_key, "device.note", {"note": body.note})
    return {"success": True, "note": body.note}


@router.put("/api/devices/{device_key}/authorize", **describe(AuthorizeReply, 404, body=AuthorizeBody))
def set_authorized(
    request: Request,
    device_key: str,
    principal: Operator,
    body: Annotated[AuthorizeBody, Depends(body_of(AuthorizeBody))],
) -> dict[str, Any]:
    """Allow or forbid a device; forbidding ends its agent connection and its tunnels at once."""
    server, actor = server_of(request), actor_of(request, principal)

    def change(connection: Any) -> None:
        store.change_device(connection, actor, device_key, "device.authorize", {"authorized": body.authorized})
        if not body.authorized:
            close_tunnels_of(connection, device_key)

    server.writer.run(change)
    forget(request, device_key)
    return {"success": True, "authorized": int(body.authorized)}


@router.put("/api/devices/{device_key}/tokens", **describe(TokensReply, 404, body=TokensBody))
def set_tokens(
    request: Request, device_key: str, principal: Operator, body: Annotated[TokensBody, Depends(body_of(TokensBody))]
) -> dict[str, Any]:
    """Set how many flash tokens a device has."""
    apply_change(request, principal, device_key, "device.tokens", {"token_count": body.token_count})
    return {"success": True, "token_count": body.token_count}


@router.put("/api/devices/{device_key}/token-code", **describe(TokenCodeReply, 404, body=TokenCodeBody))
def set_token_code(
    request: Request,
    device_key: str,
    principal: Admin,
    body: Annotated[TokenCodeBody, Depends(body_of(TokenCodeBody))],
) -> dict[str, Any]:
    """Replace the token code: the old one and the device token stop working, registering works once more."""
    server, actor = server_of(request), actor_of(request, principal)
    code = parse_token_code(body.token_code)

    def change(connection: Any) -> None:
        row = store.get_device(connection, device_key)
        store.change_device(
            connection,
            actor,
            device_key,
            "device.token-code",
            {
                "token_code": code,
                "device_token_sha256": None,
                "registered_at_ms": None,
                "generation": row["generation"] + 1,
            },
        )

    server.writer.run(change)
    forget(request, device_key)
    return {"success": True, "token_code": code}


@router.post("/api/devices/{device_key}/flash-request", **describe(FlashReply, 404))
def flash_request(request: Request, device_key: str, principal: OperatorOrDevice) -> dict[str, Any]:
    """Consume one token before provisioning."""
    actor = actor_of(request, principal)
    left = server_of(request).writer.run(lambda connection: store.take_token(connection, actor, device_key))
    return {"success": True, "tokens_left": left}


def apply_change(request: Request, principal: Principal, device_key: str, action: str, changes: dict[str, Any]) -> None:
    """Write columns of one device, audited, and tell the rest of the server. Raises: NotFound."""
    actor = actor_of(request, principal)
    server_of(request).writer.run(lambda c: store.change_device(c, actor, device_key, action, changes))
    forget(request, device_key)


def forget(request: Request, device_key: str) -> None:
    """Drop what is cached of a device, and let the tunnel proxy look again."""
    server_of(request).changes.announce_device(device_key)
