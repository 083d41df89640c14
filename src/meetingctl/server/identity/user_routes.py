"""Accounts of people (contract section 5.12)."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel

from meetingctl.core.clock import wire_text
from meetingctl.core.errors import Forbidden, InvalidInput, NotFound
from meetingctl.server.http import (
    Bit,
    Body,
    SuccessReply,
    Text,
    actor_of,
    body_of,
    describe,
    facts_of,
    identify,
    is_local,
    need,
    server_of,
    with_error,
)
from meetingctl.server.identity import users
from meetingctl.server.identity.credentials import Credentials
from meetingctl.server.identity.keys import check_lasting
from meetingctl.server.identity.passwords import hash_password, hashing_slot, is_right
from meetingctl.server.identity.principal import ANY, Principal, Role

router = APIRouter(tags=["identity"])

# Not even mode legacy-open shows accounts to somebody without a credential: who may make one can make an administrator.
UserAdmin = Annotated[Principal, need(Role.ADMIN, open_mode=False)]
UserId = Annotated[str, Path(alias="id")]
_MISSING = "Missing username or password"
_OWN = frozenset({"password", "old_password", "ssh_pubkey"})


class UserItem(BaseModel):
    id: int
    username: str
    role: str
    authorized: int
    created_at: str


class UserListReply(BaseModel):
    users: list[UserItem]


class UserReply(UserItem):
    token: str
    ssh_pubkey: str | None


class NewUserBody(Body):
    username: Text = with_error(_MISSING, min_length=1)
    password: Text = with_error(_MISSING, min_length=1)
    role: Text = "user"
    ssh_pubkey: Text | None = None
    authorized: Bit = True


class NewUserReply(SuccessReply):
    id: int
    token: str


class UserBody(Body):
    """`old_password` goes with the caller's own new password."""

    username: Text | None = None
    password: Text | None = None
    old_password: Text | None = None
    role: Text | None = None
    ssh_pubkey: Text | None = None
    authorized: Bit | None = None


class TokenReply(SuccessReply):
    token: str


def user_object(row: sa.RowMapping) -> dict[str, Any]:
    """Make the contract's object of an account, as lists show it."""
    return {
        "id": row["id"],
        "username": row["username"],
        "role": row["role"],
        "authorized": int(row["authorized"]),
        "created_at": wire_text(row["created_at_ms"]),
    }


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise NotFound("User not found", hint="meetingctl user list")
    return int(text)


@router.get("/api/users", **describe(UserListReply))
def list_users(request: Request, principal: UserAdmin) -> dict[str, Any]:
    """List the accounts, without tokens."""
    with server_of(request).database.read() as connection:
        return {"users": [user_object(row) for row in users.list_users(connection)]}


@router.post("/api/users", **describe(NewUserReply, 409, body=NewUserBody))
def create_user(
    request: Request, principal: UserAdmin, body: Annotated[NewUserBody, Depends(body_of(NewUserBody))]
) -> dict[str, Any]:
    """Create an account; its token is in this answer and nowhere else."""
    check_lasting(principal)
    actor = actor_of(request, principal)
    users.check_username(body.username)
    users.check_role(body.role)
    password_hash = hash_password(body.password)
    user_id, made = server_of(request).writer.run(
        lambda connection: users.create_user(
            connection,
            actor,
            username=body.username,
            password_hash=password_hash,
            role=body.role,
            ssh_pubkey=body.ssh_pubkey,
            authorized=body.authorized,
        )
    )
    return {"success": True, "id": user_id, "token": made.text}


async def _check_local(request: Request) -> None:
    await identify(request, None)  # a wrong credential is refused, also from here
    if not is_local(request):
        raise Forbidden("Local access only")


