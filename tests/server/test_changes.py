"""Changes that one API process makes are heard by another on the same PostgreSQL."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from planes import CODE, Fleet, MakeFleet, wait_for

from meetingctl.core.secret import Secret
from meetingctl.server.changes import APPLICATION, Change, parse_payload, write_payload
from meetingctl.tunnel.agent import Agent
from meetingctl.tunnel.agentconfig import AgentConfig

KEY = "bootstrap-" + "k" * 30

# Copies live for an hour and proxies poll once a minute: what is quick came by NOTIFY.
_SERVE = """
import sys
from pathlib import Path
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.server.devices import index
from meetingctl.server.identity import keys
from meetingctl.server.run import serve_all
index.SHARED_S = keys._CACHE_S = 3600.0
settings = Settings(api_listen="127.0.0.1:0", db_url=sys.argv[1], bootstrap_token=Secret(sys.argv[3]), drain_s=2.0,
                    tunnel_listen=f"{sys.argv[4]}:0", tunnel_bind=sys.argv[4], tunnel_ports=sys.argv[5],
                    tunnel_poll_s=60.0, mode="enforce")
serve_all(settings, Path(sys.argv[2]))
"""


class Process:
    """API and tunnel proxy in a process of their own; its public ports are on an address of its own."""

    def __init__(self, url: sa.URL, data_dir: Path, address: str, ports: str) -> None:
        data_dir.mkdir()
        self.address = address
        argv = [sys.executable, "-c", _SERVE, url.render_as_string(), str(data_dir), KEY, address, ports]
        self._log = data_dir / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(argv, stderr=log, stdout=log)
        self.url = wait_for(lambda: self._said("api "), "the server says where it is")
        host, _, port = wait_for(lambda: self._said("tunnel "), "the proxy says where it is").rpartition(":")
        self.agents_at = (host, int(port.rstrip(",")))
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=20)

    def _said(self, start: str) -> str | None:
        assert self.process.poll() is None, self._log.read_text()
        lines = [line for line in self._log.read_text().splitlines() if line.startswith(start)]
        return lines[0].split()[1] if lines else None

    def call(self, method: str, path: str, key: str = KEY, **rest: Any) -> httpx.Response:
        return self.client.request(method, path, headers={"authorization": f"Bearer {key}"}, **rest)

    def beat(self, code: str = CODE) -> int:
        return self.client.post("/api/devices/cam-1/online", headers={"x-token-code": code}).status_code

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()


@contextlib.contextmanager
def two_processes(url: sa.URL, folder: Path, ports: str) -> Iterator[tuple[Process, Process]]:
    with contextlib.ExitStack() as stack:
        made = []
        for name, address in (("a", "127.0.0.1"), ("b", "127.0.0.2")):
            process = Process(url, folder / name, address, ports)
            stack.callback(process.close)
            made.append(process)
        yield made[0], made[1]


@contextlib.contextmanager
def echo_service() -> Iterator[int]:
    """Answer the first bytes of each connection with themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(connection.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@contextlib.contextmanager
def agent(at: tuple[str, int], local_port: int) -> Iterator[Agent]:
    config = AgentConfig(
        server_host=at[0],
        server_port=at[1],
        device_key="cam-1",
        token=Secret(CODE),
        ports=frozenset({local_port}),
        backoff_first_s=0.1,
        backoff_most_s=0.5,
    )
    stop = threading.Event()
    made = Agent(config)
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join(30)


def visit(address: str, port: int) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=5) as visitor:
        visitor.sendall(b"hello")
        return visitor.recv(100)
    return b""


def listeners(engine: sa.Engine) -> list[int]:
    query = sa.text("SELECT pid FROM pg_stat_activity WHERE application_name = :name AND datname = current_database()")
    with engine.connect() as connection:
        return list(connection.execute(query, {"name": APPLICATION}).scalars())


