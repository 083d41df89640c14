"""Queries and changes of device keys. Each takes a connection and runs in the caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import Forbidden, InvalidInput, NotFound
from meetingctl.core.sshkey import PublicKey, parse_public_key
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import device_key_log, device_keys, devices
from meetingctl.server.devices.store import get_device

Status = Literal["authorized", "revoked"]
DEFAULT_USER = "device"
LOG_LIMIT = 500
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_USED_EVERY_MS = 60_000

_SELECT = sa.select(
    devices.c.device_key,
    devices.c.authorized,
    devices.c.device_type,
    *(column for column in device_keys.c if column.name != "device_id"),
).select_from(device_keys.join(devices, devices.c.id == device_keys.c.device_id))


def parse_user(text: str) -> str:
    """Return the name of a user of the SSH host. Raises: InvalidInput."""
    if not _USER.fullmatch(text):
        raise InvalidInput("Missing user" if not text else "Missing or invalid field: ssh_user")
    return text


def key_object(row: sa.RowMapping) -> dict[str, Any]:
    """Return a device key as the API writes it."""
    return {
        "device_key": row["device_key"],
        "ssh_user": row["ssh_user"],
        "pubkey": row["pubkey"],
        "status": row["status"],
        "added": wire_text(row["added_at_ms"]),
        "modified": wire_text(row["modified_at_ms"]),
        "fingerprint": row["fingerprint"],
        "last_ssh": wire_text(row["last_ssh_ms"]),
    }


def list_keys(connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """Return every device key, in the order of the device keys."""
    return connection.execute(_SELECT.order_by(devices.c.key_fold)).mappings().all()


def find_key(connection: sa.Connection, device_key: str) -> sa.RowMapping | None:
    """Return the key of a device, None when it has none. Raises: NotFound for an unknown device."""
    row = connection.execute(_SELECT.where(devices.c.device_key == device_key)).mappings().first()
    if row is None:
        get_device(connection, device_key)
    return row


def get_key(connection: sa.Connection, device_key: str) -> sa.RowMapping:
    """Return the key of a device. Raises: NotFound for an unknown device or one without a key."""
    row = find_key(connection, device_key)
    if row is None:
        raise NotFound("No SSH key", hint=f"meetingctl fleet keys add {device_key} FILE.pub")
    return row


def set_key(
    connection: sa.Connection,
    actor: Actor,
    device_key: str,
    line: str,
    *,
    ssh_user: str | None = None,
    status: Status | None = None,
    is_own: bool = False,
    may_rotate: bool = False,
) -> sa.RowMapping:
    """Store the key of a device; return the row after. What is not given stays as it is, or takes its default.

    A device about itself (`is_own`) can add a key, exchange it only where it `may_rotate`, and never free it from its
    revocation (decision D-KEYAUTH). Raises: NotFound, InvalidInput for a bad key, Forbidden.
    """
    key, comment = parse_public_key(line)
    old = find_key(connection, device_key)
    if ssh_user == "root":
        raise Forbidden("ssh_user not allowed", hint="use a user without rights, such as device")
    if is_own:
        _check_own(old, key, ssh_user, status, may_rotate=may_rotate)
    now = now_ms()
    values = {
        "ssh_user": ssh_user or (old["ssh_user"] if old else DEFAULT_USER),
        "pubkey": f"{key.text} {comment}".rstrip(),
        "fingerprint": key.fingerprint,
        "status": status or "authorized",
        "modified_at_ms": now,
    }
    if old is None:
        values |= {"device_id": get_device(connection, device_key)["id"], "added_at_ms": now}
        connection.execute(device_keys.insert().values(values))
    else:
        connection.execute(device_keys.update().where(_is_of(device_key)).values(values))
    action = "revoke" if values["status"] == "revoked" else "add" if old is None else "replace"
    _note(connection, actor, device_key, action, key.fingerprint, before=old["fingerprint"] if old else None)
    return get_key(connection, device_key)


def revoke_key(connection: sa.Connection, actor: Actor, device_key: str) -> int:
    """Revoke the key of a device and keep it; return how many changed. Raises: NotFound."""
    row = get_key(connection, device_key)
    if row["status"] == "revoked":
        return 0
    values = {"status": "revoked", "modified_at_ms": now_ms()}
    connection.execute(device_keys.update().where(_is_of(device_key)).values(values))
    _note(connection, actor, device_key, "revoke", row["fingerprint"], before=row["fingerprint"])
    return 1


def list_log(connection: sa.Connection, device_key: str) -> list[dict[str, Any]]:
    """Return what happened to the key of a device, newest first. Raises: NotFound."""
    device = get_device(connection, device_key)
    query = (
        sa.select(device_key_log)
        .where(device_key_log.c.device_id == device["id"])
        .order_by(device_key_log.c.id.desc())
        .limit(LOG_LIMIT)
    )
    return [
        {
            "timestamp": wire_text(row["at_ms"]),
            "action": row["action"],
            "fingerprint": row["fingerprint"],
            "actor": row["actor"],
            "remote": row["remote"],
        }
        for row in connection.execute(query).mappings()
    ]


def keys_of_user(connection: sa.Connection, user: str, fingerprint: str | None = None) -> Sequence[sa.RowMapping]:
    """Return the keys that may log in as a user now: authorized, and of an authorized device."""
    query = _SELECT.where(_may_log_in(), device_keys.c.ssh_user == user).order_by(devices.c.key_fold)
    if fingerprint is not None:
        query = query.where(device_keys.c.fingerprint == fingerprint)
    return connection.execute(query).mappings().all()


def all_of_user(connection: sa.Connection, user: str) -> Sequence[sa.RowMapping]:
    """Return every key of a user, whatever its state."""
    query = _SELECT.where(device_keys.c.ssh_user == user).order_by(devices.c.key_fold)
    return connection.execute(query).mappings().all()


def usable_keys(connection: sa.Connection) -> sa.MappingResult:
    """Return (ssh_user, pubkey, device_key) of all keys that may log in, user by user."""
    query = _SELECT.where(_may_log_in()).order_by(device_keys.c.ssh_user, devices.c.key_fold)
    return connection.execution_options(yield_per=5000).execute(query).mappings()


def find_owner(connection: sa.Connection, key: PublicKey) -> sa.RowMapping | None:
    """Return the device that may log in with a key; its comment does not count."""
    query = _SELECT.where(_may_log_in(), device_keys.c.fingerprint == key.fingerprint).limit(1)
    return connection.execute(query).mappings().first()


def note_use(connection: sa.Connection, device_key: str) -> None:
    """Remember that a device used its key, at most once a minute."""
    now = now_ms()
    is_old = sa.or_(device_keys.c.last_ssh_ms.is_(None), device_keys.c.last_ssh_ms < now - _USED_EVERY_MS)
    connection.execute(device_keys.update().where(_is_of(device_key), is_old).values(last_ssh_ms=now))


def _check_own(
    old: sa.RowMapping | None, key: PublicKey, ssh_user: str | None, status: str | None, *, may_rotate: bool
) -> None:
    hint = "ask an operator: meetingctl fleet keys add DEVICE FILE.pub"
    if status not in (None, "authorized") or ssh_user not in (None, old["ssh_user"] if old else DEFAULT_USER):
        raise Forbidden("A device may set only its public key", hint=hint)
    if old is not None and old["status"] == "revoked":
        raise Forbidden("Key is revoked", hint=hint)
    if old is not None and old["fingerprint"] != key.fingerprint and not may_rotate:
        raise Forbidden("Key rotation not allowed", hint=hint)


def _may_log_in() -> sa.ColumnElement[bool]:
    return sa.and_(device_keys.c.status == "authorized", devices.c.authorized)


def _is_of(device_key: str) -> sa.ColumnElement[bool]:
    device = sa.select(devices.c.id).where(devices.c.device_key == device_key).scalar_subquery()
    return device_keys.c.device_id == device


def _note(
    connection: sa.Connection, actor: Actor, device_key: str, action: str, fingerprint: str, *, before: str | None
) -> None:
    device = sa.select(devices.c.id).where(devices.c.device_key == device_key).scalar_subquery()
    values = {
        "device_id": device,
        "at_ms": now_ms(),
        "action": action,
        "fingerprint": fingerprint,
        "actor": actor.principal[:160],
        "remote": actor.peer[:64],
    }
    connection.execute(device_key_log.insert().values(values))
    shown = {"fingerprint": fingerprint}
    append(connection, actor, f"ssh-key.{action}", f"device:{device_key}", before={"fingerprint": before}, after=shown)
