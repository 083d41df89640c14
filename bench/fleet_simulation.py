"""A million devices with one heartbeat a minute each: how many API processes does that take?

A database with that many devices on PostgreSQL (`--sqlite`: on SQLite, which has one process), and one API process as
it is in use: credentials checked, each answer after its commit. The load generator goes through the devices in turn, no
device twice: every heartbeat is of a device that the process does not hold in memory, as it is with several processes
and a minute between two heartbeats of a device. Measured is the server's own CPU time for a heartbeat; a process is
taken to be full at 70 % of a core, because heartbeats come in bursts. The time is bounded (`--seconds`).

    processes = devices / 60 s * CPU time of a heartbeat / 0.7

The claim: at most 12 processes for a million devices.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
from pathlib import Path

import heartbeat
import lists

MOST_PROCESSES = 12
FULL = 0.7
INTERVAL_S = 60


def run(devices: int, seconds: int, folder: Path, db_url: str) -> heartbeat.Measured:
    """Fill a database, load one process, return what it did."""
    from meetingctl.server.db.engine import database_url, open_database

    database = open_database(database_url(db_url, folder))
    lists.fill(database, devices)
    database.close()
    load = heartbeat.load_generator(folder, devices)
    with heartbeat.running(heartbeat.REAL, str(folder), db_url) as (port, pid):
        return heartbeat.measure(port, pid, seconds, load)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=15, help="length of the measurement")
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meetingctl-bench-")))
        db_url = "" if options.sqlite else stack.enter_context(heartbeat.postgres_cluster())
        found = run(options.devices, options.seconds, folder, db_url)
    per_s = options.devices / INTERVAL_S
    processes = math.ceil(per_s * found.cpu_us / 1e6 / FULL)
    print(f"needed     {per_s:9.0f}/s for {options.devices:,} devices")
    latency = f"p50 {found.p50_ms:.1f} ms   p99 {found.p99_ms:.1f} ms"
    print(f"one did    {found.rate:9.0f}/s   {latency}   cpu {found.cpu_us:.0f} us")
    print(f"processes  {processes}")
    print(
        json.dumps(
            {
                "bench": "fleet_simulation",
                "processes": processes,
                "gate": MOST_PROCESSES,
                "ok": processes <= MOST_PROCESSES,
            }
        )
    )
    return 0 if processes <= MOST_PROCESSES else 1


if __name__ == "__main__":
    sys.exit(main())
