"""From a row of the original's tables to values of ours: pure, and forgiving about how a column is called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.ids import is_device_key, is_name, parse_token_code
from meetingctl.core.net import is_address, is_mac
from meetingctl.core.services import DECLARED_SERVICES, DEFAULT_LOCAL_PORTS, TUNNEL_SERVICES
from meetingctl.core.sshkey import parse_public_key
from meetingctl.server.db.mysql_dump import Value
from meetingctl.server.identity.passwords import is_known_hash

Row = Mapping[str, Value]
Values = dict[str, Any]

TABLES = (
    "devices",
    "device_types",
    "update_channels",
    "device_keys",
    "tunnel_ports",
    "connection_logs",
    "builder_users",
)
_MOST_NUMBER = 2**62
_SHORT_TOKEN = 20
_ROLES = ("admin", "operator", "viewer", "user")
_KEY = ("device_key", "devicekey")
# What else each table may call a column; the first name is the contract's.
_NAMES: dict[str, tuple[str, ...]] = {
    "added": ("added", "added_at", "created_at"),
    "at": ("timestamp", "created_at", "at", "date", "time"),
    "bundles": ("bundles", "bundles_json"),
    "last_seen": ("last_seen", "last_heartbeat"),
    "modified": ("modified", "modified_at", "updated_at"),
    "password": ("password_hash", "password", "passwd"),
    "port": ("port", "public_port", "remote_port"),
    "pubkey": ("pubkey", "public_key", "ssh_public_key"),
    "remote": ("remote", "remote_addr", "ip"),
    "target": ("target_version", "version"),
    "user_key": ("ssh_pubkey", "ssh_public_key", "pubkey"),
    "username": ("username", "login", "name"),
}


class Skipped(Exception):
    """This row cannot be taken; the message says why, without secrets. Without one nobody needs to hear of it."""


class Notes:
    """What was taken otherwise than it stood there."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        self.texts.append(text)


def device_key_of(row: Row) -> str | None:
    """Return which device a row is about, by key."""
    return _text(row, *_KEY)


def parent_key_of(row: Row) -> str | None:
    """Return the key of a device's parent."""
    return _text(row, "parent_device_key", "parent_key")


def device_values(row: Row, notes: Notes) -> tuple[Values, Values | None]:
    """Return the columns of `devices`, and those of `presence` or None.

    `token_code` is absent where the original has none that could work. Raises: Skipped.
    """
    key = device_key_of(row) or ""
    if not is_device_key(key):
        raise Skipped("not a device key, or a reserved word")
    values: Values = {
        "device_key": key,
        "key_fold": key.lower(),
        "device_name": _text(row, "device_name", "name", most=128),
        "product_serial": _text(row, "product_serial", most=64),
        "authorized": _flag(row, "authorized"),
        "token_count": max(0, _number(row, "token_count") or 0),
        "device_type": _name(row, "device_type", notes),
        "distribution": _name(row, "distribution", notes),
        "note": _text(row, "note", most=2000) or "",
        "services": _services(row, "services", notes),
        "bundles": _list(row, *_NAMES["bundles"]),
        "ghost_candidate_url": _text(row, "ghost_candidate_url", most=2048),
        "registered_at_ms": _time_ms(row, "registered_at"),
        "created_at_ms": _time_ms(row, "created_at") or _time_ms(row, "registered_at"),
        **{
            name: text
            for name in ("ap_ssid", "ap_password", "http_pw_low", "http_pw_medium", "http_pw_high")
            if (text := _text(row, name, most=64))
        },
    }
    try:
        values["token_code"] = str(parse_token_code(_text(row, "token_code") or ""))
    except MeetingctlError:
        notes.add("no token code of 6 hex digits: it got a new one")
    seen_ms = _time_ms(row, *_NAMES["last_seen"])
    presence = None if seen_ms is None else {"last_seen_ms": seen_ms, "authenticated": 0, **_addresses(row)}
    return values, presence


