"""Endpoints of SSH keys (contract sections 5.8 and 5.9 but `request-port`, and `GET /api/ssh/pubkey`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, BaseModel, Field

from meetingctl.core.clock import wire_text
from meetingctl.core.errors import Forbidden, InvalidInput, MeetingctlError, NotFound, TooLarge
from meetingctl.core.paths import safe_join
from meetingctl.core.sshkey import parse_fingerprint, parse_public_key
from meetingctl.server.audit.chain import append
from meetingctl.server.devices.routes import Admin, OperatorOrDevice, ViewerOrDevice
from meetingctl.server.http import (
    Access,
    Body,
    SuccessReply,
    Text,
    actor_of,
    authorize,
    body_of,
    describe,
    need,
    read_json,
    server_of,
    with_error,
)
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.keys import server_key, store
from meetingctl.server.updates.urls import server_url

router = APIRouter(tags=["keys"])
T = TypeVar("T")

_SSHD = Access(Role.ADMIN, services=("sshd",), loopback=True, open_mode=False)
Sshd = Annotated[Principal, need(Role.ADMIN, services=("sshd",), loopback=True, open_mode=False)]
Operator = Annotated[Principal, need(Role.OPERATOR)]
Keeper = Annotated[Principal, need(Role.ADMIN, open_mode=False)]
_USAGE = "append it to ~/.ssh/authorized_keys of the user that this server logs in as"
_PRIVATE_KEY_BYTES = 64 * 1024


class KeyReply(BaseModel):
    device_key: str
    ssh_user: str
    pubkey: str
    status: str
    added: str | None
    modified: str | None
    fingerprint: str
    last_ssh: str | None


class KeysReply(BaseModel):
    """Whole objects for administrators; with `?user=` the public keys alone."""

    keys: list[KeyReply] | list[str]


class KeyBody(Body):
    pubkey: Text = Field(
        max_length=16 * 1024,
        validation_alias=AliasChoices("pubkey", "ssh_public_key"),
        json_schema_extra={"error": "Invalid public key"},
    )
    ssh_user: Text | None = None
    status: Literal["authorized", "revoked"] | None = None


class LogEntry(BaseModel):
    timestamp: str
    action: str
    fingerprint: str
    actor: str
    remote: str


class OwnerEntry(BaseModel):
    device_key: str
    ssh_public_key: str
    authorized: int
    revoked: int


class OwnersReply(BaseModel):
    devices: list[OwnerEntry]


class ServerKeyBody(Body):
    pubkey: Text = with_error("Invalid public key", max_length=16 * 1024)


class ServerKeyReply(SuccessReply):
    fingerprint: str
    date: str


class NewServerKeyReply(ServerKeyReply):
    pubkey: str


class ConfirmReply(SuccessReply):
    retired: int


class ServerPublicKeyReply(BaseModel):
    pubkey: str
    fingerprint: str
    host: str
    generated_at: str
    usage: str


class RegisterKeyBody(Body):
    device_key: Text = Field(
        validation_alias=AliasChoices("device_key", "devicekey"),
        json_schema_extra={"error": "Missing device_key or pubkey"},
    )
    pubkey: Text = with_error("Missing device_key or pubkey", min_length=1, max_length=16 * 1024)


class ValidateBody(Body):
    pubkey: Text = with_error("Missing pubkey", min_length=1, max_length=16 * 1024)


class RemoveBody(Body):
    device_key: Text | None = Field(default=None, validation_alias=AliasChoices("device_key", "devicekey"))


class StatusReply(BaseModel):
    status: str


class OwnerReply(StatusReply):
    device_key: str


class RemovedReply(StatusReply):
    deleted: int


def _change(request: Request, operation: Callable[[sa.Connection], T]) -> T:
    """Write, and let whoever keeps copies of the keys look again."""
    server = server_of(request)
    result = server.writer.run(operation)
    server.changes.announce()
    return result


async def _lister(request: Request) -> Principal:
    """With `?user=`, even empty, sshd asks; without it an administrator does (decision D-SSHKEYS)."""
    access = _SSHD if "user" in request.query_params else Access(Role.ADMIN)
    return await authorize(request, access, None)


_USER = {"user": {"type": "string"}, "fingerprint": {"type": "string"}}


@router.get("/api/ssh-keys", **describe(KeysReply, 404, query=_USER))
def list_keys(request: Request, principal: Annotated[Principal, Depends(_lister)]) -> dict[str, Any]:
    """List device keys; with `?user=` those that may log in as this user now, for sshd.

    `?fingerprint=` (what sshd knows as %f) asks for one key only, and counts as a use of it.
    """
    server = server_of(request)
    if "user" not in request.query_params:
        with server.database.read() as connection:
            return {"keys": [store.key_object(row) for row in store.list_keys(connection)]}
    user = store.parse_user(request.query_params["user"])
    wanted = request.query_params.get("fingerprint")
    fingerprint = parse_fingerprint(wanted) if wanted else None
    with server.database.read() as connection:
        rows = store.keys_of_user(connection, user, fingerprint)
    if not rows:
        raise NotFound("No keys")
    if fingerprint is not None:
        device_key = rows[0]["device_key"]
        server.writer.post(lambda connection: store.note_use(connection, device_key))
    return {"keys": [row["pubkey"] for row in rows]}


@router.get("/api/ssh-keys/devices", **describe(OwnersReply, query=_USER))
def list_owners(request: Request, principal: Sshd) -> dict[str, Any]:
    """List the devices that have a key for a user, whatever the state of the key."""
    user = store.parse_user(request.query_params.get("user", ""))
    with server_of(request).database.read() as connection:
        rows = store.all_of_user(connection, user)
    return {
        "devices": [
            {
                "device_key": row["device_key"],
                "ssh_public_key": row["pubkey"],
                "authorized": int(row["authorized"]),
                "revoked": int(row["status"] == "revoked"),
            }
            for row in rows
        ]
    }


@router.post("/api/ssh-keys/server", **describe(ServerKeyReply, body=ServerKeyBody))
def set_server_key(
    request: Request, principal: Keeper, body: Annotated[ServerKeyBody, Depends(body_of(ServerKeyBody))]
) -> dict[str, Any]:
    """Name the public key with which this server logs in to devices; its private half is kept elsewhere."""
    actor = actor_of(request, principal)
    row = _change(request, lambda connection: server_key.keep_public_key(connection, actor, body.pubkey))
    return {"success": True, "fingerprint": row["fingerprint"], "date": wire_text(row["created_at_ms"])}


@router.post("/api/ssh-keys/server/regenerate", **describe(NewServerKeyReply, 500))
def regenerate_server_key(request: Request, principal: Keeper) -> dict[str, Any]:
    """Make a new pair; the pair before it is kept until the new one is confirmed."""
    try:
        row = server_key.make_pair(server_of(request), actor_of(request, principal))
    except OSError as exc:
        raise MeetingctlError("Key generation failed", hint="see the server's log; is its disk full?") from exc
    shown = {"pubkey": row["pubkey"], "fingerprint": row["fingerprint"], "date": wire_text(row["created_at_ms"])}
    return {"success": True, **shown}


@router.post("/api/ssh-keys/server/confirm", **describe(ConfirmReply, 404))
def confirm_server_key(request: Request, principal: Keeper) -> dict[str, Any]:
    """Retire the pairs before the newest one; to be called when the devices know the new key."""
    return {"success": True, "retired": server_key.confirm(server_of(request), actor_of(request, principal))}


@router.get("/api/ssh-hostkey", **describe(None, 404), response_class=Response)
def get_host_keys(request: Request) -> Response:
    """Show the host keys of this server's sshd as ssh-keyscan does; devices write them into known_hosts."""
    settings = server_of(request).settings
    host = urlsplit(server_url(request, settings.public_url)).hostname or "localhost"
    lines = [f"{host} {key.text}\n" for key in server_key.read_host_keys(settings.ssh_host_keys)]
    if not lines:
        raise NotFound(
            "No host key", hint="set MEETINGCTL_SSH_HOST_KEYS of the server: the public host keys of its sshd"
        )
    return Response("".join(lines), media_type="text/plain")


