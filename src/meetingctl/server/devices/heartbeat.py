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
from meetingctl.core.errors import AuthError, Forbidden, InvalidInput, MeetingctlError, NotFound, RateLimited
from meetingctl.core.ids import DEVICE_KEY_PATTERN
from meetingctl.core.limits import TokenBucket
from meetingctl.core.net import is_address, is_mac
from meetingctl.core.settings import Settings
from meetingctl.server.db.schema import connection_logs
from meetingctl.server.db.writer import GroupWriter
from meetingctl.server.devices.index import DeviceFacts, DeviceIndex
from meetingctl.server.identity.credentials import CredentialCheck, Credentials, bearer_of
from meetingctl.server.identity.principal import Principal, Role

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


def _merge(earlier: Row, later: Row) -> Row:
    """Do to two rows of one device what `_ON_CONFLICT` does to a row and the table."""
    address = later[3] if later[2] >= earlier[2] else earlier[3]
    reported = (new if new is not None else old for old, new in zip(earlier[4:], later[4:], strict=True))
    return (later[0], max(earlier[1], later[1]), max(earlier[2], later[2]), address, *reported)


class HeartbeatRows:
    """Write a batch of heartbeats as one statement. A row is the columns above, then (connected, host)."""

    def write(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        width = len(_COLUMNS)
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(_SQLITE, [row[:width] for row in rows])
        else:
            merged: dict[int, Row] = {}  # one statement may touch a row once; sorted against deadlocks
            for row in rows:
                earlier = merged.get(row[0])
                merged[row[0]] = row[:width] if earlier is None else _merge(earlier, row[:width])
            ordered = [merged[device_id] for device_id in sorted(merged)]
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


@lru_cache(maxsize=2)
def _text_of_second(at_s: int) -> str | None:
    return wire_text(at_s * 1000)


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
        if device is None and _KEY.fullmatch(device_key):
            device = await self._credentials.find_device(device_key)
        authorization = token_code = content_type = b""
        for name, value in headers:
            if name == b"authorization":
                authorization = value
            elif name == b"x-token-code":
                token_code = value
            elif name == b"content-type":
                content_type = value
        given = decode_body(body, content_type)
        presented = Credentials(
            bearer_of(authorization.decode("latin-1")) if authorization else "",
            token_code.decode("latin-1") if token_code else given.token_code or "",
            facts.peer,
            facts.request_id,
        )
        try:
            if device is None:
                raise self._unknown_device(presented)
            proven = await self._is_proven(device, presented)
        except AuthError:
            self._metrics.heartbeat("refused")
            raise
        bucket = self._proven if proven else self._unproven
        now_s = time.monotonic()
        if not bucket.allow(device.device_id, now_s):
            self._metrics.heartbeat("refused")
            raise RateLimited("Too many requests", retry_after_s=bucket.retry_after_s(device.device_id, now_s))
        return await self._store(device, given, facts.peer, proven)

    def _unknown_device(self, presented: Credentials) -> MeetingctlError:
        """Mode enforce does not tell somebody without a credential which devices exist."""
        if self._mode == "enforce" and not presented:
            return AuthError("Unauthorized")
        self._metrics.heartbeat("unknown")
        return NotFound("Device not found")

    async def _is_proven(self, device: DeviceFacts, presented: Credentials) -> bool:
        """Say whether the heartbeat carries a right credential. Raises: AuthError for a wrong or a missing one."""
        if presented.bearer:
            principal = await self._credentials.verify(presented, device.device_key)
            if principal.kind != "device":
                await self._check_person(principal, device.device_key)
            return True
        if presented.token_code:
            self._credentials.check_token_code(device, presented)
            return True
        if self._mode == "enforce":
            raise AuthError("Unauthorized")
        return self._mode == "legacy-open"

    async def _check_person(self, principal: Principal, device_key: str) -> None:
        """Raises: Forbidden for a role or a key that may not change this device."""
        may_manage = principal.has_role(Role.OPERATOR) and principal.may("fleet:manage")
        if not may_manage or not await self._credentials.is_within_limits(principal, device_key):
            raise Forbidden("Forbidden")

    async def record(self, device: DeviceFacts, fields: Mapping[str, Any], peer: str) -> None:
        """Store the fields of a registration, which counts as a heartbeat."""
        texts = {name: fields[name] for name in _FIELDS if isinstance(fields.get(name), str)}
        await self._store(device, HeartbeatBody(**texts), peer, True)

    async def _store(self, device: DeviceFacts, given: HeartbeatBody, peer: str, proven: bool) -> bytes:
        at_ms = now_ms()
        address = _kept_address(given.ip_address) or peer if proven else peer
        seen_before_ms = device.last_seen_ms
        connected = at_ms - seen_before_ms > self._timeout_ms
        device.last_seen_ms = max(at_ms, seen_before_ms)  # before the commit, or heartbeats at once would all connect
        reported = _reported(given) if proven else _NOTHING
        row = (device.device_id, at_ms, int(proven), address, *reported, connected, peer)
        try:
            await self._writer.add_row(self._rows, row)
        except sa.exc.IntegrityError:
            self._index.forget(device.device_key)
            raise NotFound("Device not found") from None
        except MeetingctlError:
            device.last_seen_ms = seen_before_ms
            raise
        if proven or not device.proven:
            device.ip_address, device.proven = address, proven
        self._metrics.heartbeat("accepted" if proven else "unauthenticated")
        return msgspec.json.encode(
            {"ok": True, "ip_address": device.ip_address, "last_seen": _text_of_second(at_ms // 1000)}
        )