def free_ports(count: int) -> str:
    """Return a range of ports that were free a moment ago."""
    for first in range(21000, 30000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    for address in ("127.0.0.1", "127.0.0.2"):
                        stack.enter_context(socket.create_server((address, port)))
            except OSError:
                continue
            return f"{first}-{first + count - 1}"
    raise AssertionError("no free ports")


@pytest.mark.real
def test_two_processes_hear_each_other(postgres_url: sa.URL, tmp_path: Path) -> None:
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with contextlib.ExitStack() as stack:
        a, b = stack.enter_context(two_processes(postgres_url, tmp_path, free_ports(4)))
        wait_for(lambda: len(listeners(engine)) == 2, "both listen")
        local_port = stack.enter_context(echo_service())
        body = {"devicekey": "cam-1", "token_code": CODE, "device_type": "t", "distribution": "d"}
        assert a.call("POST", "/api/devices/manual-create", json=body).status_code == 200
        assert a.call("PUT", "/api/devices/cam-1/authorize", json={"authorized": 1}).status_code == 200
        local_ports = {"local_ports": {"http": local_port}}
        assert a.call("PUT", "/api/devices/cam-1", json=local_ports).status_code == 200
        assert (a.beat(), b.beat()) == (200, 200)
        device = stack.enter_context(agent(b.agents_at, local_port))
        wait_for(lambda: device.status().state == "online", "the agent is connected to the other process")
        figures = "/api/tunnels/stats?device_key=cam-1"
        wait_for(lambda: a.call("GET", figures).json()["agents"], "its proxy reported, and now waits for news")

        # A tunnel that one opens leads through the agent of the other.
        opened = a.call("POST", "/api/devices/cam-1/service", json={"service": "http"}).json()
        wait_for(lambda: visit(b.address, opened["port"]) == b"hello", "the tunnel is open at the other")

        # A key that one revokes is refused by the other.
        made = a.call("POST", "/api/keys", json={"name": "watch", "role": "viewer"}).json()
        assert b.call("GET", "/api/devices", made["key"]).status_code == 200
        assert a.call("DELETE", f"/api/keys/{made['id']}").status_code == 200
        wait_for(lambda: b.call("GET", "/api/devices", made["key"]).status_code == 401, "the key ended at the other")

        # A listening connection that is cut comes back, and hears again.
        before = listeners(engine)
        with engine.connect() as connection:
            for pid in before:
                connection.execute(sa.select(sa.func.pg_terminate_backend(pid)))
        wait_for(lambda: len(found := listeners(engine)) == 2 and not set(found) & set(before), "both listen again")

        # A token code that one changes ends at the other, and the agent with it.
        assert a.call("PUT", "/api/devices/cam-1/token-code", json={"token_code": "D4E5F6"}).status_code == 200
        wait_for(lambda: b.beat("D4E5F6") == 200, "the new code works at the other")
        assert (a.beat(), b.beat()) == (401, 401)
        wait_for(lambda: device.status().state != "online", "the agent with the old code was sent away")

        # A device that one puts out is refused by both.
        assert a.call("PUT", "/api/devices/cam-1/authorize", json={"authorized": 0}).status_code == 200
        for process in (a, b):
            refused = process.call("POST", "/api/devices/cam-1/service", json={"service": "http"})
            assert (refused.status_code, refused.json()["error"]) == (403, "Device not authorized")
        wait_for(lambda: visit(b.address, opened["port"]) == b"", "no visitor gets through")
    engine.dispose()


def test_a_payload_is_short_and_names_only_what_changed() -> None:
    change = Change("0123456789abcdef", "device", "K" * 128)
    text = write_payload(change)
    assert len(text) < 400
    assert parse_payload(text) == change
    for junk in ("", "x", "{}", "[]", '{"origin":"a","kind":"nonsense"}', '{"origin":1}'):
        assert parse_payload(junk) is None


def test_what_others_said_is_acted_on_once(fleet: Fleet) -> None:
    fleet.device()
    changes, index = fleet.state.changes, fleet.state.index
    heard: list[int] = []
    changes.listen(lambda: heard.append(1))
    index.find("cam-1")
    changes.hear(write_payload(Change("another", "tunnels")))
    assert (len(heard), index.cached("cam-1") is not None) == (1, True)
    changes.hear(write_payload(Change("another", "device", "cam-1")))
    assert (len(heard), index.cached("cam-1")) == (2, None)
    index.find("cam-1")
    changes.hear("of a later version")
    assert (len(heard), index.cached("cam-1")) == (3, None)


@pytest.mark.real
def test_one_does_not_act_twice_on_its_own_word(make_postgres_fleet: MakeFleet) -> None:
    from meetingctl.server import changes as module

    fleet = make_postgres_fleet()
    fleet.device()
    heard: list[str] = []
    with fleet.database.writing.connect() as connection:
        raw: Any = connection.connection.driver_connection
        raw.execute(f"LISTEN {module.CHANNEL}")
        raw.commit()
        fleet.state.changes.announce_device("cam-1")
        heard = [notice.payload for notice in raw.notifies(timeout=20, stop_after=1)]
        connection.rollback()
    assert len(heard) == 1
    fleet.state.index.find("cam-1")
    fleet.state.changes.hear(heard[0])
    assert fleet.state.index.cached("cam-1") is not None
