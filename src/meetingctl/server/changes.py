"""Tell whoever keeps a copy that tunnels, devices or credentials changed, in this process and in the others.

Other processes on the same PostgreSQL hear of it by NOTIFY. That is only quicker than what they do anyway: proxies
poll, and cached devices and keys expire after seconds. So nothing is lost for good when a message is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import sqlalchemy as sa

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from meetingctl.server.db.engine import Database
    from meetingctl.server.db.writer import GroupWriter
    from meetingctl.server.devices.index import DeviceIndex
    from meetingctl.server.identity.keys import KeyRing

log = logging.getLogger(__name__)

CHANNEL = "meetingctl_changes"
APPLICATION = "meetingctl changes"
PROBE_S = 15.0  # silence after which the connection is asked whether it still is one
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 15.0

Kind = Literal["tunnels", "device", "credentials"]


@dataclass(frozen=True, slots=True)
class Change:
    """What is told: which kind of thing changed, by its public name; never a secret, every database user may listen."""

    origin: str
    kind: Kind
    device_key: str = ""


def write_payload(change: Change) -> str:
    """Return a change as the text of a NOTIFY, far below PostgreSQL's limit of 8000 bytes."""
    return msgspec.json.encode(change).decode()


def parse_payload(text: str) -> Change | None:
    """Read the text of a NOTIFY; None for one that this version does not understand."""
    try:
        return msgspec.json.decode(text, type=Change)
    except msgspec.DecodeError:
        return None


class Changes:
    """The copies of one process, and the way to those of the others."""

    def __init__(self, index: DeviceIndex, ring: KeyRing, writer: GroupWriter | None = None) -> None:
        """Without `writer` nobody else is told."""
        self._index = index
        self._ring = ring
        self._writer = writer
        self._origin = secrets.token_hex(8)
        self._listeners: list[Callable[[], None]] = []

    def listen(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change of tunnels or devices, from whatever thread made it."""
        self._listeners.append(callback)

    def announce(self) -> None:
        """Say that tunnels, or anything else that proxies look at, changed."""
        self._publish(Change(self._origin, "tunnels"))

    def announce_device(self, device_key: str) -> None:
        """Say that a device, its rights or its credentials changed."""
        self._publish(Change(self._origin, "device", device_key))

    def announce_credentials(self) -> None:
        """Say that an API key or a person's rights changed."""
        self._publish(Change(self._origin, "credentials"))

    def hear(self, payload: str) -> None:
        """Act on what another process said; one's own words and those of unknown versions need no more than a look."""
        change = parse_payload(payload)
        if change is None:
            self.catch_up()
        elif change.origin != self._origin:
            self._apply(change)

    def catch_up(self) -> None:
        """Drop every copy: something may have changed unheard."""
        self._index.forget_all()
        self._ring.forget_all()
        self._wake()

    def _publish(self, change: Change) -> None:
        self._apply(change)
        if self._writer is not None:
            notify = sa.select(sa.func.pg_notify(CHANNEL, write_payload(change)))
            self._writer.post(lambda connection: connection.execute(notify))

    def _apply(self, change: Change) -> None:
        if change.kind == "credentials":
            self._ring.forget_all()
            return
        if change.kind == "device":
            self._index.forget(change.device_key)
        self._wake()

    def _wake(self) -> None:
        for callback in self._listeners:
            callback()


async def hear_for_ever(changes: Changes, database: Database) -> None:
    """Listen to the other processes on PostgreSQL until cancelled; on SQLite there are none.

    A connection that breaks is made again, later each time, at most after `BACKOFF_MAX_S`.
    """
    if database.dialect != "postgresql":
        return
    import psycopg

    delay_s = BACKOFF_FIRST_S
    while True:
        began_s = time.monotonic()
        try:
            async with await _connect(database) as connection:
                await _hear(changes, connection)
        except (psycopg.Error, OSError) as exc:
            if time.monotonic() - began_s > 2 * BACKOFF_MAX_S:
                delay_s = BACKOFF_FIRST_S
            log.warning("changes of other processes are not heard", extra={"error": str(exc).strip()[:300]})
        await asyncio.sleep(random.uniform(delay_s / 2, delay_s))  # noqa: S311 - spreads load, hides nothing
        delay_s = min(BACKOFF_MAX_S, delay_s * 2)


async def _connect(database: Database) -> AsyncConnection[Any]:
    import psycopg

    arguments, given = database.writing.dialect.create_connect_args(database.writing.url)
    options = {**given, "connect_timeout": 10, "application_name": APPLICATION}
    options |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
    return await psycopg.AsyncConnection.connect(*arguments, autocommit=True, **options)


async def _hear(changes: Changes, connection: AsyncConnection[Any]) -> None:
    """Raises: psycopg.Error when the connection breaks."""
    await connection.execute(f"LISTEN {CHANNEL}")
    changes.catch_up()  # of what was said before we listened
    while True:
        async with contextlib.aclosing(connection.notifies(timeout=PROBE_S)) as notices:
            async for notice in notices:
                changes.hear(notice.payload)
        async with asyncio.timeout(PROBE_S):
            await connection.execute("SELECT 1")
