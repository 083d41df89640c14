"""The key pair with which this server logs in to devices, and the host keys that its sshd shows."""

from __future__ import annotations

import glob
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import InvalidInput, NotFound
from meetingctl.core.paths import write_atomic
from meetingctl.core.sshkey import PublicKey, parse_public_key
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import server_keys
from meetingctl.server.state import ServerState

_LARGEST_HOST_KEY = 64 * 1024


def current_key(connection: sa.Connection) -> sa.RowMapping:
    """Return the newest key that is not retired. Raises: NotFound."""
    query = sa.select(server_keys).where(server_keys.c.retired_at_ms.is_(None)).order_by(server_keys.c.id.desc())
    row = connection.execute(query.limit(1)).mappings().first()
    if row is None:
        raise NotFound("No server key", hint="meetingctl fleet keys rotate")
    return row


def keep_public_key(connection: sa.Connection, actor: Actor, line: str) -> sa.RowMapping:
    """Store a public key whose private half is kept elsewhere; the keys before it are retired. Raises: InvalidInput."""
    key, comment = parse_public_key(line)
    return _insert(connection, actor, key, comment, origin="given", is_confirmed=True)


def make_pair(state: ServerState, actor: Actor) -> sa.RowMapping:
    """Make an Ed25519 pair; the one before it stays valid until `confirm`. Raises: OSError when it cannot be kept."""
    private = ed25519.Ed25519PrivateKey.generate()
    encoding, formats = serialization.Encoding, serialization.PublicFormat
    public = private.public_key().public_bytes(encoding.OpenSSH, formats.OpenSSH).decode()
    content = private.private_bytes(encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    key, _ = parse_public_key(public)
    path = private_path(state.data_dir, key.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, content, mode=0o600)
    return state.writer.run(lambda c: _insert(c, actor, key, "meeting", origin="made", is_confirmed=False))


def confirm(state: ServerState, actor: Actor) -> int:
    """Retire every key but the newest, when the devices know that one; return how many. Raises: NotFound."""

    def change(connection: sa.Connection) -> list[str]:
        newest = current_key(connection)
        is_older = sa.and_(server_keys.c.id != newest["id"], server_keys.c.retired_at_ms.is_(None))
        old = connection.execute(sa.select(server_keys.c.fingerprint).where(is_older)).scalars().all()
        connection.execute(server_keys.update().where(is_older).values(retired_at_ms=now_ms()))
        is_newest = server_keys.c.id == newest["id"]
        connection.execute(server_keys.update().where(is_newest).values(confirmed_at_ms=now_ms()))
        append(connection, actor, "server-key.confirm", f"key:{newest['fingerprint']}", before={"retired": list(old)})
        return list(old)

    retired = state.writer.run(change)
    for fingerprint in retired:
        private_path(state.data_dir, fingerprint).unlink(missing_ok=True)
    return len(retired)


def private_path(data_dir: Path, fingerprint: str) -> Path:
    """Where the private half of a server key is kept."""
    name = fingerprint.removeprefix("SHA256:").replace("/", "-").replace("+", "_")
    return data_dir / "keys" / "server" / f"id_{name}"


def read_host_keys(pattern: str) -> list[PublicKey]:
    """Read the public host keys that a pattern of file names finds; files that are no key are left out."""
    keys = []
    for name in sorted(glob.glob(pattern)):  # noqa: PTH207 - the pattern is absolute
        try:
            with open(name, encoding="utf-8") as file:  # noqa: PTH123 - a name that glob gave
                keys.append(parse_public_key(file.read(_LARGEST_HOST_KEY))[0])
        except (OSError, UnicodeDecodeError, InvalidInput):
            continue
    return keys


def _insert(
    connection: sa.Connection, actor: Actor, key: PublicKey, comment: str, *, origin: str, is_confirmed: bool
) -> sa.RowMapping:
    now = now_ms()
    if is_confirmed:
        retired = server_keys.update().where(server_keys.c.retired_at_ms.is_(None)).values(retired_at_ms=now)
        connection.execute(retired)
    values = {
        "pubkey": f"{key.text} {comment}".rstrip(),
        "fingerprint": key.fingerprint,
        "origin": origin,
        "created_at_ms": now,
        "confirmed_at_ms": now if is_confirmed else None,
    }
    connection.execute(server_keys.insert().values(values))
    append(connection, actor, "server-key.set", f"key:{key.fingerprint}", after={"origin": origin})
    return current_key(connection)
