"""Builds from start to publication: what an archive holds, whose it is, and what goes wrong."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from typing import Any

import pytest
from planes import Fleet, MakeFleet

from meetingctl.core.clock import now_ms
from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.builder.orphans import find_orphans, sweep
from meetingctl.server.builder.store import PACKAGES
from meetingctl.server.builder.worker import claim, pack, release_all
from meetingctl.server.db.schema import builds, current_releases, package_jobs, update_channels
from meetingctl.server.identity.keys import KeyLimits, create_key

MANIFEST = {"device_type": "rpi", "distribution": "d1", "version": "1.0"}


def call(fleet: Fleet, method: str, path: str, **rest: Any) -> Any:
    answer = fleet.call(method, f"/api/builder/{path}", **({"key": fleet.key("operator")} | rest))
    return answer.json() if answer.status_code == 200 and "json" in answer.headers["content-type"] else answer


def start(fleet: Fleet, manifest: dict[str, Any], files: dict[str, bytes]) -> str:
    build = call(fleet, "POST", "start", json=manifest)["build_id"]
    for name, content in files.items():
        call(fleet, "POST", "upload-file", data={"build_id": build}, files={"file": (name, content)})
    return str(build)


def queue(fleet: Fleet, build: str, kind: str = "tar.gz") -> str:
    return str(call(fleet, "POST", "package", json={"build_id": build, "format": kind})["job_id"])


def work(fleet: Fleet, worker: str = "w") -> dict[str, Any]:
    """Take one job and pack it, as the worker of a server does."""
    row = fleet.write(lambda connection: claim(connection, worker))
    pack(fleet.state, worker, dict(row))
    return state_of(fleet, row["id"])


def state_of(fleet: Fleet, job: str) -> dict[str, Any]:
    found: dict[str, Any] = call(fleet, "GET", f"package-status?job_id={job}")
    return found


def orphans(fleet: Fleet) -> list[str]:
    with fleet.database.read() as connection:
        return find_orphans(fleet.data_dir, connection)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_the_same_build_gives_the_same_bytes(any_fleet: Fleet, kind: str) -> None:
    build = start(any_fleet, MANIFEST, {"b.sh": b"#!/bin/sh\n", "a.txt": b"text"})
    digests = set()
    for _ in range(2):
        job = queue(any_fleet, build, kind)
        state = work(any_fleet)
        assert (state["state"], state["progress"]) == ("done", 100), state
        content = call(any_fleet, "GET", f"download/{job}").content
        assert hashlib.sha256(content).hexdigest() == state["sha256"]
        digests.add(state["sha256"])
    assert len(digests) == 1
    if kind == "zip":
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    else:
        names = tarfile.open(fileobj=io.BytesIO(content)).getnames()
    assert names == ["a.txt", "b.sh", "manifest.json"]
    assert orphans(any_fleet) == []


def test_files_with_paths_make_an_update_package_of_the_original(fleet: Fleet) -> None:
    files = [
        {"filename": "app.py", "path": "opt/rpi-cam-webmanager/app.py"},
        {"filename": "tool.sh", "path": "payload\\usr\\local\\bin\\tool.sh"},
    ]
    manifest = {**MANIFEST, "files": files, "required_packages": "jq, curl", "requires_reboot": True}
    build = start(fleet, manifest, {"app.py": b"print()", "tool.sh": b"true\n", "unlisted": b"x"})
    job = queue(fleet, build)
    assert work(fleet)["state"] == "done"
    answer = call(fleet, "GET", f"download/{job}")
    assert "rpi-cam-update_1.0_" in answer.headers["content-disposition"]
    archive = tarfile.open(fileobj=io.BytesIO(answer.content))
    assert sorted(archive.getnames()) == [
        "payload/opt/rpi-cam-webmanager/app.py",
        "payload/usr/local/bin/tool.sh",
        "update_manifest.json",
    ]
    listed = json.load(archive.extractfile("update_manifest.json"))  # type: ignore[arg-type]
    assert (listed["schema_version"], listed["version"], listed["requires_reboot"]) == ("1", "1.0", True)
    assert listed["required_packages"] == ["jq", "curl"]
    for item in listed["files"]:
        content = archive.extractfile(f"payload/{item['path']}").read()  # type: ignore[union-attr]
        assert (item["size"], item["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "files",
    [
        [{"filename": "a", "path": "etc/rpi-cam/config.env"}],
        [{"filename": "a", "path": "opt/rpi-cam-webmanager/../../etc/passwd"}],
        [{"filename": "a", "path": "/usr/local/bin/a"}],
        [{"filename": "../a"}],
        [{"filename": "a", "path": "usr/local/bin/a"}, "b"],
        ["a", "a"],
        {"a": 1},
    ],
)
def test_a_manifest_cannot_leave_its_places(fleet: Fleet, files: Any) -> None:
    answer = call(fleet, "POST", "start", json={**MANIFEST, "files": files})
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid manifest"})


def test_what_is_missing_is_named(fleet: Fleet) -> None:
    build = start(fleet, {"version": "1.0", "files": ["a.bin", "b.bin"]}, {"a.bin": b"x"})
    shown = call(fleet, "GET", f"manifest?build_id={build}")
    assert (shown["valid"], shown["missing"]) == (False, ["device_type", "distribution", "file:b.bin"])
    fixed = call(fleet, "POST", "manifest", json={"build_id": build, "manifest": {**MANIFEST, "files": ["a.bin"]}})
    assert fixed == {"success": True, "valid": True, "missing": []}


def test_a_build_belongs_to_the_key_that_started_it(any_fleet: Fleet) -> None:
    def other() -> str:
        return str(any_fleet.write(lambda c: create_key(c, SYSTEM, name="the operator", role="operator")).text)

    build = start(any_fleet, MANIFEST, {"a": b"x"})
    job = queue(any_fleet, build)
    stranger = other()
    for method, path, rest in (
        ("GET", f"manifest?build_id={build}", {}),
        ("POST", "manifest", {"json": {"build_id": build, "manifest": MANIFEST}}),
        ("POST", "upload-file", {"data": {"build_id": build}, "files": {"file": ("b", b"y")}}),
        ("POST", "package", {"json": {"build_id": build}}),
        ("GET", f"package-status?job_id={job}", {}),
        ("GET", f"download/{job}", {}),
        ("POST", "cancel", {"json": {"job_id": job}}),
        ("POST", "commit", {"json": {"job_id": job}}),
    ):
        assert call(any_fleet, method, path, key=stranger, **rest).status_code == 404, path
    assert call(any_fleet, "GET", f"manifest?build_id={build}", key=any_fleet.admin)["valid"]


def test_commit_publishes_once_and_for_all(any_fleet: Fleet) -> None:
    build = start(any_fleet, MANIFEST, {"a": b"x"})
    job = queue(any_fleet, build)
    work(any_fleet)
    first = call(any_fleet, "POST", "commit", json={"job_id": job, "notes": "first"})
    assert first["path"] == "rpi/d1/1.0"
    assert call(any_fleet, "POST", "commit", json={"job_id": job, "notes": "first"}) == first
    path = first["published_url"].removeprefix("http://127.0.0.1")
    assert any_fleet.call("GET", path).content == call(any_fleet, "GET", f"download/{job}").content
    history = call(any_fleet, "GET", "history?type=rpi&distribution=d1")["history"]
    assert [(row["version"], row["notes"], row["action"]) for row in history] == [("1.0", "first", "commit")]
    assert call(any_fleet, "POST", "suggest-version", json=MANIFEST) == {"suggested_version": "1.1"}


def test_rollback_moves_what_is_current_and_the_channel(any_fleet: Fleet) -> None:
    for version in ("1.0", "1.1"):
        job = queue(any_fleet, start(any_fleet, {**MANIFEST, "version": version}, {"a": version.encode()}))
        work(any_fleet)
        call(any_fleet, "POST", "commit", json={"job_id": job})
    channel = {"device_type": "rpi", "distribution": "d1", "channel": "default", "target_version": "1.1"}
    assert any_fleet.call("POST", "/api/admin/update-channels", key=any_fleet.admin, json=channel).status_code == 200
    limits = KeyLimits(permissions=("updates:publish",))
    publisher = any_fleet.write(lambda c: create_key(c, SYSTEM, name="p", role="operator", limits=limits)).text
    assert call(any_fleet, "POST", "rollback", key=publisher, json={**MANIFEST, "version": "1.0"}).status_code == 403
    assert any_fleet.rows(current_releases.select())[0]["version"] == "1.1"
    assert call(any_fleet, "POST", "rollback", json={**MANIFEST, "version": "1.0"}) == {"success": True}
    assert any_fleet.rows(current_releases.select())[0]["version"] == "1.0"
    assert any_fleet.rows(update_channels.select())[0]["target_version"] == "1.0"
    assert call(any_fleet, "GET", "distributions?type=rpi")["distributions"] == [{"name": "d1", "last_version": "1.0"}]
    again = {**MANIFEST, "version": "1.0", "new_version": "2.0"}
    assert call(any_fleet, "POST", "duplicate", json=again) == {"success": True}
    assert [row["action"] for row in call(any_fleet, "GET", "history?type=rpi&distribution=d1")["history"]] == [
        "duplicate",
        "rollback",
        "commit",
        "commit",
    ]


def test_a_job_is_cancelled_while_it_waits_and_while_it_runs(any_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meetingctl.server.builder.worker._TELL_EVERY_S", 0.0)
    build = start(any_fleet, MANIFEST, {"a": b"x" * 100_000})
    waiting = queue(any_fleet, build)
    assert call(any_fleet, "POST", "cancel", json={"job_id": waiting}) == {"success": True}
    assert state_of(any_fleet, waiting)["log"] == ["queued", "cancelled"]
    assert call(any_fleet, "POST", "cancel", json={"job_id": waiting}).status_code == 409
    running = queue(any_fleet, build)
    row = any_fleet.write(lambda connection: claim(connection, "w"))
    call(any_fleet, "POST", "cancel", json={"job_id": running})
    pack(any_fleet.state, "w", dict(row))
    state = state_of(any_fleet, running)
    assert (state["state"], state["log"][-1], state["download_url"]) == ("failed", "cancelled", None)
    assert list((any_fleet.data_dir / PACKAGES).iterdir()) == []


def test_a_job_outlives_the_process_that_packed_it(any_fleet: Fleet) -> None:
    job = queue(any_fleet, start(any_fleet, MANIFEST, {"a": b"x"}))
    first = any_fleet.write(lambda connection: claim(connection, "dead"))
    assert any_fleet.write(lambda connection: claim(connection, "other")) is None, "its lease lasts"
    any_fleet.write(release_all)
    state = work(any_fleet, "other")
    assert state["state"] == "done"
    assert "started again: the server had stopped" in state["log"]
    pack(any_fleet.state, "dead", dict(first))  # wakes up late: nothing it does counts
    assert state_of(any_fleet, job)["log"] == state["log"]


def test_a_job_that_never_ends_is_given_up(fleet: Fleet) -> None:
    job = queue(fleet, start(fleet, MANIFEST, {"a": b"x"}))
    for _ in range(4):
        row = fleet.write(lambda connection: claim(connection, "w"))
        fleet.write(release_all)
    assert row["state"] == "failed"
    assert state_of(fleet, job)["log"][-1] == "given up after 3 attempts"


def test_a_file_that_changes_meanwhile_fails_the_job(fleet: Fleet) -> None:
    build = start(fleet, MANIFEST, {"a": b"one"})
    job = queue(fleet, build)
    (fleet.data_dir / "builds" / build / "a").write_bytes(b"two")
    state = work(fleet)
    assert (state["state"], state["log"][-1]) == ("failed", "failed: a: changed while it was packaged")
    assert call(fleet, "GET", f"download/{job}").status_code == 409


def test_a_link_in_the_tree_is_not_followed(fleet: Fleet) -> None:
    build = start(fleet, MANIFEST, {"a": b"one"})
    path = fleet.data_dir / "builds" / build / "a"
    path.unlink()
    path.symlink_to("/etc/passwd")
    queue(fleet, build)
    assert work(fleet)["state"] == "failed"


def test_old_builds_and_leftovers_are_swept(make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meetingctl.server.builder.orphans.STALE_MS", -60_000)
    fleet = make_fleet(builder_keep_s=3600.0)
    old, kept = start(fleet, MANIFEST, {"a": b"x"}), start(fleet, MANIFEST, {"a": b"x"})
    queue(fleet, old)
    work(fleet)
    (fleet.data_dir / "builds" / kept / "planted").write_text("x")
    assert orphans(fleet) == [f"builds/{kept}/planted: no record"]
    fleet.write(
        lambda c: c.execute(builds.update().where(builds.c.id == old).values(updated_at_ms=now_ms() - 4_000_000))
    )
    sweep(fleet.state)
    assert orphans(fleet) == []
    assert fleet.rows(builds.select().with_only_columns(builds.c.id)) == [{"id": kept}]
    assert fleet.rows(package_jobs.select()) == []
    assert [path.name for path in (fleet.data_dir / "builds").iterdir() if path.name != ".incoming"] == [kept]


def test_a_full_disk_fails_the_job_and_leaves_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    queue(fleet, start(fleet, MANIFEST, {"a": b"x"}))
    monkeypatch.setattr("meetingctl.server.builder.worker.write_archive", full)
    assert work(fleet)["log"][-1] == "failed: No space left on device"
    assert list((fleet.data_dir / PACKAGES).iterdir()) == []
