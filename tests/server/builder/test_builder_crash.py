"""Kill a server in the middle of packing and committing: each job ends right, each release is whole or not there."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from planes import ServerProcess, wait_for

from meetingctl.core.settings import Settings
from meetingctl.server.db.admin import check
from meetingctl.server.db.engine import open_database
from meetingctl.server.updates.verify import find_faults

KILLS = 4
CONTENT = os.urandom(4 * 1024 * 1024)


def build_until_killed(url: str, key: str, begin: int, jobs: list[str]) -> None:
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{url}/api/builder", headers=headers, timeout=30, trust_env=False) as client:

        def call(method: str, path: str, **rest: Any) -> Any:
            answer = client.request(method, path, **rest)
            assert answer.status_code == 200, answer.text
            return answer.json()

        try:
            for number in range(begin, begin + 1000):
                manifest = {"device_type": "rpi", "distribution": "d1", "version": f"1.{number}"}
                build = call("POST", "/start", json=manifest)["build_id"]
                form = {"data": {"build_id": build}, "files": {"file": ("a.bin", CONTENT)}}
                call("POST", "/upload-file", **form)
                job = call("POST", "/package", json={"build_id": build})["job_id"]
                jobs.append(job)
                while call("GET", "/package-status", params={"job_id": job})["state"] in ("queued", "running"):
                    threading.Event().wait(0.02)
                call("POST", "/commit", json={"job_id": job})
        except httpx.HTTPError:
            return


@pytest.mark.real
def test_a_kill_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "mk_" + "5" * 60
    monkeypatch.setenv("MEETINGCTL_BOOTSTRAP_TOKEN", key)
    jobs: list[str] = []
    for kill in range(KILLS):
        server = ServerProcess(tmp_path)
        before = len(jobs)
        client = threading.Thread(target=build_until_killed, args=(server.url, key, kill * 1000, jobs))
        client.start()
        try:
            wait_for(lambda before=before: len(jobs) >= before + 2, "two jobs")
            threading.Event().wait(random.uniform(0, 0.5))
        finally:
            server.kill()
            client.join(60)
    server = ServerProcess(tmp_path)
    try:
        with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False) as client:

            def state_of(job: str) -> str:
                answer = client.get(f"{server.url}/api/builder/package-status", params={"job_id": job})
                return str(answer.json()["state"])

            for job in jobs:  # what was queued or running goes on
                wait_for(lambda job=job: state_of(job) == "done", f"job {job} is done")
    finally:
        server.kill()
    database = open_database(sa.URL.create("sqlite", database=str(tmp_path / "meetingctl.db")))
    with database.read() as connection:
        assert find_faults(tmp_path, connection) == []
    database.close()
    assert check(Settings(), tmp_path)["problems"] == []
