"""Heartbeats, acknowledged after a FULL commit, against a bare ASGI answer in the same run.

Both run in one process each, one at a time, in turns, with 64 keep-alive connections. The heartbeat server is the real
one: every route, `X-Token-Code` checked, `synchronous=FULL`, 20,000 devices so that no device meets its rate limit.
The yardstick is a minimal ASGI application that answers a small JSON on the same uvicorn. The load comes from `wrk`, or
from `load.c` beside this file when `wrk` is not installed.

`--postgres` does the same on a PostgreSQL cluster of its own with fsync; its processes share the machine with the rest,
so it has a gate of its own.

The claim: at least 0.2 of the bare rate, on a machine that is otherwise idle. Where others work too, the rates of
single rounds mean little: then look at `cpu`, the server's own time for an answer, and at its ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GATE = 0.2
POSTGRES_GATE = 0.1
DEVICES = 20_000
CONNECTIONS = 64
CODE = "A1B2C3"
BODY = '{"ip_address":"192.0.2.7","ip_lan":"10.0.0.7","ip_public":"198.51.100.7","mac":"aa:bb:cc:dd:ee:ff","note":"ok"}'

_LUA = f"""
local counter, first = 0, 0
function init(args) first = tonumber(args[1]) end
local headers = {{["X-Token-Code"] = "{CODE}", ["Content-Type"] = "application/json"}}
function request()
  counter = counter + 1
  local key = "bench-" .. ((first + counter) % @DEVICES@)
  return wrk.format("POST", "/api/devices/" .. key .. "/online", headers, '{BODY}')
end
function done(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status, summary.errors.read))
end
"""

_BARE = """
import asyncio, socket, sys
import uvicorn
BODY = b'{"ok":true,"ip_address":"192.0.2.7","last_seen":"2026-01-01 00:00:00"}'
START = {"type": "http.response.start", "status": 200,
         "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]}
REST = {"type": "http.response.body", "body": BODY}
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send(REST)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(4096)
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="httptools", loop="uvloop", ws="none", lifespan="off", log_config=None,
                        access_log=False, backlog=4096)
uvicorn.Server(config).run(sockets=[listener])
"""

REAL = """
import sys
from pathlib import Path
from meetingctl.core.settings import Settings
from meetingctl.server.run import serve_all
def announce(text):
    print(text.split("http://")[1].split()[0].rpartition(":")[2], flush=True)
settings = Settings(api_listen="127.0.0.1:0", db_url=sys.argv[2])
serve_all(settings, Path(sys.argv[1]), frozenset({"api"}), announce=announce)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of the load generator. Times in milliseconds."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server, per request


@contextlib.contextmanager
def running(program: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """Run a server in a process; give its port and its process id."""
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline() or 0)
        if not port:
            raise SystemExit("the server did not start")
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def fill_database(data_dir: Path, db_url: str = "") -> None:
    """Make the devices."""
    from meetingctl.core.ids import DeviceKey
    from meetingctl.server.audit.chain import SYSTEM
    from meetingctl.server.db.engine import database_url, open_database
    from meetingctl.server.db.migrate import migrate
    from meetingctl.server.db.schema import devices
    from meetingctl.server.devices.store import create_device

    database = open_database(database_url(db_url, data_dir))
    migrate(database)
    with database.writing.begin() as connection:
        create_device(connection, SYSTEM, device_key=DeviceKey("bench-0"), token_code=CODE)
        model = dict(connection.execute(devices.select()).mappings().one())
        keys = [f"bench-{number}" for number in range(1, DEVICES)]
        del model["id"]
        connection.execute(devices.insert(), [model | {"device_key": key, "key_fold": key} for key in keys])
    database.close()


