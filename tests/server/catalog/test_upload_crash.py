"""Kill a server in the middle of uploads: each file is whole, and what the tables do not know is reported."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path

import httpx
import pytest
from planes import ServerProcess, wait_for

from meetingctl.core.settings import Settings
from meetingctl.server.catalog.orphans import sweep_uploads
from meetingctl.server.db.admin import check

KILLS = 3
KEY = "mk_" + "5" * 60
CONTENTS = [os.urandom(3 * 1024 * 1024), os.urandom(2 * 1024 * 1024)]
DIGESTS = {hashlib.sha256(content).hexdigest() for content in CONTENTS}


def upload_until_killed(url: str, begin: int, done: list[str]) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
        try:
            for name in ("create-type", "create-distribution"):
                client.post(f"/api/flash/{name}", json={"devicetype": "rpi", "distribution": "d1"})
            for number in range(begin, begin + 1000):
                name = f"file-{number % 5}.bin"
                form = {
                    "data": {"devicetype": "rpi", "distribution": "d1"},
                    "files": {"file": (name, CONTENTS[number % 2])},
                }
                if client.post("/api/flash/upload", **form).status_code == 200:
                    done.append(name)
        except httpx.HTTPError:
            return


@pytest.mark.real
def test_a_kill_leaves_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEETINGCTL_BOOTSTRAP_TOKEN", KEY)
    done: list[str] = []
    for kill in range(KILLS):
        server = ServerProcess(tmp_path)
        before = len(done)
        client = threading.Thread(target=upload_until_killed, args=(server.url, kill * 1000, done))
        client.start()
        try:
            wait_for(lambda before=before: len(done) >= before + 2, "two uploads")
            threading.Event().wait(random.uniform(0, 0.1))  # a moment in the middle of the next one
        finally:
            server.kill()
            client.join(60)
    files = sorted((tmp_path / "storage" / "rpi" / "d1").iterdir())
    assert {path.name for path in files} >= set(done)
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files} <= DIGESTS
    sweep_uploads(tmp_path, older_than_ms=-1000)  # what the server does once they are old
    problems = check(Settings(), tmp_path)["problems"]
    assert len(problems) <= KILLS, problems
    assert all("no record" in line or "other size" in line for line in problems), "whole, moved, not yet in the table"
    monkeypatch.delenv("MEETINGCTL_BOOTSTRAP_TOKEN")
    assert not list((tmp_path / "storage" / ".incoming").iterdir())