@router.get(
    "/api/ssh/pubkey", **describe(ServerPublicKeyReply, 404, query={"format": {"type": "string", "enum": ["plain"]}})
)
def get_server_key(request: Request) -> Any:
    """Show the public key with which this server logs in to devices."""
    server = server_of(request)
    with server.database.read() as connection:
        row = server_key.current_key(connection)
    if request.query_params.get("format") == "plain":
        return Response(f"{row['pubkey']}\n", media_type="text/plain")
    return {
        "pubkey": row["pubkey"],
        "fingerprint": row["fingerprint"],
        "host": urlsplit(server_url(request, server.settings.public_url)).hostname or "localhost",
        "generated_at": wire_text(row["created_at_ms"]),
        "usage": _USAGE,
    }


@router.get("/api/devices/{device_key}/ssh-key", **describe(KeyReply, 404))
def get_key(request: Request, device_key: str, principal: ViewerOrDevice) -> dict[str, Any]:
    """Show the key of a device."""
    with server_of(request).database.read() as connection:
        return store.key_object(store.get_key(connection, device_key))


@router.put("/api/devices/{device_key}/ssh-key", **describe(SuccessReply, 404, body=KeyBody))
def set_key(
    request: Request,
    device_key: str,
    principal: OperatorOrDevice,
    body: Annotated[KeyBody, Depends(body_of(KeyBody))],
) -> dict[str, Any]:
    """Set the key of a device. The device itself may add one, not exchange it (decision D-KEYAUTH)."""
    if body.ssh_user is not None:
        store.parse_user(body.ssh_user)
    _set_key(request, principal, device_key, body.pubkey, ssh_user=body.ssh_user, status=body.status)
    return {"success": True}


