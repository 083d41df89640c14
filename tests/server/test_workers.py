"""Several API processes on one PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from planes import CODE, Postgres, wait_for

from meetingctl.core.errors import ConfigError
from meetingctl.core.settings import Settings
from meetingctl.server.workers import BACKOFF_MAX_S, YOUNG_S, next_start_delay_s, serve_workers

KEY = "bootstrap-" + "k" * 30
_SERVE = """
import sys
from pathlib import Path
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.server.run import serve_all
settings = Settings(api_listen="127.0.0.1:0", api_workers=int(sys.argv[1]), db_url=sys.argv[2],
                    bootstrap_token=Secret(sys.argv[4]), drain_s=2.0)
serve_all(settings, Path(sys.argv[3]), frozenset({"api"}))
"""


class Server:
    """`serve api --workers N` in a process group of its own."""

    def __init__(self, url: sa.URL, data_dir: Path, workers: int) -> None:
        self.log = data_dir / "log"
        argv = [sys.executable, "-c", _SERVE, str(workers), url.render_as_string(), str(data_dir), KEY]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stderr=log, stdout=log)
        line = wait_for(self._address_line, "the server says where it is")
        self.url = line.split()[1]

    def _address_line(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("api ")]
        return lines[0] if lines else None

    def children(self) -> list[int]:
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def serving(url: sa.URL, data_dir: Path, workers: int) -> Iterator[Server]:
    server = Server(url, data_dir, workers)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_sqlite_has_one_writer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PostgreSQL") as caught:
        serve_workers(Settings(api_workers=2, api_listen="127.0.0.1:0"), tmp_path)
    assert "--workers 1" in caught.value.hint


def test_only_the_api_is_multiplied(tmp_path: Path) -> None:
    settings = Settings(api_workers=2, api_listen="127.0.0.1:0", db_url="postgresql://nobody@127.0.0.1/x")
    with pytest.raises(ConfigError, match="only the API"):
        serve_workers(settings, tmp_path, frozenset({"api", "tunnel"}))


def test_a_worker_that_keeps_dying_is_replaced_ever_later() -> None:
    assert next_start_delay_s(YOUNG_S, 9) == 0
    delays = [next_start_delay_s(0.1, deaths) for deaths in range(40)]
    assert delays == sorted(delays)
    assert 0 < delays[0] < 1
    assert delays[-1] == BACKOFF_MAX_S


@pytest.mark.real
def test_workers_share_an_empty_database_and_survive_a_dead_one(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    with serving(url, tmp_path, 3) as server:
        wait_for(lambda: len(server.children()) == 3, "three children")
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"devicekey": "cam-1", "token_code": CODE, "device_type": "t", "distribution": "d"}

        def beat(client: httpx.Client) -> int:
            return client.post("/api/devices/cam-1/online", headers={"x-token-code": CODE}).status_code

        with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as client:
            created = client.post("/api/devices/manual-create", headers=headers, json=body)
            assert created.status_code == 200, created.text
            assert len(client.get("/api/keys", headers=headers).json()["keys"]) == 1
        seen: list[int] = []
        for _ in range(8):
            with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as client:
                seen.append(beat(client))
        assert set(seen) <= {200, 429}
        assert 200 in seen
        victim = server.children()[-1]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in server.children() and len(server.children()) == 3, "a new child")
        with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as client:
            wait_for(lambda: client.get("/api/audit/verify", headers=headers).json()["ok"], "the chain is whole")
        children = server.children()
        assert server.stop() == 0
        assert not any(is_alive(pid) for pid in children)
    welcome = server.log.read_text()
    assert welcome.count("api     http://") == 1
    postgres.drop(url)


@pytest.mark.real
def test_requests_in_flight_are_answered_when_the_parent_stops(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    with serving(url, tmp_path, 2) as server:
        headers = {"authorization": f"Bearer {KEY}"}
        answers: list[int] = []
        done = threading.Event()

        def work() -> None:
            with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as client:
                while not done.is_set():
                    try:
                        answers.append(client.post("/api/devices/generate-and-register", headers=headers).status_code)
                    except httpx.TransportError:
                        return  # it listens no longer, or closed an idle connection before our next request

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) > 20, "requests are flowing")
        assert server.stop() == 0
        done.set()
        for thread in threads:
            thread.join(20)
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            stored = connection.exec_driver_sql("SELECT count(*) FROM devices").scalar()
    assert set(answers) <= {200, 503}
    assert stored == answers.count(200), "every acknowledged device is there, and no other"
    postgres.drop(url)


@pytest.mark.real
def test_workers_end_with_a_killed_parent(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    with serving(url, tmp_path, 2) as server:
        wait_for(lambda: len(server.children()) == 2, "two children")
        children = server.children()
        server.process.kill()
        server.process.wait(10)
        wait_for(lambda: not any(is_alive(pid) for pid in children), "no child is left")
    postgres.drop(url)


@pytest.mark.real
def test_a_first_worker_that_cannot_start_ends_the_server(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _SERVE, "2", "postgresql://postgres@/x?host=/nowhere", str(tmp_path), KEY]
    began_s = time.monotonic()
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert "the first worker did not start" in ran.stderr
    assert time.monotonic() - began_s < 30
    assert json.dumps(KEY) not in ran.stderr
