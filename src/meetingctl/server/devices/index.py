"""What a heartbeat and a credential check need to know of a device, in memory.

A request costs a dictionary look-up instead of a query. Everything that changes one of these facts calls `forget`; with
several processes on one database each tells the others; an entry also expires after a few seconds, which bounds how
long a revoked credential works in a process that did not hear.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import sqlalchemy as sa

from meetingctl.server.db.engine import Database
from meetingctl.server.db.schema import devices, presence

CAPACITY = 250_000
SHARED_S = 5.0
MOST_AT_ONCE = 500


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


_FACTS = sa.select(
    devices.c.id,
    devices.c.device_key,
    devices.c.token_code,
    devices.c.device_token_sha256,
    devices.c.authorized,
    devices.c.generation,
    presence.c.last_seen_ms,
    presence.c.ip_address,
    presence.c.authenticated,
).select_from(devices.outerjoin(presence))
_SELECT = _FACTS.where(devices.c.device_key == sa.bindparam("device_key"))
_SELECT_MANY = _FACTS.where(devices.c.device_key.in_(sa.bindparam("device_keys", expanding=True)))


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

    def find_many(self, device_keys: Sequence[str]) -> dict[str, DeviceFacts]:
        """Return the facts of those devices that exist. One query, whatever is cached."""
        forgotten = self._forgotten
        with self._database.read() as connection:
            rows = connection.execute(_SELECT_MANY, {"device_keys": device_keys}).mappings().all()
        found = {facts.device_key: facts for facts in (self._publish(row, forgotten) for row in rows)}
        for device_key in device_keys:
            if device_key not in found:
                self._facts.pop(device_key, None)
        return found

    def _load(self, device_key: str) -> DeviceFacts | None:
        forgotten = self._forgotten
        with self._database.read() as connection:
            row = connection.execute(_SELECT, {"device_key": device_key}).mappings().first()
        if row is None:
            self._facts.pop(device_key, None)
            return None
        return self._publish(row, forgotten)

    def _publish(self, row: sa.RowMapping, forgotten: int) -> DeviceFacts:
        """Keep what was read, unless something changed since `forgotten`."""
        with self._publishing:
            old = self.cached(row["device_key"])
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


class Lookups:
    """Find devices for coroutines: those that are asked for while a query runs share the next one.

    A look-up alone costs a thread and a round trip; under load, both are for hundreds of devices.
    """

    def __init__(self, index: DeviceIndex) -> None:
        self._index = index
        self._wanted: dict[str, asyncio.Future[DeviceFacts | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, device_key: str) -> DeviceFacts | None:
        """Return the facts of a device, None when there is no such device. Raises: what the database says."""
        wanted = self._wanted.get(device_key)
        if wanted is None:
            wanted = self._wanted[device_key] = asyncio.get_running_loop().create_future()
            wanted.add_done_callback(_look_at)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(wanted)  # one caller that goes away takes nothing from the others

    async def _run(self) -> None:
        try:
            while self._wanted:
                keys = list(self._wanted)[:MOST_AT_ONCE]
                batch = {key: self._wanted.pop(key) for key in keys}
                await self._answer(batch)
        finally:
            self._task = None
            for future in self._wanted.values():  # only when the loop ends
                future.cancel()
            self._wanted.clear()

    async def _answer(self, batch: dict[str, asyncio.Future[DeviceFacts | None]]) -> None:
        try:
            found = await asyncio.to_thread(self._index.find_many, list(batch))
        except asyncio.CancelledError:
            for future in batch.values():
                future.cancel()
            raise
        except Exception as exc:  # the boundary of the task: whoever waits must hear of it
            for future in batch.values():
                future.set_exception(exc)
            return
        for key, future in batch.items():
            future.set_result(found.get(key))


def _look_at(future: asyncio.Future[DeviceFacts | None]) -> None:
    """Retrieve an error that nobody waits for any more, so that the loop does not complain."""
    if not future.cancelled():
        future.exception()
