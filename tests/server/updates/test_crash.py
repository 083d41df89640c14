"""Kill a server in the middle of publishing, again and again: afterwards each release is whole or not there."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from makers import form
from planes import ServerProcess, wait_for

from meetingctl.server.db.engine import open_database
from meetingctl.server.updates.verify import find_faults

KILLS = 4
ARCHIVE = os.urandom(3 * 1024 * 1024)


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
        server = ServerProcess(tmp_path)
        before = len(done)
        client = threading.Thread(target=publish_until_killed, args=(server.url, key, kill * 1000, done))
        client.start()
        try:
            wait_for(lambda before=before: len(done) >= before + 2, "two releases")
            threading.Event().wait(random.uniform(0, 0.1))  # a moment in the middle of the next one
        finally:
            server.kill()
            client.join(60)
    server = ServerProcess(tmp_path)
    server.kill()
    database = open_database(sa.URL.create("sqlite", database=str(tmp_path / "meetingctl.db")))
    with database.read() as connection:
        assert find_faults(tmp_path, connection) == []
        versions = set(connection.execute(sa.text("SELECT version FROM releases WHERE state = 'published'")).scalars())
        assert connection.execute(sa.text("SELECT count(*) FROM releases")).scalar() == len(versions)
    database.close()
    assert versions >= set(done)
