"""Kill a server in the middle of publishing, again and again: afterwards each release is whole or not there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from makers import form
from planes import wait_for

from meetingctl.server.db.engine import open_database
from meetingctl.server.updates.verify import find_faults

KILLS = 4
ARCHIVE = os.urandom(3 * 1024 * 1024)


class Server:
    """`meetingctl serve api` in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "meetingctl", "serve", "api", "--data", str(data_dir), "--listen", "127.0.0.1:0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        line = next((line for line in self._process.stderr if line.startswith("api ")), "")
        assert line, "the server did not start"
        self.url = line.split()[1]
        self._drain = threading.Thread(target=self._process.stderr.read)
        self._drain.start()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)
        self._drain.join(30)
        if self._process.stderr is not None:
            self._process.stderr.close()


def publish_until_killed(url: str, key: str, begin: int, done: list[str]) -> None:
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False) as client:
        for number in range(begin, begin + 1000):
            version = f"1.{number}"
            try:
                answer = client.post("/api/admin/updates/publish", **form(version, ARCHIVE))
            except httpx.HTTPError:
                return
            if answer.status_code == 200:
                done.append(version)


@pytest.mark.real
def test_a_kill_leaves_nothing_half_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "mk_" + "5" * 60
    monkeypatch.setenv("MEETINGCTL_BOOTSTRAP_TOKEN", key)
    done: list[str] = []
    for kill in range(KILLS):
        server = Server(tmp_path)
        before = len(done)
        client = threading.Thread(target=publish_until_killed, args=(server.url, key, kill * 1000, done))
        client.start()
        try:
            wait_for(lambda before=before: len(done) >= before + 2, "two releases")
            threading.Event().wait(random.uniform(0, 0.1))  # a moment in the middle of the next one
        finally:
            server.kill()
            client.join(60)
    server = Server(tmp_path)
    server.kill()
    database = open_database(sa.URL.create("sqlite", database=str(tmp_path / "meetingctl.db")))
    with database.read() as connection:
        assert find_faults(tmp_path, connection) == []
        versions = set(connection.execute(sa.text("SELECT version FROM releases WHERE state = 'published'")).scalars())
        assert connection.execute(sa.text("SELECT count(*) FROM releases")).scalar() == len(versions)
    database.close()
    assert versions >= set(done)
