"""Who am I, and API keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.server.http import (
    Body,
    SuccessReply,
    Text,
    actor_of,
    body_of,
    describe,
    identify,
    need,
    server_of,
    with_error,
)
from meetingctl.server.identity.keys import KeyLimits, check_maker, create_key, list_keys, revoke_key
from meetingctl.server.identity.principal import Principal, Role

router = APIRouter(tags=["identity"])

# Not even mode legacy-open hands out keys to somebody without one.
KeyAdmin = Annotated[Principal, need(Role.ADMIN, open_mode=False)]


Name = Annotated[Text, Field(min_length=1, max_length=128)]


class WhoamiReply(BaseModel):
    principal: str
    kind: str
    role: str
    name: str
    expires_at: str | None
    mode: str


class KeyItem(BaseModel):
    id: str
    name: str
    role: str
    created_at: str
    created_by: str
    expires_at: str | None
    last_used_at: str | None
    revoked: bool
    user: str | None
    permissions: list[str] | None
    device_types: list[str] | None
    tags: list[str] | None


class KeyListReply(BaseModel):
    keys: list[KeyItem]


class NewKeyBody(Body):
    name: Text = with_error("Missing or invalid field: name", min_length=1, max_length=128)
    role: str = with_error("Missing or invalid field: role", pattern="^(viewer|operator|admin|proxy|sshd)$")
    expires_in_s: float | None = Field(default=None, ge=1, le=3_153_600_000)
    permissions: list[Text] | None = Field(default=None, min_length=1, max_length=16)
    device_types: list[Name] | None = Field(default=None, min_length=1, max_length=100)
    tags: list[Name] | None = Field(default=None, min_length=1, max_length=100)

    def limits(self) -> KeyLimits:
        """Return what the key is to be limited to."""
        given = (self.permissions, self.device_types, self.tags)
        return KeyLimits(*(None if values is None else tuple(values) for values in given))


class NewKeyReply(BaseModel):
    id: str
    name: str
    role: str
    expires_at: str | None
    permissions: list[str] | None
    device_types: list[str] | None
    tags: list[str] | None
    key: str


@router.get("/api/whoami", **describe(WhoamiReply))
async def whoami(request: Request) -> dict[str, Any]:
    """Say who the caller is; a wrong credential is refused, none is anonymous."""
    principal = await identify(request, None)
    return {
        "principal": principal.name,
        "kind": principal.kind,
        "role": principal.role_text,
        "name": principal.name.partition(":")[2] or principal.name,
        "expires_at": wire_text(principal.expires_at_ms),
        "mode": server_of(request).settings.mode,
    }


@router.get("/api/keys", **describe(KeyListReply))
def get_keys(request: Request, principal: KeyAdmin) -> dict[str, Any]:
    """List API keys, without their secrets."""
    with server_of(request).database.read() as connection:
        rows = list_keys(connection)
    return {
        "keys": [
            {
                "id": row["public_id"],
                "name": row["name"],
                "role": row["role"],
                "created_at": wire_text(row["created_at_ms"]),
                "created_by": row["created_by"],
                "expires_at": wire_text(row["expires_at_ms"]),
                "last_used_at": wire_text(row["last_used_at_ms"]),
                "revoked": row["revoked_at_ms"] is not None,
                "user": row["username"],
                "permissions": row["permissions"],
                "device_types": row["device_types"],
                "tags": row["tags"],
            }
            for row in rows
        ]
    }


@router.post("/api/keys", **describe(NewKeyReply, body=NewKeyBody))
def post_key(
    request: Request, principal: KeyAdmin, body: Annotated[NewKeyBody, Depends(body_of(NewKeyBody))]
) -> dict[str, Any]:
    """Make an API key; its text is in this answer and nowhere else. No key makes a wider one than itself."""
    actor, limits = actor_of(request, principal), body.limits()
    expires_at_ms = None if body.expires_in_s is None else now_ms() + int(body.expires_in_s * 1000)
    check_maker(principal, expires_at_ms)
    made = server_of(request).writer.run(
        lambda c: create_key(c, actor, name=body.name, role=body.role, expires_at_ms=expires_at_ms, limits=limits)
    )
    return {
        "id": made.row["public_id"],
        "name": body.name,
        "role": body.role,
        "expires_at": wire_text(expires_at_ms),
        **limits.columns(),
        "key": made.text,
    }


@router.delete("/api/keys/{key_id}", **describe(SuccessReply, 404, 409))
def delete_key(request: Request, key_id: str, principal: KeyAdmin) -> dict[str, Any]:
    """Revoke an API key; the last administrator's key stays."""
    server, actor = server_of(request), actor_of(request, principal)
    server.writer.run(lambda connection: revoke_key(connection, actor, key_id))
    server.changes.announce_credentials()
    return {"success": True}
