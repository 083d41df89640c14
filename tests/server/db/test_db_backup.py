"""A backup under load restores to a server with the same answers; half of one is never taken for a whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fill import fill_tables
from planes import CODE, Fleet, Postgres, wait_for

from meetingctl.core.errors import ConfigError, Conflict, InvalidInput, MeetingctlError, NotFound, StorageFull
from meetingctl.core.settings import Settings
from meetingctl.core.versions import Manifest
from meetingctl.server.db import admin, backup, restore
from meetingctl.server.db.backup import backup as back_up
from meetingctl.server.db.engine import open_database
from meetingctl.server.db.migrate import alembic_config
from meetingctl.server.db.restore import restore as bring_back
from meetingctl.server.db.schema import releases

QUESTIONS = [
    "/api/devices?limit=100",
    "/api/device-types",
    "/api/flash/rpi/distributions",
    "/api/builder/history?type=rpi&distribution=d1",
    "/api/admin/update-channels",
    "/api/tunnels",
    "/api/audit?limit=500",
]


def settings_of(fleet: Fleet) -> Settings:
    if fleet.url.get_backend_name() == "sqlite":
        return Settings()
    return Settings(db_url=fleet.url.render_as_string(hide_password=False))


def upload(fleet: Fleet, name: str, content: bytes, distribution: str = "d1") -> None:
    place = {"devicetype": "rpi", "distribution": distribution}
    answer = fleet.call(
        "POST", "/api/flash/upload", key=fleet.admin, data=place | {"overwrite": "1"}, files={"file": (name, content)}
    )
    assert answer.status_code == 200, answer.text


def publish(fleet: Fleet, version: str, archive: bytes = b"an archive") -> None:
    about = {"device_type": "rpi", "distribution": "d1", "version": version}
    facts = {"archive": "a.zip", "sha256": hashlib.sha256(archive).hexdigest(), "size_bytes": len(archive)}
    manifest = Manifest(**about, **facts, notes="new", created_at="2026-11-21T00:00:00Z").to_bytes()
    files = {"manifest": ("manifest.json", manifest), "archive": ("a.zip", archive)}
    answer = fleet.call("POST", "/api/admin/updates/publish", key=fleet.admin, data=about, files=files)
    assert answer.status_code == 200, answer.text


def furnish(fleet: Fleet) -> None:
    """Put something of every kind into a server."""
    for number in range(10):
        fleet.device(f"cam-{number}")
    for path in ("create-type", "create-distribution"):
        place = {"devicetype": "rpi", "distribution": "d1"}
        assert fleet.call("POST", f"/api/flash/{path}", key=fleet.admin, json=place).status_code == 200
    upload(fleet, "one.bin", b"1" * 100_000)
    publish(fleet, "1.0")
    (fleet.data_dir / "keys").mkdir(exist_ok=True)
    (fleet.data_dir / "keys" / "urls.key").write_bytes(b"k" * 32)
    (fleet.data_dir / "sealing.key").write_text("sealed")


def answers(fleet: Fleet) -> list[tuple[int, bytes]]:
    found = [fleet.call("GET", path, key=fleet.admin) for path in QUESTIONS]
    return [(answer.status_code, answer.content) for answer in found]


def load(fleet: Fleet, stop: threading.Event, done: list[int]) -> None:
    """Heartbeats, uploads that replace a file, and publications, until told to stop."""
    for number in itertools.count(1):
        if stop.is_set():
            return
        fleet.call_all([("POST", f"/api/devices/cam-{n}/online", {"code": CODE}) for n in range(10)])
        upload(fleet, "one.bin", os.urandom(50_000))
        publish(fleet, f"2.{number}", os.urandom(20_000))
        done.append(number)


def test_a_backup_under_load_restores_to_the_same_server(any_fleet: Fleet, tmp_path_factory: Any) -> None:
    furnish(any_fleet)
    place, there = tmp_path_factory.mktemp("backups"), tmp_path_factory.mktemp("there")
    stop, done = threading.Event(), []
    thread = threading.Thread(target=load, args=(any_fleet, stop, done))
    thread.start()
    try:
        wait_for(lambda: done, "load")
        for number in range(3):
            made = back_up(settings_of(any_fleet), any_fleet.data_dir, place / f"{number}.tar")
            assert made["problems"] == []
            before = len(done)
            wait_for(lambda before=before: len(done) > before, "the load goes on")
    finally:
        stop.set()
        thread.join(60)
    for number in range(3):
        folder = there / str(number)
        bring_back(Settings(), folder, place / f"{number}.tar")
        assert admin.check(Settings(), folder)["problems"] == []
    last = place / "last.tar"
    back_up(settings_of(any_fleet), any_fleet.data_dir, last)
    assert last.stat().st_mode & 0o077 == 0
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []
    expected = answers(any_fleet)
    assert [status for status, _ in expected] == [200] * len(QUESTIONS)
    told = bring_back(Settings(), there / "last", last)
    assert told["files"] == len([path for path in (there / "last").rglob("*") if path.is_file()]) - 1
    again = Fleet(sa.URL.create("sqlite", database=str(there / "last" / "meetingctl.db")), there / "last")
    try:
        again._keys = dict(any_fleet._keys)
        assert answers(again) == expected
        archive = again.call("GET", "/published/rpi/d1/1.0/a.zip", key=again.admin)
        assert (archive.status_code, archive.content) == (200, b"an archive")
        assert (there / "last" / "sealing.key").read_text() == "sealed"
        assert (there / "last" / "keys" / "urls.key").read_bytes() == b"k" * 32
    finally:
        again.close()


@pytest.mark.real
def test_restoring_into_postgresql(fleet: Fleet, postgres: Postgres, tmp_path_factory: Any) -> None:
    furnish(fleet)
    place = tmp_path_factory.mktemp("backups")
    back_up(Settings(), fleet.data_dir, place / "b.tar")
    before = answers(fleet)
    url = postgres.new_database()
    settings = Settings(db_url=url.render_as_string(hide_password=False))
    bring_back(settings, place / "data", place / "b.tar")
    again = Fleet(url, place / "data")
    try:
        again._keys = dict(fleet._keys)
        assert answers(again) == before
        publish(again, "9.0")
        with pytest.raises(Conflict, match="has rows in"):
            bring_back(settings, place / "other", place / "b.tar")
    finally:
        again.close()
        postgres.drop(url)


@pytest.mark.real
def test_the_backup_of_an_older_version_into_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    from alembic import command

    old = open_database(sa.URL.create("sqlite", database=str(tmp_path / "old.db")))
    with old.writing.connect() as connection:
        command.upgrade(alembic_config(connection), "0001")
        fill_tables(connection)
        connection.commit()
    old.close()
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("PRAGMA journal_mode=DELETE")
    database.close()
    backup._write_archive(tmp_path, tmp_path / "old.db", tmp_path / "b.tar", [])
    url = postgres.new_database()
    settings = Settings(db_url=url.render_as_string(hide_password=False))
    try:
        bring_back(settings, tmp_path / "data", tmp_path / "b.tar")
        shown = admin.status(settings, tmp_path / "data")
        assert (shown["up_to_date"], shown["rows"]["devices"], shown["rows"]["audit"]) == (True, 3, 3)
    finally:
        postgres.drop(url)


def test_what_is_missing_is_told_and_the_rest_is_kept(fleet: Fleet, tmp_path_factory: Any) -> None:
    furnish(fleet)
    upload(fleet, "two.bin", b"2")
    upload(fleet, "three.bin", b"3")
    (fleet.data_dir / "storage/rpi/d1/one.bin").unlink()
    (fleet.data_dir / "storage/rpi/d1/two.bin").write_bytes(b"other")
    (fleet.data_dir / "storage/rpi/d1/stray.bin").write_bytes(b"no record")
    place = tmp_path_factory.mktemp("backups")
    made = back_up(Settings(), fleet.data_dir, place / "b.tar")
    assert sorted(made["problems"]) == [
        "storage/rpi/d1/one.bin: No such file or directory",
        "storage/rpi/d1/two.bin: other content than recorded",
    ]
    bring_back(Settings(), place / "data", place / "b.tar")
    kept = sorted(path.name for path in (place / "data/storage/rpi/d1").iterdir())
    assert kept == ["three.bin", "two.bin"]


def test_a_file_replaced_during_the_backup_begins_it_again(fleet: Fleet, tmp_path: Path, monkeypatch: Any) -> None:
    furnish(fleet)
    take, tries = backup._take_files, []

    def take_and_replace(*given: Any) -> Any:
        if not tries:
            upload(fleet, "one.bin", b"replaced after the snapshot")
        tries.append(1)
        return take(*given)

    # Without the lock of the database, as where a program of another kind changes files.
    monkeypatch.setattr(backup, "_standing_still", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(backup, "_take_files", take_and_replace)
    made = back_up(Settings(), fleet.data_dir, tmp_path / "b.tar")
    assert (made["problems"], len(tries)) == ([], 2)


def test_nothing_that_a_server_keeps_is_left_out(fleet: Fleet, tmp_path_factory: Any) -> None:
    """Whoever adds a file to the data directory has to say whether a backup needs it."""
    furnish(fleet)
    (fleet.data_dir / "sealing.key").unlink()
    person = {"username": "ada", "password": "correct horse battery", "role": "viewer"}
    hook = {"url": "https://hooks.example.invalid/in", "events": ["device.offline"]}
    for path, body in (("/api/users", person), ("/api/auth/login", person), ("/api/webhooks", hook)):
        answer = fleet.call("POST", path, key=fleet.admin, json=body)
        assert answer.status_code == 200, answer.text
    for path in ("builds", "packages", "icons", "credentials.toml"):
        (fleet.data_dir / path).touch()
    kept = {*backup.TREES, *backup.SECRETS, backup.DATABASE}
    left_out = {"meetingctl.db-wal", "meetingctl.db-shm", "meetingctl.db.lock"}
    assert {path.name for path in fleet.data_dir.iterdir()} - left_out == kept


def test_one_backup_at_a_time(fleet: Fleet, tmp_path_factory: Any) -> None:
    furnish(fleet)
    place = tmp_path_factory.mktemp("backups")
    with backup._links(fleet.data_dir), pytest.raises(Conflict, match="another backup"):
        back_up(Settings(), fleet.data_dir, place / "b.tar")
    back_up(Settings(), fleet.data_dir, place / "b.tar")
    assert not (fleet.data_dir / ".backup").exists()


def test_a_restore_whose_database_fails_leaves_nothing(fleet: Fleet, tmp_path_factory: Any, monkeypatch: Any) -> None:
    furnish(fleet)
    place = tmp_path_factory.mktemp("backups")
    back_up(Settings(), fleet.data_dir, place / "b.tar")

    def fail(*given: Any) -> None:
        assert (place / "data/storage/rpi").is_dir()
        raise MeetingctlError("no database")

    monkeypatch.setattr(restore, "_place_database", fail)
    with pytest.raises(MeetingctlError, match="no database"):
        bring_back(Settings(), place / "data", place / "b.tar")
    assert list((place / "data").iterdir()) == []
    monkeypatch.setattr(restore, "HEAD", "0001")
    with pytest.raises(ConfigError, match="newer than this program"):
        bring_back(Settings(), place / "data", place / "b.tar")


def test_a_folder_that_holds_something_is_left_alone(fleet: Fleet, tmp_path_factory: Any) -> None:
    furnish(fleet)
    place = tmp_path_factory.mktemp("backups")
    back_up(Settings(), fleet.data_dir, place / "b.tar")
    with pytest.raises(Conflict):
        back_up(Settings(), fleet.data_dir, place / "b.tar")
    with pytest.raises(NotFound):
        back_up(Settings(), fleet.data_dir, place / "no" / "b.tar")
    with pytest.raises(Conflict, match=r"meetingctl\.db is there"):
        bring_back(Settings(), fleet.data_dir, place / "b.tar")
    with pytest.raises(NotFound):
        bring_back(Settings(), place / "data", place / "no.tar")
    told = bring_back(Settings(), place / "data", place / "b.tar", dry_run=True)
    assert (told["files"], (place / "data").exists()) == (5, False)


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:512],
        lambda content: b"",
        lambda content: content[: content.rindex(b"complete.json")],
        lambda content: content.replace(b"1" * 1000, b"2" * 1000, 1),
        lambda content: content.replace(b"storage/rpi/d1/one.bin", b"storage/../d1/one.bin\0", 1),
        lambda content: b"SQLite format 3\0" + content,
    ],
    ids=["half", "one block", "nothing", "no end", "a changed file", "a name that leaves", "another file"],
)
def test_half_a_backup_is_never_restored(fleet: Fleet, tmp_path_factory: Any, change: Any) -> None:
    furnish(fleet)
    place = tmp_path_factory.mktemp("backups")
    back_up(Settings(), fleet.data_dir, place / "b.tar")
    damage(place / "b.tar", change)
    with pytest.raises(InvalidInput):
        bring_back(Settings(), place / "data", place / "b.tar")
    assert list((place / "data").iterdir()) == [], "nothing is put in place, nothing is left"


def test_names_that_no_server_has_are_refused(tmp_path: Path) -> None:
    for name in (
        "/etc/passwd",
        "../x",
        "storage/../x",
        "storage/.hidden",
        "other/x",
        "x",
        "storage//x",
        "storage/a\\b",
    ):
        with tarfile.open(tmp_path / "b.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(InvalidInput, match="no server has"):
            bring_back(Settings(), tmp_path / "data", tmp_path / "b.tar")
    link = tarfile.TarInfo("storage/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(InvalidInput, match="no file"):
        bring_back(Settings(), tmp_path / "data", tmp_path / "b.tar")


@pytest.mark.parametrize(
    ("header", "count"),
    [
        ({"pax_headers": {"GNU.sparse.map": "x"}}, 1),
        ({"type": tarfile.XHDTYPE}, 5000),
        ({"type": tarfile.XHDTYPE, "size": 64 << 20}, 1),
    ],
    ids=["a map of a sparse file", "a chain of headers", "a large header"],
)
def test_headers_that_cannot_be_followed_are_no_backup(tmp_path: Path, header: dict[str, Any], count: int) -> None:
    info = tarfile.TarInfo("storage/x")
    for name, value in header.items():
        setattr(info, name, value)
    (tmp_path / "b.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) * count)
    with pytest.raises(InvalidInput) as caught:
        bring_back(Settings(), tmp_path / "data", tmp_path / "b.tar")
    assert caught.value.hint == "take another backup: this one is not whole"
    assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_is_named(fleet: Fleet, tmp_path: Path, monkeypatch: Any) -> None:
    def fill(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "_write_archive", fill)
    with pytest.raises(StorageFull):
        back_up(Settings(), fleet.data_dir, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.iterdir() if "b.tar" in path.name] == []
    (tmp_path / "b.tar").write_bytes(b"x")
    monkeypatch.setattr(restore.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(StorageFull):
        bring_back(Settings(), tmp_path / "data", tmp_path / "b.tar")


@pytest.mark.real
def test_a_kill_leaves_no_backup_that_looks_whole(fleet: Fleet, tmp_path_factory: Any) -> None:
    furnish(fleet)
    for number in range(30):
        upload(fleet, f"big-{number}.bin", os.urandom(1_000_000))
    place = tmp_path_factory.mktemp("backups")
    target, partial = place / "b.tar", place / ".b.tar.partial"
    argv = [sys.executable, "-m", "meetingctl", "db", "backup", str(target), "--data", str(fleet.data_dir)]
    for size_bytes in (1, 12_000_000):
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            wait_for(
                lambda at=size_bytes: (partial.exists() and partial.stat().st_size >= at) or process.poll() is not None,
                "the backup has begun",
            )
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        if target.exists():  # it was quicker than the signal: then it must be whole
            bring_back(Settings(), place / "data", target, dry_run=True)
            target.unlink()
            continue
        with pytest.raises(MeetingctlError):
            bring_back(Settings(), place / "data", partial)
    made = back_up(Settings(), fleet.data_dir, target)
    assert made["files"] == 35
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == [], (
        "what the killed ones left is gone"
    )
    bring_back(Settings(), place / "data2", target)
    with sqlite3.connect(place / "data2" / "meetingctl.db") as database:
        assert database.execute("SELECT count(*) FROM distribution_files").fetchone() == (31,)
    database.close()


def test_a_release_that_is_being_published_is_not_in_the_backup(fleet: Fleet, tmp_path_factory: Any) -> None:
    furnish(fleet)
    fleet.write(lambda c: c.execute(releases.update().values(state="staging")))
    place = tmp_path_factory.mktemp("backups")
    assert back_up(Settings(), fleet.data_dir, place / "b.tar")["problems"] == []
    bring_back(Settings(), place / "data", place / "b.tar")
    assert [path for path in (place / "data/published").rglob("*") if path.is_file()] == []