@router.delete("/api/devices/{device_key}/ssh-key", **describe(SuccessReply, 404))
def revoke_key(request: Request, device_key: str, principal: Operator) -> dict[str, Any]:
    """Revoke the key of a device; the record stays."""
    actor = actor_of(request, principal)
    _change(request, lambda connection: store.revoke_key(connection, actor, device_key))
    return {"success": True}


@router.get("/api/devices/{device_key}/ssh-key-log", **describe(list[LogEntry], 404))
def get_key_log(request: Request, device_key: str, principal: Admin) -> list[dict[str, Any]]:
    """Show what happened to the key of a device, newest first, at most 500 entries."""
    with server_of(request).database.read() as connection:
        return store.list_log(connection, device_key)


@router.get("/api/devices/{device_key}/private-ppk", **describe(None, 404, 500), response_class=Response)
def get_private_ppk(request: Request, device_key: str, principal: Keeper) -> Response:
    """Give the private key that this server keeps for a device, for PuTTY. Off by default (decision D-PPK)."""
    from meetingctl.server.keys.ppk import convert

    server, actor = server_of(request), actor_of(request, principal)
    folder = server.settings.device_private_keys_dir
    if folder is None:
        raise Forbidden(
            "Disabled", hint="set MEETINGCTL_DEVICE_PRIVATE_KEYS_DIR of the server: the folder of private keys"
        )
    with server.database.read() as connection:
        store.find_key(connection, device_key)
    try:
        with safe_join(folder, device_key).open("rb") as file:
            pem = file.read(_PRIVATE_KEY_BYTES + 1)
    except OSError as exc:
        raise NotFound("Private key not found") from exc
    if len(pem) > _PRIVATE_KEY_BYTES:
        raise TooLarge("Private key too large")
    passphrase = secrets.token_urlsafe(18)
    content = convert(pem, comment=device_key, passphrase=passphrase)
    server.writer.run(lambda c: append(c, actor, "ssh-key.reveal-private", f"device:{device_key}"))
    headers = {
        "X-PPK-Passphrase": passphrase,
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{device_key}.ppk"',
    }
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _registrant(request: Request) -> Principal:
    """Check who asks for the device that the body names, before anything else of the body counts."""
    value = await read_json(request)
    named = value.get("device_key") or value.get("devicekey")
    return await authorize(request, Access(Role.OPERATOR, device=True), named if isinstance(named, str) else None)


