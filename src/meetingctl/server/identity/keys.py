"""API keys: `mk_<id>_<secret>`, 256 bits, kept as SHA-256, shown once."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import ConfigError, Conflict, ExpiredCredential, Forbidden, InvalidInput, NotFound
from meetingctl.core.secret import sha256_hex
from meetingctl.server.audit.chain import SYSTEM, Actor, append
from meetingctl.server.db.schema import api_keys, users
from meetingctl.server.identity.principal import KEY_ROLES, PERMISSIONS, Principal, principal_of_key, principal_of_user

_CACHE_ENTRIES = 10_000
_CACHE_S = 5.0  # bounds how long another process may honour a key that this one revoked
_USED_EVERY_MS = 60_000
_BOOTSTRAP = re.compile(r"[\x21-\x7e]{16,256}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when its text is known."""

    row: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key is limited to; None is no limit."""

    permissions: tuple[str, ...] | None = None
    device_types: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None

    def columns(self) -> dict[str, list[str] | None]:
        """Return the columns of the table."""
        values = {"permissions": self.permissions, "device_types": self.device_types, "tags": self.tags}
        return {name: None if given is None else sorted(set(given)) for name, given in values.items()}


NO_LIMITS = KeyLimits()


def check_maker(maker: Principal, expires_at_ms: int | None) -> None:
    """Let nobody make a key that can do more than their own, or longer. Raises: Forbidden."""
    is_longer = maker.kind == "key" and maker.expires_at_ms is not None
    if is_longer and (expires_at_ms is None or expires_at_ms > (maker.expires_at_ms or 0)):
        raise Forbidden("Key would outlive your own", hint="give it an earlier end with --expires")
    if not maker.is_full_admin:
        raise Forbidden("Forbidden", needed="admin")


def check_lasting(maker: Principal) -> None:
    """Keep a key that ends from giving out what does not: accounts and their tokens. Raises: Forbidden."""
    check_maker(maker, None)


def new_key_text() -> tuple[str, str]:
    """Return (public id, key text)."""
    public_id = secrets.token_hex(6)
    return public_id, f"mk_{public_id}_{secrets.token_urlsafe(32)}"


def create_key(
    connection: sa.Connection,
    actor: Actor,
    *,
    name: str,
    role: str,
    expires_at_ms: int | None = None,
    text: str | None = None,
    limits: KeyLimits = NO_LIMITS,
) -> NewKey:
    """Insert a key; `text` sets a chosen one.

    Raises: InvalidInput for an unknown role or permission, and for limits on a service's key.
    """
    if role not in KEY_ROLES:
        raise InvalidInput("Missing or invalid field: role", hint=f"use one of {', '.join(KEY_ROLES)}")
    if limits != NO_LIMITS and role in ("proxy", "sshd"):
        raise InvalidInput("Missing or invalid field: permissions", hint="the keys of services have no limits")
    if not set(limits.permissions or ()) <= set(PERMISSIONS):
        raise InvalidInput("Missing or invalid field: permissions", hint=f"use {', '.join(PERMISSIONS)}")
    public_id, made = new_key_text()
    row = {
        "public_id": public_id,
        "name": name,
        "role": role,
        "secret_sha256": sha256_hex(text or made),
        "created_at_ms": now_ms(),
        "created_by": actor.principal[:160],
        "expires_at_ms": expires_at_ms,
        "last_characters": (text or made)[-4:],
        **limits.columns(),
    }
    connection.execute(api_keys.insert().values(row))
    limited = {limit: values for limit, values in limits.columns().items() if values is not None}
    append(connection, actor, "key.create", f"key:{public_id}", after={"name": name, "role": role} | limited)
    return NewKey(row, text or made)


def add_user_token(connection: sa.Connection, actor: Actor, user: Any, text: str | None = None) -> NewKey:
    """Insert the token of an account (a row of `users`), which has the rights of the account; `text` sets a chosen one.

    Raises: Conflict for a text that another key has.
    """
    public_id, made = new_key_text()
    digest = sha256_hex(text or made)
    if connection.execute(sa.select(api_keys.c.id).where(api_keys.c.secret_sha256 == digest)).first() is not None:
        raise Conflict("Token already used")
    row = {
        "public_id": public_id,
        "name": user["username"],
        "role": user["role"],
        "secret_sha256": digest,
        "created_at_ms": now_ms(),
        "created_by": actor.principal[:160],
        "last_characters": (text or made)[-4:],
        "user_id": user["id"],
    }
    connection.execute(api_keys.insert().values(row))
    append(connection, actor, "key.create", f"key:{public_id}", after={"user": user["username"], "role": user["role"]})
    return NewKey(row, text or made)


def revoke_key(connection: sa.Connection, actor: Actor, public_id: str) -> None:
    """Revoke a key. Raises: NotFound; Conflict for the last administrator key that works."""
    row = connection.execute(sa.select(api_keys).where(api_keys.c.public_id == public_id)).mappings().first()
    if row is None:
        raise NotFound("Key not found", hint="meetingctl token list")
    if row["revoked_at_ms"] is not None:
        return
    if _is_working_admin(row) and _working_admins(connection) <= 1:
        raise Conflict("Last admin key", hint="meetingctl token create NAME --role admin")
    connection.execute(api_keys.update().where(api_keys.c.id == row["id"]).values(revoked_at_ms=now_ms()))
    append(connection, actor, "key.revoke", f"key:{public_id}", before={"name": row["name"], "role": row["role"]})


def list_keys(connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """Return every key, newest first, without its secret."""
    columns = [column for column in api_keys.c if column.name != "secret_sha256"]
    query = sa.select(*columns, users.c.username).select_from(api_keys.outerjoin(users))
    return connection.execute(query.order_by(api_keys.c.id.desc())).mappings().all()


def ensure_first_admin(connection: sa.Connection, bootstrap: str) -> NewKey | None:
    """Make the first administrator's key on an empty database, or take over a changed bootstrap token.

    Returns the new key, None when there was nothing to do. Raises: ConfigError for a bootstrap token that is too weak.
    """
    if bootstrap:
        if not _BOOTSTRAP.fullmatch(bootstrap):
            raise ConfigError(
                "bootstrap_token must have 16 to 256 printable characters without blanks",
                hint="export MEETINGCTL_BOOTSTRAP_TOKEN=$(openssl rand -hex 32)",
            )
        known = sa.select(api_keys.c.id).where(api_keys.c.secret_sha256 == sha256_hex(bootstrap))
        if connection.execute(known).first() is None:
            return create_key(connection, SYSTEM, name="bootstrap", role="admin", text=bootstrap)
        return None
    admins = sa.select(api_keys.c.id).where(api_keys.c.role == "admin", api_keys.c.user_id.is_(None))
    if connection.execute(admins.limit(1)).first() is None:
        return create_key(connection, SYSTEM, name="first-admin", role="admin")
    return None


def ensure_builder_key(connection: sa.Connection, text: str) -> None:
    """Let the original's setting `builder_api_token` be a key that builds and publishes. Raises: ConfigError."""
    if not text:
        return
    if not _BOOTSTRAP.fullmatch(text):
        raise ConfigError(
            "builder_api_token must have 16 to 256 printable characters without blanks",
            hint="export MEETINGCTL_BUILDER_API_TOKEN=$(openssl rand -hex 32)",
        )
    known = sa.select(api_keys.c.id).where(api_keys.c.secret_sha256 == sha256_hex(text))
    if connection.execute(known).first() is None:
        limits = KeyLimits(permissions=("updates:publish", "updates:view"))
        create_key(connection, SYSTEM, name="builder", role="operator", text=text, limits=limits)