@contextlib.contextmanager
def postgres_cluster() -> Iterator[str]:
    """Run a PostgreSQL cluster that keeps what it commits; give the URL of an empty database."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "server"))
    from planes import Postgres, find_postgres

    programs = find_postgres()
    if programs is None:
        raise SystemExit("the PostgreSQL server is not installed: apt-get install postgresql")
    cluster = Postgres(programs, is_durable=True)
    try:
        yield cluster.new_database().render_as_string()
    finally:
        cluster.close()


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, pid: int, seconds: int, load: list[str], first: int = 0) -> Measured:
    """Load a server, beginning at device `first`, and read what came out. Ends the program at an answer but 200."""
    before_s = cpu_s(pid)
    ran = subprocess.run([*load, str(seconds), str(port), str(first)], capture_output=True, text=True, check=True)
    used_s = cpu_s(pid) - before_s
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", ran.stdout)
    if match is None:
        raise SystemExit(f"no result from the load generator:\n{ran.stdout}{ran.stderr}")
    requests, duration_us, p50_us, p99_us, bad, broken = map(int, match.groups())
    if bad or broken:
        raise SystemExit(f"{bad} answers were not 200, {broken} connections broke")
    return Measured(requests, requests / duration_us * 1e6, p50_us / 1000, p99_us / 1000, used_s / requests * 1e6)


def load_generator(folder: Path, devices: int = DEVICES) -> list[str]:
    """Return the command of the load generator; seconds, port and first device follow."""
    if wrk := shutil.which("wrk"):
        script = folder / "load.lua"
        script.write_text(_LUA.replace("@DEVICES@", str(devices)))
        shell = f'exec {wrk} -t1 -c{CONNECTIONS} -d"$1"s -s {script} "http://127.0.0.1:$2/" -- "$3"'
        return ["/bin/sh", "-c", shell, "load"]
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("neither wrk nor a C compiler is installed: apt-get install wrk")
    program = folder / "load"
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("load.c")], check=True)
    return [str(program), str(CONNECTIONS), str(devices), CODE, BODY]


def warm_up(port: int, pid: int, load: list[str]) -> None:
    """Send every device's first heartbeat, which reads the device from the database; then let the disk rest."""
    sent = 0
    while sent < DEVICES:
        sent += measure(port, pid, 1, load, sent).requests
    os.sync()
    time.sleep(0.5)


def run(seconds: int, rounds: int, folder: Path, db_url: str = "") -> dict[str, list[Measured]]:
    """Measure in turns."""
    fill_database(folder, db_url)
    load = load_generator(folder)
    results: dict[str, list[Measured]] = {"bare": [], "heartbeat": []}
    for number in range(rounds):
        order = ("bare", "heartbeat") if number % 2 == 0 else ("heartbeat", "bare")
        for name in order:
            arguments = () if name == "bare" else (str(folder), db_url)
            with running(_BARE if name == "bare" else REAL, *arguments) as (port, pid):
                with socket.create_connection(("127.0.0.1", port), timeout=10):
                    pass
                warm_up(port, pid, load)
                results[name].append(measure(port, pid, seconds, load))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server")
    parser.add_argument("--dir", type=Path, help="where the database lies (default: a temporary folder)")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL instead of SQLite")
    options = parser.parse_args()
    gate = POSTGRES_GATE if options.postgres else GATE
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.dir, prefix="meetingctl-bench-"))
        db_url = stack.enter_context(postgres_cluster()) if options.postgres else ""
        results = run(options.seconds, options.rounds, Path(folder), db_url)
    ratios = [beat.rate / bare.rate for bare, beat in zip(results["bare"], results["heartbeat"], strict=True)]
    for name, measured in results.items():
        print(
            f"{name:10} {statistics.median(m.rate for m in measured):9.0f}/s"
            f"   p50 {statistics.median(m.p50_ms for m in measured):5.1f} ms"
            f"   p99 {statistics.median(m.p99_ms for m in measured):5.1f} ms"
            f"   cpu {statistics.median(m.cpu_us for m in measured):5.1f} us"
        )
    ratio = statistics.median(ratios)
    print(f"ratio      {ratio:9.3f}   rounds {', '.join(f'{r:.3f}' for r in ratios)}   must be at least {gate}")
    cpu = [bare.cpu_us / beat.cpu_us for bare, beat in zip(results["bare"], results["heartbeat"], strict=True)]
    print(f"ratio of CPU times {statistics.median(cpu):.3f}")
    print(json.dumps({"bench": "heartbeat", "ratio": round(ratio, 4), "gate": gate, "ok": ratio >= gate}))
    return 0 if ratio >= gate else 1


if __name__ == "__main__":
    sys.exit(main())