@router.get(
    "/api/users/authorized-keys",
    **describe(None) | {"response_class": Response},
    dependencies=[Depends(_check_local)],
)
def get_authorized_keys(request: Request) -> Response:
    """Give sshd on this machine the keys of all accounts that are on, one to a line."""
    with server_of(request).database.read() as connection:
        lines = users.authorized_keys(connection)
    return Response("".join(f"{line}\n" for line in lines), media_type="text/plain")


@router.get("/api/users/{id}", **describe(UserReply, 404))
def get_user(request: Request, user_id: UserId, principal: UserAdmin) -> dict[str, Any]:
    """Show an account; of its token only the last characters."""
    with server_of(request).database.read() as connection:
        row = users.get_user(connection, _number(user_id))
        token = users.masked_token(connection, row["id"])
    return user_object(row) | {"token": token, "ssh_pubkey": row["ssh_pubkey"]}


def _check_own(
    request: Request,
    user_id: UserId,
    principal: Annotated[Principal, need(Role.VIEWER, open_mode=False, permission=ANY, limits="both")],
) -> Principal:
    """Let administrators change every account, and people their own."""
    if not principal.is_full_admin and (principal.user_id is None or str(principal.user_id) != user_id):
        raise Forbidden("Forbidden", needed="admin")
    return principal


@router.put("/api/users/{id}", **describe(SuccessReply, 404, 409, body=UserBody))
def update_user(
    request: Request,
    user_id: UserId,
    principal: Annotated[Principal, Depends(_check_own)],
    body: Annotated[UserBody, Depends(body_of(UserBody))],
) -> dict[str, Any]:
    """Change an account. People may change their own password, which takes the old one, and their own SSH key."""
    server, actor, number = server_of(request), actor_of(request, principal), _number(user_id)
    changes = body.model_dump(exclude_unset=True)
    if not principal.is_full_admin and not _OWN.issuperset(changes):
        raise Forbidden("Forbidden", needed="admin")
    changes = {name: value for name, value in changes.items() if value is not None or name == "ssh_pubkey"}
    if principal.kind == "key":
        check_lasting(principal)
    old, new = changes.pop("old_password", ""), changes.pop("password", None)
    with server.database.read() as connection:
        row = users.get_user(connection, number)
    if new is not None:
        if principal.user_id == number:
            _check_old_password(request, row, old)
        changes["password_hash"] = hash_password(new)
    if not changes:
        raise InvalidInput("Nothing to update")
    server.writer.run(lambda connection: users.update_user(connection, actor, number, changes))
    server.changes.announce_credentials()
    return {"success": True}


def _check_old_password(request: Request, row: sa.RowMapping, old: str) -> None:
    """Raises: Forbidden for a wrong one, RateLimited after too many."""
    credentials, facts = server_of(request).credentials, facts_of(request)
    subject = f"user:{row['username_fold']}"
    with hashing_slot():
        credentials.check_limits(subject, facts.peer)
        if not is_right(row["password_hash"], old):
            credentials.refuse(Credentials(old, "", facts.peer, facts.request_id), subject)
            raise Forbidden("Wrong password", hint="your own new password takes the old one too")


@router.post("/api/users/{id}/token", **describe(TokenReply, 404))
def renew_token(request: Request, user_id: UserId, principal: UserAdmin) -> dict[str, Any]:
    """Make a new token for an account and revoke the one before; it is in this answer and nowhere else."""
    check_lasting(principal)
    server, actor = server_of(request), actor_of(request, principal)
    made = server.writer.run(lambda connection: users.renew_token(connection, actor, _number(user_id)))
    server.changes.announce_credentials()
    return {"success": True, "token": made.text}


@router.delete("/api/users/{id}", **describe(SuccessReply, 404, 409))
def delete_user(request: Request, user_id: UserId, principal: UserAdmin) -> dict[str, Any]:
    """Delete an account with its token and sessions; the last administrator stays."""
    server, actor = server_of(request), actor_of(request, principal)
    server.writer.run(lambda connection: users.delete_user(connection, actor, _number(user_id)))
    server.changes.announce_credentials()
    return {"success": True}
