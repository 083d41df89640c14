"""How a device comes into the registry: generated, created by hand, and registered once with its token code."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AliasChoices, BaseModel, Field

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.core.ids import (
    NAME_PATTERN,
    TOKEN_CODE_PATTERN,
    is_device_key,
    new_device_key,
    new_token_code,
    parse_device_key,
    parse_token_code,
)
from meetingctl.core.secret import sha256_hex
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.catalog.types import find_unknown, serial_prefix_of
from meetingctl.server.db.schema import devices
from meetingctl.server.devices import store
from meetingctl.server.devices.model import new_serial
from meetingctl.server.devices.routes import Operator, forget
from meetingctl.server.http import (
    Body,
    Text,
    actor_of,
    body_of,
    describe,
    facts_of,
    parse_body,
    read_json,
    server_of,
    with_error,
)
from meetingctl.server.identity.credentials import Credentials

router = APIRouter(tags=["devices"])


class KeyReply(BaseModel):
    devicekey: str
    token_code: str


class NewDeviceReply(KeyReply):
    ap_ssid: str
    ap_password: str
    http_pw_low: str
    http_pw_medium: str
    http_pw_high: str


class ManualReply(NewDeviceReply):
    device_type: str
    distribution: str
    product_serial: str


class ManualBody(Body):
    """Both spellings of each key are read (decision D-CASE)."""

    devicekey: str = Field(max_length=128, validation_alias=AliasChoices("devicekey", "device_key"))
    token_code: str = Field(pattern=TOKEN_CODE_PATTERN)
    device_type: str = Field(pattern=NAME_PATTERN, validation_alias=AliasChoices("device_type", "devicetype"))
    distribution: str = Field(pattern=NAME_PATTERN)
    product_serial: Text | None = Field(default=None, max_length=64)


class RegisterBody(Body):
    token_code: str = with_error("Invalid token", max_length=64)
    device_info: dict[str, Any] | None = None


class RegisterReply(BaseModel):
    ok: bool
    message: str
    device_token: str


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    names = ("token_code", "ap_ssid", "ap_password", "http_pw_low", "http_pw_medium", "http_pw_high")
    return {"devicekey": row["device_key"], **{name: row[name] for name in names}}


@router.get("/api/devices/generate-key", **describe(KeyReply))
def generate_key(principal: Operator) -> dict[str, str]:
    """Propose a device key and a token code; nothing is stored."""
    return {"devicekey": new_device_key(), "token_code": new_token_code()}


@router.post("/api/devices/generate-and-register", **describe(NewDeviceReply, 409))
def generate_and_register(request: Request, principal: Operator) -> dict[str, Any]:
    """Create a device with a generated key."""
    actor, key, code = actor_of(request, principal), new_device_key(), new_token_code()
    row = server_of(request).writer.run(
        lambda connection: store.create_device(connection, actor, device_key=key, token_code=code)
    )
    return _shown(row)


@router.post("/api/devices/manual-create", **describe(ManualReply, 409, body=ManualBody))
def manual_create(
    request: Request,
    response: Response,
    principal: Operator,
    body: Annotated[ManualBody, Depends(body_of(ManualBody))],
) -> dict[str, Any]:
    """Create a device with a chosen key.

    Type and distribution need not exist yet: the header X-Meeting-Warning names what does not, unless the setting
    device_types_strict refuses it (decision D-TYPECHECK).
    """
    if not is_device_key(body.devicekey):
        raise InvalidInput("Missing or invalid field: devicekey")
    server, actor = server_of(request), actor_of(request, principal)
    with server.database.read() as connection:
        warning = find_unknown(server.data_dir, connection, body.device_type, body.distribution)
    if warning and server.settings.device_types_strict:
        raise InvalidInput(warning.capitalize(), hint="meetingctl fleet types list")

    def change(connection: Any) -> dict[str, Any]:
        return store.create_device(
            connection,
            actor,
            device_key=parse_device_key(body.devicekey),
            token_code=parse_token_code(body.token_code),
            device_type=body.device_type,
            distribution=body.distribution,
            product_serial=body.product_serial or new_serial(serial_prefix_of(connection, body.device_type)),
        )

    row = server.writer.run(change)
    if warning:
        response.headers["X-Meeting-Warning"] = warning
    names = ("device_type", "distribution", "product_serial")
    return _shown(row) | {name: row[name] for name in names}


async def _flat_register_body(request: Request) -> dict[str, Any]:
    """Read the body; the network fields may stand flat or under `device_info`."""
    value = await read_json(request)
    nested = value.get("device_info")
    return ({**nested, **value} if isinstance(nested, dict) else value) | {"device_info": None}


@router.post("/api/devices/{device_key}/register", **describe(RegisterReply, 404, 409, body=RegisterBody))
async def register(
    request: Request, device_key: str, value: Annotated[dict[str, Any], Depends(_flat_register_body)]
) -> dict[str, Any]:
    """Register once with the token code; the answer carries a long device token, shown only here.

    A right code burns, a wrong one counts against the limits (decision D-BURN). Order of checks: 404, 409, 401.
    """
    server, facts = server_of(request), facts_of(request)
    device = await server.credentials.find_device(device_key)
    if device is None:
        raise NotFound("Device not found")
    with server.database.read() as connection:
        if store.get_device(connection, device_key)["registered_at_ms"] is not None:
            raise Conflict("Device already registered")
    body = parse_body(RegisterBody, value)
    given = Credentials("", body.token_code, facts.peer, facts.request_id)
    server.credentials.check_token_code(device, given)
    device_token = secrets.token_urlsafe(32)
    actor = Actor(f"device:{device_key}", facts.peer, facts.request_id)

    def change(connection: Any) -> None:
        statement = (
            devices.update()
            .where(devices.c.device_key == device_key, devices.c.registered_at_ms.is_(None))
            .values(registered_at_ms=now_ms(), device_token_sha256=sha256_hex(device_token))
        )
        if connection.execute(statement).rowcount != 1:
            raise Conflict("Device already registered")
        append(connection, actor, "device.register", f"device:{device_key}")

    await server.writer.run_async(change)
    await server.heartbeats.record(device, value, facts.peer)
    forget(request, device_key)
    return {"ok": True, "message": "Device registered", "device_token": device_token}
