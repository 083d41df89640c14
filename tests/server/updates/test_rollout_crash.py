"""Kill servers in the middle of a rollout, and let two step the same one: each wave begins once, and all ends right."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from makers import form
from planes import CODE, wait_for

from meetingctl.core.ids import DeviceKey
from meetingctl.core.settings import Settings
from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.db.admin import check
from meetingctl.server.db.engine import open_database
from meetingctl.server.db.schema import audit, devices, rollout_devices, rollouts, update_channels
from meetingctl.server.devices.store import create_device
from meetingctl.server.updates.verify import find_faults

KEY = "mk_" + "5" * 60
KEYS = [f"cam-{number:02}" for number in range(40)]
WAVES = [5, 20, 50, 100]
KILLS = 3
_SERVE = """
import sys
from pathlib import Path
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.server.run import serve_all
from meetingctl.server.updates import worker
worker.EVERY_S = 0.02
settings = Settings(api_listen="127.0.0.1:0", db_url=sys.argv[1], bootstrap_token=Secret(sys.argv[3]), drain_s=1.0,
                    heartbeat_interval_s=0.001)
serve_all(settings, Path(sys.argv[2]), frozenset({"api"}))
"""


class Server:
    """The API in a process of its own, whose rollouts step without rest."""

    def __init__(self, url: sa.URL, data_dir: Path, number: int = 0) -> None:
        self._log = data_dir / f"log-{number}"
        argv = [sys.executable, "-c", _SERVE, url.render_as_string(hide_password=False), str(data_dir), KEY]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        self.url = wait_for(self._address, "the server says where it is")

    def _address(self) -> str | None:
        assert self._process.poll() is None, self._log.read_text()
        return next((line.split()[1] for line in self._log.read_text().splitlines() if line.startswith("api ")), None)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


class Devices:
    """Devices that ask what to run and run it, whichever server answers."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        with httpx.Client(headers={"x-token-code": CODE}, timeout=20, trust_env=False) as client:
            for key in itertools.cycle(KEYS):
                if self._stop.wait(0.01):
                    return
                urls = self.urls
                try:
                    base = f"{random.choice(urls)}/api/devices/{key}"
                    version = client.get(f"{base}/update").json()["target_version"]
                    client.post(f"{base}/online", json={"installed_version": version})
                except (httpx.HTTPError, IndexError, KeyError):
                    continue  # the server was killed


def prepare(url: sa.URL) -> None:
    database = open_database(url)
    with database.writing.begin() as connection:
        for key in KEYS:
            create_device(connection, SYSTEM, device_key=DeviceKey(key), token_code=CODE)
        connection.execute(devices.update().values(authorized=True, device_type="rpi", distribution="trixie"))
    database.close()


def start_rollout(server: Server) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"{server.url}/api/admin", headers=headers, timeout=30, trust_env=False) as client:
        for version in ("1.0.0", "2.0.0"):
            assert client.post("/updates/publish", **form(version)).status_code == 200
        named = {"device_type": "rpi", "distribution": "trixie"}
        channel = {**named, "channel": "default", "target_version": "1.0.0"}
        assert client.post("/update-channels", json=channel).status_code == 200
        plan = {"waves_percent": WAVES, "soak_s": 0, "max_delay_s": 0, "min_success_percent": 100}
        answer = client.post("/rollouts", json={**named, "version": "2.0.0", "plan": plan})
        assert answer.status_code == 200, answer.text


def state_of(url: sa.URL) -> str:
    database = open_database(url)
    try:
        with database.read() as connection:
            return str(connection.execute(sa.select(rollouts.c.state)).scalar_one())
    finally:
        database.close()


def check_end(url: sa.URL, data_dir: Path) -> None:
    """Each wave began once, each device belongs to one and has the version, files and tables agree."""
    database = open_database(url)
    with database.read() as connection:
        told = connection.execute(sa.select(audit.c.action, audit.c.after).order_by(audit.c.id)).all()
        waves = [json.loads(row.after)["wave"] for row in told if row.action == "rollout.wave"]
        assert waves == list(range(1, len(WAVES) + 1))
        assert [row.action for row in told].count("rollout.finish") == 1
        rows = connection.execute(sa.select(rollout_devices.c.wave, rollout_devices.c.state)).all()
        assert Counter(row.wave for row in rows) == {0: 2, 1: 6, 2: 12, 3: 20}
        assert {row.state for row in rows if row.wave < 3} == {"success"}, (
            "the next wave waits for all of the one before"
        )
        assert connection.execute(sa.select(update_channels.c.target_version)).scalar_one() == "2.0.0"
        assert find_faults(data_dir, connection) == []
    database.close()
    found = check(Settings(db_url=url.render_as_string(hide_password=False)), data_dir)
    assert found["problems"] == []


@pytest.mark.real
def test_a_rollout_survives_kills(sqlite_url: sa.URL, tmp_path: Path) -> None:
    prepare(sqlite_url)
    fleet = Devices()
    server = Server(sqlite_url, tmp_path)
    try:
        start_rollout(server)
        for kill in range(KILLS):
            fleet.urls = [server.url]
            threading.Event().wait(random.uniform(0.05, 0.6))
            server.kill()
            server = Server(sqlite_url, tmp_path, kill + 1)
        fleet.urls = [server.url]
        wait_for(lambda: state_of(sqlite_url) == "finished", "the rollout ends", within_s=60)
    finally:
        fleet.close()
        server.kill()
    check_end(sqlite_url, tmp_path)


@pytest.mark.real
def test_two_servers_never_step_twice(postgres_url: sa.URL, tmp_path: Path) -> None:
    prepare(postgres_url)
    fleet = Devices()
    servers = [Server(postgres_url, tmp_path, number) for number in range(2)]
    try:
        start_rollout(servers[0])
        fleet.urls = [server.url for server in servers]
        for kill in range(2):
            threading.Event().wait(random.uniform(0.2, 1.0))
            servers[kill].kill()
            servers[kill] = Server(postgres_url, tmp_path, kill + 2)
            fleet.urls = [server.url for server in servers]
        wait_for(lambda: state_of(postgres_url) == "finished", "the rollout ends", within_s=60)
    finally:
        fleet.close()
        for server in servers:
            server.kill()
    check_end(postgres_url, tmp_path)