def _works(row: sa.RowMapping) -> bool:
    return row["revoked_at_ms"] is None and (row["expires_at_ms"] is None or row["expires_at_ms"] > now_ms())


def _is_working_admin(row: sa.RowMapping) -> bool:
    """Say whether a key that belongs to no user may do everything."""
    if row["role"] != "admin" or row["user_id"] is not None or not _works(row):
        return False
    is_scoped = row["permissions"] is not None and "admin:full" not in row["permissions"]
    return not is_scoped and row["device_types"] is None and row["tags"] is None


def _working_admins(connection: sa.Connection) -> int:
    rows = connection.execute(sa.select(api_keys).where(api_keys.c.role == "admin")).mappings()
    return sum(_is_working_admin(row) for row in rows)


class KeyRing:
    """Verified keys in memory, so that a request costs a hash and a look-up instead of a query."""

    def __init__(self) -> None:
        self._principals: dict[str, tuple[float, Principal]] = {}
        self._used_at_ms: dict[str, int] = {}

    def cached(self, key_text: str, now_s: float) -> Principal | None:
        """Return the principal of a key verified in the last seconds."""
        entry = self._principals.get(sha256_hex(key_text))
        if entry is None or entry[0] < now_s:
            return None
        principal = entry[1]
        if principal.expires_at_ms is not None and principal.expires_at_ms <= now_ms():
            return None
        return principal

    def verify(self, connection: sa.Connection, key_text: str, now_s: float) -> Principal | None:
        """Look the key up; None when it is unknown or revoked. Failures are never cached. Raises: ExpiredCredential."""
        digest = sha256_hex(key_text)
        row = connection.execute(sa.select(api_keys).where(api_keys.c.secret_sha256 == digest)).mappings().first()
        if row is None or row["revoked_at_ms"] is not None:
            return None
        if not _works(row):
            raise ExpiredCredential("Credential expired", hint="ask an administrator for a new key")
        principal = _principal_of(connection, row)
        if principal is None:
            return None
        self.keep(key_text, principal, now_s)
        return principal

    def keep(self, text: str, principal: Principal, now_s: float) -> None:
        """Remember for a few seconds whose credential a text is."""
        if len(self._principals) >= _CACHE_ENTRIES:
            self._principals.clear()
        self._principals[sha256_hex(text)] = (now_s + _CACHE_S, principal)

    def forget_all(self) -> None:
        """Drop every cached key, after a revocation."""
        self._principals.clear()

    def stale_use(self, principal: Principal) -> bool:
        """Say whether the key's last use should be written again, at most once a minute."""
        if principal.key_id is None:
            return False
        now = now_ms()
        if now - self._used_at_ms.get(principal.key_id, 0) < _USED_EVERY_MS:
            return False
        self._used_at_ms[principal.key_id] = now
        return True


def _principal_of(connection: sa.Connection, row: sa.RowMapping) -> Principal | None:
    """Make the principal of a working key; the token of an account has the rights of the account while that is on."""
    if row["user_id"] is None:
        return principal_of_key(
            row["public_id"],
            row["name"],
            row["role"],
            row["expires_at_ms"],
            permissions=row["permissions"],
            device_types=row["device_types"],
            tags=row["tags"],
        )
    user = connection.execute(sa.select(users).where(users.c.id == row["user_id"])).mappings().first()
    if user is None or not user["authorized"]:
        return None
    return principal_of_user(user, key_id=row["public_id"], expires_at_ms=row["expires_at_ms"])


def touch_key(connection: sa.Connection, public_id: str) -> None:
    """Write a key's last use."""
    connection.execute(api_keys.update().where(api_keys.c.public_id == public_id).values(last_used_at_ms=now_ms()))