@router.post("/api/forcecommand/register_device_key", **describe(StatusReply, 404, 500, body=RegisterKeyBody))
def register_device_key(
    request: Request,
    principal: Annotated[Principal, Depends(_registrant)],
    body: Annotated[RegisterKeyBody, Depends(body_of(RegisterKeyBody))],
) -> dict[str, str]:
    """Store the key of a device, named in the body."""
    _set_key(request, principal, body.device_key, body.pubkey)
    return {"status": "ok"}


@router.post(
    "/api/forcecommand/validate_device_key", **describe(OwnerReply, body=ValidateBody), response_class=Response
)
def validate_device_key(
    request: Request, principal: Sshd, body: Annotated[ValidateBody, Depends(body_of(ValidateBody))]
) -> Any:
    """Say which device may log in with a key; counts as a use of it."""
    server = server_of(request)
    try:
        key, _ = parse_public_key(body.pubkey)
    except InvalidInput:
        return JSONResponse({"status": "invalid"}, 401)
    with server.database.read() as connection:
        owner = store.find_owner(connection, key)
    if owner is None:
        return JSONResponse({"status": "invalid"}, 401)
    device_key = str(owner["device_key"])
    server.writer.post(lambda connection: store.note_use(connection, device_key))
    return JSONResponse({"status": "ok", "device_key": device_key})


def _named_device(request: Request) -> str:
    device_key = request.query_params.get("device_key") or request.query_params.get("devicekey", "")
    if not device_key:
        raise InvalidInput("Missing device_key")
    return device_key


async def _asker(request: Request) -> Principal:
    access = Access(Role.OPERATOR, device=True, services=("sshd",), loopback=True)
    named = request.query_params.get("device_key") or request.query_params.get("devicekey")
    return await authorize(request, access, named)


@router.get(
    "/api/forcecommand/get_device_key",
    **describe(None, 404, query={"device_key": {"type": "string"}}),
    response_class=Response,
)
def get_device_key(request: Request, principal: Annotated[Principal, Depends(_asker)]) -> Response:
    """Show the public key line of a device that is not revoked."""
    try:
        with server_of(request).database.read() as connection:
            row = store.get_key(connection, _named_device(request))
    except NotFound:
        row = None
    if row is None or row["status"] == "revoked":
        return JSONResponse({"status": "not_found"}, 404)
    return Response(f"{row['pubkey']}\n", media_type="text/plain")


@router.delete("/api/forcecommand/remove_device_key", **describe(RemovedReply, 404, body=RemoveBody))
def remove_device_key(
    request: Request, principal: Operator, body: Annotated[RemoveBody, Depends(body_of(RemoveBody))]
) -> Any:
    """Revoke the key of a device; the device may stand in the query too, because bodies of DELETE get lost."""
    device_key = body.device_key or _named_device(request)
    actor = actor_of(request, principal)
    try:
        deleted = _change(request, lambda connection: store.revoke_key(connection, actor, device_key))
    except NotFound:
        deleted = 0
    if not deleted:
        return JSONResponse({"status": "not_found", "deleted": 0}, 404)
    return {"status": "ok", "deleted": deleted}


def _set_key(request: Request, principal: Principal, device_key: str, line: str, **more: Any) -> None:
    actor = actor_of(request, principal)
    is_own, may_rotate = principal.kind == "device", server_of(request).settings.ssh_key_rotation

    def change(connection: sa.Connection) -> None:
        store.set_key(connection, actor, device_key, line, is_own=is_own, may_rotate=may_rotate, **more)

    _change(request, change)
