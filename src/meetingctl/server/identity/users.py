"""Accounts of people: rows, their tokens, and the rules that keep one administrator."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.core.sshkey import parse_public_key
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import api_keys, refresh_tokens, users
from meetingctl.server.identity.keys import NewKey, add_user_token
from meetingctl.server.identity.principal import USER_ROLES

# Changes of these end the sessions of an account.
_ENDING = frozenset({"password_hash", "role", "authorized"})


def fold_username(username: str) -> str:
    """Return the form in which two names are the same."""
    return unicodedata.normalize("NFKC", username).casefold()[:128]


def check_username(username: str) -> str:
    """Raises: InvalidInput for a name with blanks, or with characters that do not show."""
    is_plain = username.isprintable() and not any(character.isspace() or character in ":/" for character in username)
    if not 1 <= len(username) <= 64 or not is_plain:
        raise InvalidInput("Invalid username", hint="1 to 64 characters without blanks, colons and slashes")
    return username


def check_role(role: str) -> str:
    """Raises: InvalidInput for a role that no account can have."""
    if role not in USER_ROLES:
        raise InvalidInput("Invalid role", hint=f"use one of {', '.join(USER_ROLES)}")
    return role


def check_pubkey(line: str | None) -> str | None:
    """Return a public key as one line, None for an empty text. Raises: InvalidInput."""
    if line is None or not line.strip():
        return None
    key, comment = parse_public_key(line)
    return f"{key.text} {comment}".strip()


def list_users(connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """Return every account in the order of the names."""
    return connection.execute(sa.select(users).order_by(users.c.username_fold)).mappings().all()


def get_user(connection: sa.Connection, user_id: int) -> sa.RowMapping:
    """Return one account. Raises: NotFound."""
    row = connection.execute(sa.select(users).where(users.c.id == user_id)).mappings().first()
    if row is None:
        raise NotFound("User not found", hint="meetingctl user list")
    return row


def find_user(connection: sa.Connection, username: str) -> sa.RowMapping | None:
    """Return the account of this name, None when there is none."""
    query = sa.select(users).where(users.c.username_fold == fold_username(username))
    return connection.execute(query).mappings().first()


def masked_token(connection: sa.Connection, user_id: int) -> str:
    """Return the last characters of the account's token behind stars; empty when it has none."""
    query = (
        sa.select(api_keys.c.last_characters)
        .where(api_keys.c.user_id == user_id, api_keys.c.revoked_at_ms.is_(None))
        .order_by(api_keys.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return "" if row is None else f"****{row[0] or ''}"


def create_user(
    connection: sa.Connection,
    actor: Actor,
    *,
    username: str,
    password_hash: str | None,
    role: str = "user",
    ssh_pubkey: str | None = None,
    authorized: bool = True,
    token: str | None = None,
) -> tuple[int, NewKey]:
    """Insert an account with its token; `token` sets a chosen one. Raises: InvalidInput, Conflict."""
    check_username(username)
    check_role(role)
    pubkey = check_pubkey(ssh_pubkey)
    _refuse_taken(connection, username)
    now = now_ms()
    row = {
        "username": username,
        "username_fold": fold_username(username),
        "role": role,
        "password_hash": password_hash,
        "ssh_pubkey": pubkey,
        "authorized": authorized,
        "generation": 1,
        "created_at_ms": now,
        "updated_at_ms": now,
    }
    user_id = int(connection.execute(users.insert().values(row).returning(users.c.id)).scalar_one())
    append(connection, actor, "user.create", f"user:{username}", after={"role": role, "authorized": authorized})
    return user_id, add_user_token(connection, actor, get_user(connection, user_id), token)


def update_user(connection: sa.Connection, actor: Actor, user_id: int, changes: Mapping[str, Any]) -> None:
    """Change columns of an account; a new password, role or ban ends its sessions.

    Raises: NotFound; Conflict for a name that is taken and for the last administrator; InvalidInput.
    """
    row = get_user(connection, user_id)
    values = dict(changes)
    if "username" in values:
        check_username(values["username"])
        _refuse_taken(connection, values["username"], besides=user_id)
        values["username_fold"] = fold_username(values["username"])
    if "ssh_pubkey" in values:
        values["ssh_pubkey"] = check_pubkey(values["ssh_pubkey"])
    if check_role(values.get("role", row["role"])) != "admin" or not values.get("authorized", row["authorized"]):
        _refuse_last_admin(connection, row)
    if any(name in values and values[name] != row[name] for name in _ENDING):
        values["generation"] = row["generation"] + 1
        end_sessions(connection, user_id)
    connection.execute(users.update().where(users.c.id == user_id).values(**values, updated_at_ms=now_ms()))
    if "role" in values or "username" in values:
        named = {"role": values.get("role", row["role"]), "name": values.get("username", row["username"])}
        connection.execute(api_keys.update().where(api_keys.c.user_id == user_id).values(**named))
    shown = [name for name in changes if name != "password_hash"]
    before, after = {name: row[name] for name in shown}, {name: values[name] for name in shown}
    after |= {"password": "changed"} if "password_hash" in changes else {}
    append(connection, actor, "user.update", f"user:{row['username']}", before=before, after=after)


def renew_token(connection: sa.Connection, actor: Actor, user_id: int) -> NewKey:
    """Revoke the tokens of an account and make a new one. Raises: NotFound."""
    row = get_user(connection, user_id)
    is_live = sa.and_(api_keys.c.user_id == user_id, api_keys.c.revoked_at_ms.is_(None))
    connection.execute(api_keys.update().where(is_live).values(revoked_at_ms=now_ms()))
    return add_user_token(connection, actor, row)


def delete_user(connection: sa.Connection, actor: Actor, user_id: int) -> None:
    """Delete an account with its token and sessions. Raises: NotFound; Conflict for the last administrator."""
    row = get_user(connection, user_id)
    _refuse_last_admin(connection, row)
    for table in (api_keys, refresh_tokens):
        connection.execute(table.delete().where(table.c.user_id == user_id))
    connection.execute(users.delete().where(users.c.id == user_id))
    append(connection, actor, "user.delete", f"user:{row['username']}", before={"role": row["role"]})


def authorized_keys(connection: sa.Connection) -> list[str]:
    """Return the public keys of all accounts that are on."""
    query = sa.select(users.c.ssh_pubkey).where(users.c.authorized, users.c.ssh_pubkey.is_not(None))
    return list(connection.execute(query.order_by(users.c.username_fold)).scalars())


def end_sessions(connection: sa.Connection, user_id: int) -> None:
    """Revoke what an account got by logging in."""
    is_live = sa.and_(refresh_tokens.c.user_id == user_id, refresh_tokens.c.revoked_at_ms.is_(None))
    connection.execute(refresh_tokens.update().where(is_live).values(revoked_at_ms=now_ms()))


def _refuse_taken(connection: sa.Connection, username: str, besides: int | None = None) -> None:
    found = find_user(connection, username)
    if found is not None and found["id"] != besides:
        raise Conflict("Username already used", hint="meetingctl user list")


def _refuse_last_admin(connection: sa.Connection, row: sa.RowMapping) -> None:
    """Raises: Conflict when this account is the only administrator that is on."""
    if row["role"] != "admin" or not row["authorized"]:
        return
    query = sa.select(sa.func.count()).select_from(users).where(users.c.role == "admin", users.c.authorized)
    if connection.execute(query).scalar_one() <= 1:
        raise Conflict("Last admin", hint="meetingctl user create NAME --role admin")
