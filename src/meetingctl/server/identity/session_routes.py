"""Logins of people, for services and programs that have no API key: log in, renew, log out, who am I."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from meetingctl.core.errors import AuthError, Forbidden, InvalidInput, MissingCredential
from meetingctl.server.audit.chain import Actor
from meetingctl.server.db.schema import users as users_table
from meetingctl.server.http import (
    Body,
    SuccessReply,
    Text,
    body_of,
    describe,
    facts_of,
    identify,
    server_of,
    with_error,
)
from meetingctl.server.identity import sessions, users
from meetingctl.server.identity.credentials import Credentials
from meetingctl.server.identity.passwords import hash_password, hashing_slot, is_outdated, is_right
from meetingctl.server.identity.principal import Principal
from meetingctl.server.identity.user_routes import UserItem, user_object

router = APIRouter(tags=["identity"])

_MISSING = "Missing username or password"


class LoginBody(Body):
    username: Text = with_error(_MISSING, min_length=1, max_length=256)
    password: Text = with_error(_MISSING, min_length=1, max_length=4096)


class RefreshBody(Body):
    refresh_token: Text = with_error("Missing refresh_token", min_length=1, max_length=256)


class LogoutBody(Body):
    refresh_token: Text | None = None


class LoginReply(BaseModel):
    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int
    refresh_expires_in: int
    user: UserItem


class MeReply(BaseModel):
    user: UserItem


def _reply(issued: sessions.Issued) -> dict[str, Any]:
    return {
        "access_token": issued.access_token,
        "refresh_token": issued.refresh_token,
        "token_type": "Bearer",
        "expires_in": sessions.ACCESS_S,
        "refresh_expires_in": sessions.REFRESH_S,
        "user": user_object(issued.user),
    }


@router.post("/api/auth/login", **describe(LoginReply, body=LoginBody))
def log_in(request: Request, body: Annotated[LoginBody, Depends(body_of(LoginBody))]) -> dict[str, Any]:
    """Exchange a name and a password for an access token (15 minutes) and a refresh token (7 days, works once)."""
    server, facts = server_of(request), facts_of(request)
    user = _check_password(request, body.username, body.password)
    _keep_hash_fresh(request, user, body.password)
    actor = Actor(f"user:{user['username']}", facts.peer, facts.request_id)
    signer = server.credentials.signer
    return _reply(server.writer.run(lambda connection: sessions.open_session(connection, actor, signer, user)))


def _check_password(request: Request, username: str, password: str) -> sa.RowMapping:
    """Return the account. An unknown name costs what a wrong password costs. Raises: AuthError, RateLimited, Busy."""
    server, facts = server_of(request), facts_of(request)
    subject = f"user:{users.fold_username(username)}"
    with hashing_slot():  # inside, so that many guesses at once cannot all pass before one is counted
        server.credentials.check_limits(subject, facts.peer)
        with server.database.read() as connection:
            user = users.find_user(connection, username)
        if is_right(user["password_hash"] if user is not None else None, password):
            if user is not None and user["authorized"]:
                return user
        server.credentials.refuse(Credentials(password, "", facts.peer, facts.request_id), subject)
    raise AuthError("Wrong username or password", hint="ask an administrator for a new password")


def _keep_hash_fresh(request: Request, user: sa.RowMapping, password: str) -> None:
    """Replace a hash of other parameters, now that the password is known; one too short for today's rules stays."""
    stored = user["password_hash"]
    if not is_outdated(stored):
        return
    try:
        fresh = hash_password(password)
    except InvalidInput:
        return
    same = sa.and_(users_table.c.id == user["id"], users_table.c.password_hash == stored)
    statement = users_table.update().where(same).values(password_hash=fresh)
    server_of(request).writer.run(lambda connection: connection.execute(statement))


@router.post("/api/auth/refresh", **describe(LoginReply, body=RefreshBody))
def renew(request: Request, body: Annotated[RefreshBody, Depends(body_of(RefreshBody))]) -> dict[str, Any]:
    """Exchange a refresh token for new tokens. One that is shown twice ends its login."""
    server, facts = server_of(request), facts_of(request)
    credentials = server.credentials
    credentials.check_limits(None, facts.peer)
    actor, text = Actor("anonymous", facts.peer, facts.request_id), body.refresh_token
    issued = server.writer.run(lambda connection: sessions.renew_session(connection, actor, credentials.signer, text))
    if isinstance(issued, sessions.Reused):
        server.changes.announce_credentials()
    if not isinstance(issued, sessions.Issued):
        raise credentials.refuse(Credentials(text, "", facts.peer, facts.request_id), "session")
    return _reply(issued)


async def _caller(request: Request) -> Principal:
    return await identify(request, None)


@router.post("/api/auth/logout", **describe(SuccessReply, body=LogoutBody))
def log_out(
    request: Request,
    principal: Annotated[Principal, Depends(_caller)],
    body: Annotated[LogoutBody, Depends(body_of(LogoutBody))],
) -> dict[str, Any]:
    """End a login: that of the access token, or that of the refresh token in the body."""
    server = server_of(request)
    family = principal.session
    if family is None and body.refresh_token:
        with server.database.read() as connection:
            family = sessions.family_of(connection, body.refresh_token)
    elif family is None and principal.kind in ("anonymous", "open"):
        raise MissingCredential("Unauthorized", hint="meetingctl login")
    elif family is None:
        raise InvalidInput("Missing refresh_token", hint="an API key has no login to end")
    if family is not None:
        name = family
        server.writer.run(lambda connection: sessions.close_session(connection, name))
        server.changes.announce_credentials()
    return {"success": True}


@router.get("/api/auth/me", **describe(MeReply))
def get_me(request: Request, principal: Annotated[Principal, Depends(_caller)]) -> dict[str, Any]:
    """Show the account of the caller; API keys have none."""
    if principal.kind in ("anonymous", "open"):
        raise MissingCredential("Unauthorized", hint="meetingctl login")
    if principal.user_id is None:
        raise Forbidden("Forbidden", hint="an API key has no account")
    with server_of(request).database.read() as connection:
        return {"user": user_object(users.get_user(connection, principal.user_id))}
