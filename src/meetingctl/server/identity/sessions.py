"""Logins of people: a short signed access token (JWT, EdDSA) and a refresh token that works once.

A family is what follows from one login. A refresh token that is shown a second time was stolen from one of two, so it
ends its family. Access tokens name the family and the generation of the account, both looked up when they are checked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import ConfigError, ExpiredCredential
from meetingctl.core.paths import read_small_text
from meetingctl.core.secret import sha256_hex
from meetingctl.core.settings import Settings
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import refresh_tokens, users
from meetingctl.server.identity.principal import Principal, principal_of_user

FILE_NAME = "login.key"
ACCESS_S = 900
REFRESH_S = 7 * 86_400
ISSUER = "meetingctl"
_ALGORITHM = "EdDSA"  # the only one: a token never chooses how it is checked
_TYPE = "at+jwt"  # RFC 9068
_CLOCKS_S = 5  # several processes on several machines
_NEEDED = ["iss", "aud", "sub", "sid", "gen", "iat", "exp"]


class Issued(NamedTuple):
    """What a login or a refresh hands out, at the only moment when the texts are known."""

    access_token: str
    refresh_token: str
    user: sa.RowMapping


class Signer:
    """Sign and check access tokens with the key of this server, which is made at the first login."""

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        self._path = settings.login_key_file or data_dir / FILE_NAME
        self._is_ours = settings.login_key_file is None
        self._lock = threading.Lock()
        self._key: Ed25519PrivateKey | None = None

    def sign(self, user: Any, family: str) -> str:
        """Return an access token for a row of `users`. Raises: ConfigError."""
        now_s = now_ms() // 1000
        claims = {
            "iss": ISSUER,
            "aud": ISSUER,
            "sub": str(user["id"]),
            "name": user["username"],
            "role": user["role"],
            "sid": family,
            "gen": user["generation"],
            "jti": secrets.token_hex(8),
            "iat": now_s,
            "exp": now_s + ACCESS_S,
        }
        return jwt.encode(claims, self._signing_key(may_make=True), _ALGORITHM, headers={"typ": _TYPE})

    def read(self, text: str) -> dict[str, Any] | None:
        """Return the claims of a token of ours, None for anything else. Raises: ExpiredCredential."""
        try:
            public_key = self._signing_key(may_make=False).public_key()
        except FileNotFoundError:
            return None
        try:
            found = jwt.decode_complete(
                text,
                public_key,
                [_ALGORITHM],
                audience=ISSUER,
                issuer=ISSUER,
                leeway=_CLOCKS_S,
                options={"require": _NEEDED},
            )
        except jwt.ExpiredSignatureError:
            raise ExpiredCredential("Credential expired", hint="meetingctl login") from None
        except jwt.InvalidTokenError:
            return None
        return dict(found["payload"]) if found["header"].get("typ") == _TYPE else None

    def _signing_key(self, *, may_make: bool) -> Ed25519PrivateKey:
        """Raises: ConfigError for a file that holds no such key; FileNotFoundError when none was made yet."""
        with self._lock:
            if self._key is None:
                self._key = self._load(may_make)
            return self._key

    def _load(self, may_make: bool) -> Ed25519PrivateKey:
        if self._is_ours and may_make and not self._path.exists():
            _make_key(self._path)
        try:
            key = load_pem_private_key(read_small_text(self._path).encode(), None)
        except FileNotFoundError:
            if self._is_ours:
                raise
            raise self._no_key() from None
        except (OSError, ValueError, TypeError):
            raise self._no_key() from None
        if not isinstance(key, Ed25519PrivateKey):
            raise self._no_key()
        return key

    def _no_key(self) -> ConfigError:
        hint = "openssl genpkey -algorithm ed25519 -out FILE"
        return ConfigError(f"{self._path} is no readable Ed25519 private key in PEM", hint=hint)


def _make_key(path: Path) -> None:
    """Make the key file, whole from the start; of two processes that make it at once one wins."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def looks_signed(text: str) -> bool:
    """Say whether a bearer token has the shape of a JWT."""
    return text.startswith("eyJ") and text.count(".") == 2


