"""The heartbeat: the call that comes thousands of times a second, answered after its commit.

A heartbeat proves that a device lives and where. It never sets services, type or authorization (decision D-HBSVC). An
invalid optional field is dropped, an unknown one ignored (D-HBFIELDS).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import AuthError, Forbidden, InvalidInput, NotFound, RateLimited
from meetingctl.core.ids import DEVICE_KEY_PATTERN
from meetingctl.core.limits import TokenBucket
from meetingctl.core.net import is_address, is_mac
from meetingctl.core.settings import Settings
from meetingctl.server.db.schema import connection_logs
from meetingctl.server.db.writer import GroupWriter
from meetingctl.server.devices.index import DeviceFacts, DeviceIndex
from meetingctl.server.identity.credentials import CredentialCheck, Credentials, bearer_of
from meetingctl.server.identity.principal import Role

if TYPE_CHECKING:
    from meetingctl.server.front import RequestFacts
    from meetingctl.server.metrics.prometheus import Metrics

BURST = 5
BODY_CAP_BYTES = 16 * 1024
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(DEVICE_KEY_PATTERN[1:-1])

Row = tuple[Any, ...]
_COLUMNS = (
    ("device_id", "bigint"),
    ("last_seen_ms", "bigint"),
    ("authenticated", "int"),
    ("ip_address", "text"),
    ("ip_lan", "text"),
    ("ip_public", "text"),
    ("mac", "text"),
    ("cluster_ip", "text"),
    ("status_note", "text"),
    ("installed_version", "text"),
)
_NAMES = ", ".join(name for name, _ in _COLUMNS)
# A heartbeat without a credential never overwrites the address that one with a credential wrote.
_ON_CONFLICT = """
ON CONFLICT (device_id) DO UPDATE SET
  last_seen_ms = CASE WHEN excluded.last_seen_ms > presence.last_seen_ms
                 THEN excluded.last_seen_ms ELSE presence.last_seen_ms END,
  ip_address = CASE WHEN excluded.authenticated >= presence.authenticated
               THEN excluded.ip_address ELSE presence.ip_address END,
  authenticated = CASE WHEN excluded.authenticated > presence.authenticated
                  THEN excluded.authenticated ELSE presence.authenticated END,
  ip_lan = COALESCE(excluded.ip_lan, presence.ip_lan),
  ip_public = COALESCE(excluded.ip_public, presence.ip_public),
  mac = COALESCE(excluded.mac, presence.mac),
  cluster_ip = COALESCE(excluded.cluster_ip, presence.cluster_ip),
  status_note = COALESCE(excluded.status_note, presence.status_note),
  installed_version = COALESCE(excluded.installed_version, presence.installed_version)