def _addresses(row: Row) -> Values:
    names = ("ip_address", "ip_lan", "ip_public")
    found: Values = {name: text if is_address(text := _text(row, name)) else None for name in names}
    mac = _text(row, "mac")
    return {**found, "mac": mac if is_mac(mac) else None, "cluster_ip": _text(row, "cluster_ip", most=255)}


def type_values(row: Row, notes: Notes) -> Values:
    """Return the columns of `device_types` but its parent's. Raises: Skipped."""
    name = _text(row, "name") or ""
    if not is_name(name):
        raise Skipped("its name cannot be one of ours")
    if (_text(row, "status") or "active") == "deleted":
        raise Skipped("deleted")
    if _text(row, "icon_path", "icon"):
        notes.add("its icon is a file: send it again")
    created_ms = _time_ms(row, "created_at")
    return {
        "name": name,
        "serial_prefix": _text(row, "serial_prefix", most=16) or name.upper()[:16],
        "platform": _text(row, "platform", most=64),
        "services_default": _services(row, "services_default", notes),
        "description": _text(row, "description", most=2000),
        "tags": [str(tag) for tag in _list(row, "tags")],
        "default_distribution": _name(row, "default_distribution", notes),
        "status": "active",
        "created_at_ms": created_ms,
        "updated_at_ms": _time_ms(row, "updated_at") or created_ms,
    }


def channel_values(row: Row) -> Values:
    """Return the columns of `update_channels`. Raises: Skipped."""
    values: Values = {name: _text(row, name) or "" for name in ("device_type", "distribution")}
    values["channel"] = _text(row, "channel", "name") or "default"
    if bad := [name for name, text in values.items() if not is_name(text)]:
        raise Skipped(f"{' and '.join(bad)} cannot be one of ours")
    target = _text(row, *_NAMES["target"])
    if not target or len(target) > 64:
        raise Skipped("no target version")
    created_ms = _time_ms(row, "created_at")
    return {
        **values,
        "target_version": target,
        "active": _flag(row, "active", missing=True),
        "created_at_ms": created_ms,
        "updated_at_ms": _time_ms(row, "updated_at") or created_ms,
    }


def key_values(row: Row, users: frozenset[str]) -> Values:
    """Return the columns of `device_keys` but the device. `users` are names that must not be. Raises: Skipped."""
    try:
        key, comment = parse_public_key(_text(row, *_NAMES["pubkey"]) or "")
    except MeetingctlError as exc:
        raise Skipped(f"the key is not taken: {exc.message}") from exc
    user = _text(row, "ssh_user", "user") or "device"
    if user in users or len(user) > 32 or not user.replace("-", "_").isidentifier() or not user.isascii():
        raise Skipped("ssh_user is not allowed")
    added_ms = _time_ms(row, *_NAMES["added"])
    return {
        "ssh_user": user,
        "pubkey": f"{key.text} {comment}".rstrip(),
        "fingerprint": key.fingerprint,
        "status": "revoked" if _text(row, "status") in ("revoked", "0", "disabled") else "authorized",
        "added_at_ms": added_ms,
        "modified_at_ms": _time_ms(row, *_NAMES["modified"]) or added_ms,
        "last_ssh_ms": _time_ms(row, "last_ssh", "last_used"),
    }


def tunnel_values(row: Row, now_ms: int) -> Values:
    """Return the columns of `tunnel_ports` but the device. Raises: Skipped, also for what has ended."""
    port = _number(row, *_NAMES["port"]) or 0
    if not 1 <= port <= 65535:
        raise Skipped("not a port")
    service = _text(row, "service") or ""
    if service not in TUNNEL_SERVICES:
        raise Skipped("unknown service")
    local_port = _number(row, "local_port") or DEFAULT_LOCAL_PORTS.get(service, 0)
    if not 1 <= local_port <= 65535:
        raise Skipped("no port on the device")
    expires_ms = _time_ms(row, "expires_at", "expires")
    if expires_ms is not None and expires_ms <= now_ms:
        raise Skipped("expired")
    opened_ms = _time_ms(row, "created_at", "opened_at") or now_ms
    values = {"port": port, "service": service, "local_port": local_port, "expires_at_ms": expires_ms}
    return {**values, "opened_at_ms": opened_ms, "requested_by": "import"}


