"""What a heartbeat and a credential check need to know of a device, in memory.

A request costs a dictionary look-up instead of a query. Everything that changes one of these facts calls `forget`; with
several processes on one database each tells the others; an entry also expires after a few seconds, which bounds how
long a revoked credential works in a process that did not hear.
"""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa

from meetingctl.server.db.engine import Database
from meetingctl.server.db.schema import devices, presence

CAPACITY = 250_000
SHARED_S = 5.0


class DeviceFacts:
    """One device as the hot paths see it. Presence fields follow the heartbeats of this process."""

    __slots__ = (
        "authorized",
        "device_id",
        "device_key",
        "device_token_sha256",
        "fresh_until_s",
        "generation",
        "ip_address",
        "last_seen_ms",
        "proven",
        "token_code",
    )

    def __init__(self, values: sa.RowMapping, fresh_until_s: float) -> None:
        self.device_id: int = values["id"]
        self.device_key: str = values["device_key"]
        self.token_code: str = values["token_code"]
        self.device_token_sha256: str | None = values["device_token_sha256"]
        self.authorized: bool = values["authorized"]
        self.generation: int = values["generation"]
        self.last_seen_ms: int = values["last_seen_ms"] or 0
        self.ip_address: str | None = values["ip_address"]
        self.proven = bool(values["authenticated"])  # a heartbeat with a credential wrote the presence row
        self.fresh_until_s = fresh_until_s


_SELECT = (
    sa.select(
        devices.c.id,
        devices.c.device_key,
        devices.c.token_code,
        devices.c.device_token_sha256,
        devices.c.authorized,
        devices.c.generation,
        presence.c.last_seen_ms,
        presence.c.ip_address,
        presence.c.authenticated,
    )
    .select_from(devices.outerjoin(presence))
    .where(devices.c.device_key == sa.bindparam("device_key"))
)


class DeviceIndex:
    """Device key -> facts, loaded on demand, bounded."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._facts: dict[str, DeviceFacts] = {}
        self._publishing = threading.Lock()
        self._forgotten = 0  # counts changes, so that a row read before one is not kept after it
        self._life_s = SHARED_S if database.dialect == "postgresql" else float("inf")

    def cached(self, device_key: str) -> DeviceFacts | None:
        """Return what is in memory and fresh, without a query."""
        facts = self._facts.get(device_key)
        if facts is not None and facts.fresh_until_s < time.monotonic():
            return None
        return facts

    def find(self, device_key: str) -> DeviceFacts | None:
        """Return the facts of a device, None when there is no such device. Takes one query when they are not cached."""
        facts = self.cached(device_key)
        return facts if facts is not None else self._load(device_key)

    def forget(self, device_key: str) -> None:
        """Drop a device after a change."""
        with self._publishing:
            self._forgotten += 1
            self._facts.pop(device_key, None)

    def forget_all(self) -> None:
        """Drop every device, after changes that nobody named."""
        with self._publishing:
            self._forgotten += 1
            self._facts.clear()

    def _load(self, device_key: str) -> DeviceFacts | None:
        forgotten = self._forgotten
        with self._database.read() as connection:
            row = connection.execute(_SELECT, {"device_key": device_key}).mappings().first()
        if row is None:
            self._facts.pop(device_key, None)
            return None
        with self._publishing:
            old = self.cached(device_key)
            if old is not None:  # several requests missed at once: all go on with the same object
                return old
            facts = DeviceFacts(row, time.monotonic() + self._life_s)
            if forgotten == self._forgotten:
                self._keep(facts)
        return facts

    def _keep(self, facts: DeviceFacts) -> None:
        if len(self._facts) >= CAPACITY:
            for key in list(self._facts)[: CAPACITY // 10]:
                self._facts.pop(key, None)
        stale = self._facts.get(facts.device_key)
        if stale is not None:
            facts.last_seen_ms = max(facts.last_seen_ms, stale.last_seen_ms)
        self._facts[facts.device_key] = facts