def check_access(connection: sa.Connection, signer: Signer, text: str) -> Principal | None:
    """Return the principal of an access token; None when it is forged, or its login has ended.

    Raises: ExpiredCredential.
    """
    claims = signer.read(text)
    if claims is None or not str(claims["sub"]).isdigit():
        return None
    user = connection.execute(sa.select(users).where(users.c.id == int(claims["sub"]))).mappings().first()
    if user is None or not user["authorized"] or user["generation"] != claims["gen"]:
        return None
    if not _is_alive(connection, user["id"], str(claims["sid"])):
        return None
    return principal_of_user(user, session=str(claims["sid"]), expires_at_ms=(claims["exp"] + _CLOCKS_S) * 1000)


def _is_alive(connection: sa.Connection, user_id: int, family: str) -> bool:
    """Say whether a login was neither ended nor forgotten."""
    of_family = sa.and_(refresh_tokens.c.family == family, refresh_tokens.c.user_id == user_id)
    query = sa.select(sa.func.count(), sa.func.count(refresh_tokens.c.revoked_at_ms)).where(of_family)
    tokens, revoked = connection.execute(query).one()
    return bool(tokens) and not revoked


def open_session(connection: sa.Connection, actor: Actor, signer: Signer, user: Any) -> Issued:
    """Begin a family for an account that has just proven itself."""
    family = secrets.token_hex(16)
    append(connection, actor, "session.open", f"user:{user['username']}")
    return Issued(signer.sign(user, family), _issue(connection, user["id"], family, actor.peer), user)


class Reused(NamedTuple):
    """Somebody showed a refresh token for the second time; its family has ended, once this is committed."""

    family: str


def renew_session(connection: sa.Connection, actor: Actor, signer: Signer, text: str) -> Issued | Reused | None:
    """Exchange a refresh token for new tokens; None when it is worth nothing."""
    now = now_ms()
    found = refresh_tokens.c.token_sha256 == sha256_hex(text)
    row = connection.execute(sa.select(refresh_tokens).where(found)).mappings().first()
    if row is None or row["revoked_at_ms"] is not None:
        return None
    user = connection.execute(sa.select(users).where(users.c.id == row["user_id"])).mappings().one()
    if row["used_at_ms"] is not None:
        close_session(connection, row["family"])
        append(connection, actor, "session.reuse", f"user:{user['username']}", result="refused")
        return Reused(row["family"])
    if row["expires_at_ms"] <= now or not user["authorized"]:
        return None
    unused = sa.and_(found, refresh_tokens.c.used_at_ms.is_(None), refresh_tokens.c.revoked_at_ms.is_(None))
    if connection.execute(refresh_tokens.update().where(unused).values(used_at_ms=now)).rowcount != 1:
        close_session(connection, row["family"])
        return Reused(row["family"])
    fresh = _issue(connection, user["id"], row["family"], actor.peer)
    return Issued(signer.sign(user, row["family"]), fresh, user)


def close_session(connection: sa.Connection, family: str) -> int:
    """Revoke everything of one login; return how many tokens were still worth something."""
    is_live = sa.and_(refresh_tokens.c.family == family, refresh_tokens.c.revoked_at_ms.is_(None))
    return connection.execute(refresh_tokens.update().where(is_live).values(revoked_at_ms=now_ms())).rowcount


def family_of(connection: sa.Connection, text: str) -> str | None:
    """Return the family of a refresh token, None when it is unknown."""
    query = sa.select(refresh_tokens.c.family).where(refresh_tokens.c.token_sha256 == sha256_hex(text))
    found: str | None = connection.execute(query).scalar()
    return found


def _issue(connection: sa.Connection, user_id: int, family: str, peer: str) -> str:
    text, now = f"mr_{secrets.token_urlsafe(32)}", now_ms()
    row = {
        "user_id": user_id,
        "family": family,
        "token_sha256": sha256_hex(text),
        "peer": peer[:64],
        "issued_at_ms": now,
        "expires_at_ms": now + REFRESH_S * 1000,
    }
    connection.execute(refresh_tokens.insert().values(row))
    return text