"""
_SQLITE = f"INSERT INTO presence ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))}) {_ON_CONFLICT}"  # noqa: S608
_UNNEST = ", ".join(f"%s::{kind}[]" for _, kind in _COLUMNS)
_POSTGRESQL = f"INSERT INTO presence ({_NAMES}) SELECT * FROM UNNEST({_UNNEST}) {_ON_CONFLICT}"  # noqa: S608


class HeartbeatRows:
    """Write a batch of heartbeats as one statement. A row is the columns above, then (connected, host)."""

    def write(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        width = len(_COLUMNS)
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(_SQLITE, [row[:width] for row in rows])
        else:
            newest = {row[0]: row for row in rows}  # one statement may touch a row once; sorted against deadlocks
            ordered = [newest[device_id][:width] for device_id in sorted(newest)]
            connection.exec_driver_sql(_POSTGRESQL, tuple(map(list, zip(*ordered, strict=True))))
        connected = [
            {"device_id": row[0], "at_ms": row[1], "event": "Connected", "host": row[width + 1], "remote": row[3] or ""}
            for row in rows
            if row[width]
        ]
        if connected:
            connection.execute(connection_logs.insert(), connected)


class HeartbeatBody(msgspec.Struct):
    """The fields that count; everything else in the body is ignored."""

    ip_address: str | None = None
    ip_lan: str | None = None
    ip_public: str | None = None
    mac: str | None = None
    cluster_ip: str | None = None
    note: str | None = None
    token_code: str | None = None
    installed_version: str | None = None


_decode = msgspec.json.Decoder(HeartbeatBody).decode
_FIELDS = HeartbeatBody.__struct_fields__
is_known_address = lru_cache(maxsize=65536)(is_address)


def decode_body(body: bytes, content_type: bytes) -> HeartbeatBody:
    """Read a heartbeat. Raises: InvalidInput for bad JSON that is said to be JSON; other bodies count as empty."""
    if not body or body == b"{}":
        return HeartbeatBody()
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _decode_leniently(body, content_type)


def _decode_leniently(body: bytes, content_type: bytes) -> HeartbeatBody:
    """Drop the fields of a wrong type one by one."""
    try:
        loose = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        if b"json" in content_type.lower():
            raise InvalidInput("Invalid JSON") from None
        return HeartbeatBody()
    if not isinstance(loose, dict):
        return HeartbeatBody()
    return HeartbeatBody(**{name: loose[name] for name in _FIELDS if isinstance(loose.get(name), str)})


def _kept(text: str | None, most: int) -> str | None:
    return text if text and len(text) <= most and "\0" not in text else None


def _kept_address(text: str | None) -> str | None:
    return text if text is not None and is_known_address(text) else None


_NOTHING: Row = (None,) * 6


def _reported(given: HeartbeatBody) -> Row:
    """Return ip_lan, ip_public, mac, cluster_ip, note and installed_version, each None when absent or invalid."""
    version = given.installed_version
    return (
        _kept_address(given.ip_lan),
        _kept_address(given.ip_public),
        given.mac if given.mac and is_mac(given.mac) else None,
        _kept(given.cluster_ip, 255),
        _kept(given.note, 2000),
        version if version and _VERSION.fullmatch(version) else None,
    )


class Heartbeats:
    """Accept heartbeats, for the front's fast path and for the framework's route alike."""

    def __init__(
        self,
        settings: Settings,
        writer: GroupWriter,
        index: DeviceIndex,
        credentials: CredentialCheck,
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._index = index
        self._credentials = credentials
        self._metrics = metrics
        self._rows = HeartbeatRows()
        self._proven = TokenBucket(interval_s=settings.heartbeat_interval_s, burst=BURST)
        self._unproven = TokenBucket(interval_s=settings.heartbeat_interval_s, burst=BURST)
        self._timeout_ms = int(settings.heartbeat_timeout_s * 1000)
        self._mode = settings.mode

    async def accept(
        self, device_key: str, headers: Sequence[tuple[bytes, bytes]], facts: RequestFacts, body: bytes
    ) -> bytes:
        """Accept one heartbeat, return the JSON answer. Raises: what `errors.py` lists for 400, 401, 403, 404, 429."""
        device = self._index.cached(device_key)
        if device is None:
            device = await self._credentials.find_device(device_key) if _KEY.fullmatch(device_key) else None
            if device is None:
                self._metrics.heartbeat("unknown")
                raise NotFound("Device not found")
        bearer = token_code = content_type = b""
        for name, value in headers:
            if name == b"authorization":
                bearer = value
            elif name == b"x-token-code":
                token_code = value
            elif name == b"content-type":
                content_type = value
        given = decode_body(body, content_type)
        try:
            proven = await self._is_proven(device, given, bearer, token_code, facts)
        except AuthError:
            self._metrics.heartbeat("refused")
            raise
        bucket = self._proven if proven else self._unproven
        now_s = time.monotonic()
        if not bucket.allow(device.device_id, now_s):
            self._metrics.heartbeat("refused")
            raise RateLimited("Too many requests", retry_after_s=bucket.retry_after_s(device.device_id, now_s))
        return await self._store(device, given, facts.peer, proven)

    async def _is_proven(
        self, device: DeviceFacts, body: HeartbeatBody, bearer: bytes, token_code: bytes, facts: RequestFacts
    ) -> bool:
        """Say whether the heartbeat carries a right credential. Raises: AuthError for a wrong or a missing one."""
        if bearer:
            given = Credentials(bearer_of(bearer.decode("latin-1")), "", facts.peer, facts.request_id)
            principal = await self._credentials.verify(given, device.device_key)
            if principal.kind != "device" and not principal.has_role(Role.OPERATOR):
                raise Forbidden("Forbidden")
            return True
        code = token_code.decode("latin-1") if token_code else body.token_code or ""
        if code:
            given = Credentials("", code, facts.peer, facts.request_id)
            self._credentials.check_token_code(device, given)
            return True
        if self._mode == "enforce":
            raise AuthError("Unauthorized")
        return self._mode == "legacy-open"

    async def record(self, device: DeviceFacts, fields: Mapping[str, Any], peer: str) -> None:
        """Store the fields of a registration, which counts as a heartbeat."""
        texts = {name: fields[name] for name in _FIELDS if isinstance(fields.get(name), str)}
        await self._store(device, HeartbeatBody(**texts), peer, True)

    async def _store(self, device: DeviceFacts, given: HeartbeatBody, peer: str, proven: bool) -> bytes:
        at_ms = now_ms()
        address = _kept_address(given.ip_address) or peer if proven else peer
        connected = at_ms - device.last_seen_ms > self._timeout_ms
        reported = _reported(given) if proven else _NOTHING
        row = (device.device_id, at_ms, int(proven), address, *reported, connected, peer)
        try:
            await self._writer.add_row(self._rows, row)
        except sa.exc.IntegrityError:
            self._index.forget(device.device_key)
            raise NotFound("Device not found") from None
        device.last_seen_ms = max(at_ms, device.last_seen_ms)
        if proven or not device.proven:
            device.ip_address, device.proven = address, proven
        self._metrics.heartbeat("accepted" if proven else "unauthenticated")
        return msgspec.json.encode({"ok": True, "ip_address": device.ip_address, "last_seen": wire_text(at_ms)})