def log_values(row: Row) -> Values:
    """Return the columns of `connection_logs` but the device. Raises: Skipped."""
    at_ms = _time_ms(row, *_NAMES["at"])
    if at_ms is None:
        raise Skipped("no time")
    event = _text(row, "event", "action", most=64)
    if not event:
        raise Skipped("no event")
    host, remote = _text(row, "host", most=255) or "", _text(row, *_NAMES["remote"], most=64) or ""
    return {"at_ms": at_ms, "event": event, "host": host, "remote": remote}


def user_values(row: Row, notes: Notes) -> Values:
    """Return what an account is made of: username, role, password_hash, token, ssh_pubkey, authorized, created_at_ms.

    Whether the name can be one of ours is the business of accounts.
    """
    role = _text(row, "role") or "user"
    if role not in _ROLES:
        notes.add(f"role {role[:32]} is not one of ours: it became user")
    password = _text(row, *_NAMES["password"], most=4096)
    if password is not None and not is_known_hash(password):
        notes.add("its password cannot be checked here: set a new one")
        password = None
    token = _text(row, "token", "api_token")
    if token is not None and len(token) < _SHORT_TOKEN:
        notes.add("its token is short enough to be guessed: renew it")
    pubkey = _text(row, *_NAMES["user_key"])
    try:
        if pubkey is not None:
            parse_public_key(pubkey)
    except MeetingctlError as exc:
        notes.add(f"its SSH key was left out: {exc.message}")
        pubkey = None
    return {
        "username": _text(row, *_NAMES["username"]) or "",
        "role": role if role in _ROLES else "user",
        "password_hash": password,
        "token": token,
        "ssh_pubkey": pubkey,
        "authorized": _flag(row, "authorized", "active", missing=True),
        "created_at_ms": _time_ms(row, "created_at"),
    }


def original_id(row: Row, name: str = "id") -> int | None:
    """Return a number by which the original's rows refer to each other."""
    return _number(row, name)


def _pick(row: Row, names: Iterable[str]) -> Value:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(row: Row, *names: str, most: int | None = None) -> str | None:
    """Return a text without control characters that no column of ours takes; None for an empty one."""
    value = _pick(row, names)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
    return text.replace("\0", "").strip()[:most] or None


def _number(row: Row, *names: str) -> int | None:
    value = _pick(row, names)
    try:
        number = int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < _MOST_NUMBER else None


def _flag(row: Row, *names: str, missing: bool = False) -> bool:
    value = _pick(row, names)
    if isinstance(value, bytes):
        return any(value)
    return missing if value is None else str(value).strip().lower() in ("1", "true", "yes", "y", "on", "\x01")


def _name(row: Row, column: str, notes: Notes) -> str | None:
    text = _text(row, column)
    if text is not None and not is_name(text):
        notes.add(f"{column} cannot be one of ours: left out")
        return None
    return text


def _list(row: Row, *names: str) -> list[Any]:
    """Read JSON, or words with commas between them."""
    text = _text(row, *names)
    if text is None:
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [word for part in text.split(",") if (word := part.strip())]
    if isinstance(value, Mapping):
        return [name for name, is_on in value.items() if is_on]
    return value if isinstance(value, list) else [str(value)]


def _services(row: Row, column: str, notes: Notes) -> list[str]:
    given = [str(name).lower() for name in _list(row, column)]
    if unknown := sorted(set(given) - set(DECLARED_SERVICES)):
        notes.add(f"unknown services left out: {', '.join(unknown)[:80]}")
    return [name for name in DECLARED_SERVICES if name in given]


def _time_ms(row: Row, *names: str) -> int | None:
    """Read a date of MySQL, or seconds since the epoch, as UTC; None for `0000-00-00` and for what is no time."""
    value = _pick(row, names)
    if isinstance(value, int):
        return value * 1000 if 0 < value < 2**33 else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp() * 1000)) or None
