"""Lists of 100 with a thousand devices and with a million: they must cost the same.

Two databases of each engine, one with 1,000 devices, one with 1,000,000 (`--devices`), each with presence. The whole
application in this process answers the first page, a page by prefix from the middle, and the fleet's update state; both
databases in turns, so that what else the machine does meets both. Totals are remembered by the server for seconds, as
they are in use. Compared are medians.

The claim: at most 1.5 times as long.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from heartbeat import CODE, postgres_cluster

GATE = 1.5
SMALL = 1_000
CALLS = 60
PATHS = {
    "first page": "/api/devices?limit=100",
    "by prefix": "/api/devices?limit=100&prefix=bench-5",
    "fleet state": "/api/admin/device-updates?page_size=100",
}


def fill(database: Any, count: int) -> str:
    """Make the devices inside the database; return the text of an API key."""
    from meetingctl.core.clock import now_ms
    from meetingctl.core.ids import DeviceKey
    from meetingctl.server.audit.chain import SYSTEM
    from meetingctl.server.db.migrate import migrate
    from meetingctl.server.db.schema import devices
    from meetingctl.server.devices.store import create_device
    from meetingctl.server.identity.keys import create_key

    migrate(database)
    own = {"device_key": "t.made", "key_fold": "t.made", "device_type": "'rpi'", "distribution": "'d1'"}
    columns = [column.name for column in devices.columns if column.name not in ("id", "product_serial")]
    made = "SELECT 'bench-' || CAST(n AS TEXT) AS made, devices.* FROM numbers, devices"
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count - 1})"
    values = ", ".join(own.get(name, f"t.{name}") for name in columns)
    with database.writing.begin() as connection:
        create_device(connection, SYSTEM, device_key=DeviceKey("bench-0"), token_code=CODE)
        connection.exec_driver_sql(
            f"INSERT INTO devices ({', '.join(columns)}) {numbers} SELECT {values} FROM ({made}) AS t"
        )
        connection.exec_driver_sql(
            f"INSERT INTO presence (device_id, last_seen_ms, authenticated) SELECT id, {now_ms()}, 1 FROM devices"
        )
        key = create_key(connection, SYSTEM, name="bench", role="viewer").text
    with database.writing.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    return key


class Plane:
    """The application on one database."""

    def __init__(self, folder: Path, db_url: str, count: int) -> None:
        from meetingctl.core.settings import Settings
        from meetingctl.server.app import make_app
        from meetingctl.server.db.engine import database_url, open_database
        from meetingctl.server.state import make_state
        from meetingctl.server.tunnels.directory import RegistryDirectory

        folder.mkdir()
        self._database = open_database(database_url(db_url, folder))
        self._key = fill(self._database, count)
        self._state = make_state(Settings(), folder, self._database)
        self._state.writer.start()
        self._app = make_app(self._state, RegistryDirectory(self._state))

    def close(self) -> None:
        self._state.writer.close()
        self._database.close()

    async def get_ms(self, address: str) -> float:
        """Ask once; return the milliseconds. Ends the program at an answer but 200."""
        path, _, query = address.partition("?")
        headers = [(b"authorization", f"Bearer {self._key}".encode()), (b"host", b"127.0.0.1")]
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
        }
        statuses = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status", 200))

        began_s = time.perf_counter()
        await self._app(scope, receive, send)
        took_ms = (time.perf_counter() - began_s) * 1000
        if set(statuses) != {200}:
            raise SystemExit(f"{address}: {statuses}")
        return took_ms


@contextlib.contextmanager
def planes(engine: str, folder: Path, devices: int) -> Iterator[list[Plane]]:
    """Give the small and the large one of an engine."""
    with contextlib.ExitStack() as stack:
        made = []
        for name, count in (("small", SMALL), ("large", devices)):
            db_url = stack.enter_context(postgres_cluster()) if engine == "postgresql" else ""
            plane = Plane(folder / f"{engine}-{name}", db_url, count)
            stack.callback(plane.close)
            made.append(plane)
        yield made


async def compare(small: Plane, large: Plane, address: str) -> tuple[float, float, float]:
    """Return the medians in milliseconds, and how many times as long the large one took."""
    for plane in (small, large):
        for _ in range(3):
            await plane.get_ms(address)
    times = [[await plane.get_ms(address) for plane in (small, large)] for _ in range(CALLS)]
    first, second = (statistics.median(pair[index] for pair in times) for index in (0, 1))
    return first, second, second / first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1_000_000, help="how many the large database has")
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], action="append", help="default: both")
    options = parser.parse_args()
    worst = 0.0
    for engine in options.engine or ["sqlite", "postgresql"]:
        with (
            tempfile.TemporaryDirectory(prefix="meetingctl-bench-") as folder,
            planes(engine, Path(folder), options.devices) as (small, large),
        ):
            for name, address in PATHS.items():
                first, second, ratio = asyncio.run(compare(small, large, address))
                worst = max(worst, ratio)
                print(f"{engine:10} {name:12} {first:7.2f} ms with {SMALL:,}   {second:7.2f} ms   ratio {ratio:.2f}")
    print(json.dumps({"bench": "lists", "ratio": round(worst, 3), "gate": GATE, "ok": worst <= GATE}))
    return 0 if worst <= GATE else 1


if __name__ == "__main__":
    sys.exit(main())
