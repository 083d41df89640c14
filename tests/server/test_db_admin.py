"""What `meetingctl db` does to a database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from planes import Fleet

from meetingctl.core.errors import InvalidInput, NotFound
from meetingctl.core.settings import Settings
from meetingctl.server.db import admin
from meetingctl.server.db.migrations import HEAD
from meetingctl.server.db.schema import audit, releases

SQLITE = Settings()


def settings_of(fleet: Fleet) -> Settings:
    if fleet.url.get_backend_name() == "sqlite":
        return SQLITE
    return Settings(db_url=fleet.url.render_as_string(hide_password=False))


def test_migrate_and_status_of_a_new_database(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        admin.status(SQLITE, tmp_path)
    assert admin.migrate(SQLITE, tmp_path) == {"before": None, "after": HEAD, "changed": True}
    assert admin.migrate(SQLITE, tmp_path)["changed"] is False
    shown = admin.status(SQLITE, tmp_path)
    assert shown["up_to_date"] is True
    assert shown["rows"]["devices"] == 0
    assert shown["size_bytes"] > 0


def test_status_and_check_beside_a_running_server(any_fleet: Fleet) -> None:
    any_fleet.device()
    settings = settings_of(any_fleet)
    shown = admin.status(settings, any_fleet.data_dir)
    assert (shown["rows"]["devices"], shown["rows"]["tunnel_ports"]) == (1, 81)
    assert shown["engine"].startswith(("SQLite 3", "PostgreSQL 1"))
    checked = admin.check(settings, any_fleet.data_dir)
    assert checked == {"ok": True, "problems": [], "audit_records": 1}
    any_fleet.write(lambda c: c.execute(audit.update().values(peer="forged")))
    checked = admin.check(settings, any_fleet.data_dir)
    assert checked["ok"] is False
    assert checked["problems"] == ["audit: record 1 does not fit the chain"]


def test_check_compares_the_files_with_the_tables(any_fleet: Fleet) -> None:
    place = {"devicetype": "rpi", "distribution": "d1"}
    assert any_fleet.call("POST", "/api/flash/create-type", key=any_fleet.admin, json=place).status_code == 200
    assert any_fleet.call("POST", "/api/flash/create-distribution", key=any_fleet.admin, json=place).status_code == 200
    sent = {"data": place, "files": {"file": ("a.bin", b"x")}}
    assert any_fleet.call("POST", "/api/flash/upload", key=any_fleet.admin, **sent).status_code == 200
    row = {"device_type": "rpi", "distribution": "d1", "version": "1", "state": "published", "archive_name": "a.zip"}
    row |= {"size_bytes": 1, "sha256": "", "manifest_sha256": "", "notes": "", "signature": "none", "author": "x"}
    settings, data_dir = settings_of(any_fleet), any_fleet.data_dir
    being_sent, publishing = data_dir / "storage/.incoming/.upload-new", data_dir / "published/.staging/new"
    being_sent.write_bytes(b"half")
    publishing.mkdir(parents=True)
    assert admin.check(settings, data_dir)["problems"] == []
    for path in (being_sent, publishing):
        os.utime(path, (1, 1))
    (data_dir / "storage/rpi/d1/a.bin").rename(data_dir / "storage/rpi/d1/b.bin")
    (data_dir / "published/rpi/d1/2").mkdir(parents=True)
    any_fleet.write(lambda c: c.execute(releases.insert().values(**row, published_at_ms=1)))
    checked = admin.check(settings, data_dir)
    assert checked["ok"] is False
    assert set(checked["problems"]) == {
        "files: storage/rpi/d1/b.bin: no record",
        "files: storage/rpi/d1/a.bin: the file is missing",
        "files: storage/.incoming/.upload-new: left by an upload",
        "files: published/rpi/d1/1: a file of the release is missing",
        "files: published/rpi/d1/2: a folder without a record",
        "files: published/.staging/new: left by a publication",
    }


def test_checksums_find_a_file_of_the_same_size(any_fleet: Fleet) -> None:
    place = {"devicetype": "rpi", "distribution": "d1"}
    for path in ("create-type", "create-distribution"):
        any_fleet.call("POST", f"/api/flash/{path}", key=any_fleet.admin, json=place)
    for name in ("a.bin", "b.bin", "c.bin"):
        sent = {"data": place, "files": {"file": (name, b"right")}}
        assert any_fleet.call("POST", "/api/flash/upload", key=any_fleet.admin, **sent).status_code == 200
    settings, data_dir = settings_of(any_fleet), any_fleet.data_dir
    assert admin.check(settings, data_dir, checksums=True)["problems"] == []
    folder = data_dir / "storage/rpi/d1"
    (folder / "b.bin").chmod(0o600)
    (folder / "b.bin").write_bytes(b"wrong")
    (folder / "c.bin").unlink()
    missing = "files: storage/rpi/d1/c.bin: the file is missing"
    assert admin.check(settings, data_dir)["problems"] == [missing]
    checked = admin.check(settings, data_dir, checksums=True)
    assert checked["ok"] is False
    assert checked["problems"] == [missing, "files: storage/rpi/d1/b.bin: other content than recorded"]


def test_check_finds_a_damaged_file(tmp_path: Path) -> None:
    admin.migrate(SQLITE, tmp_path)
    with sqlite3.connect(tmp_path / "meetingctl.db") as database:
        database.execute("PRAGMA foreign_keys=OFF")
        database.execute("INSERT INTO presence (device_id, last_seen_ms, authenticated) VALUES (77, 1, 1)")
    database.close()
    problems = admin.check(SQLITE, tmp_path)["problems"]
    assert any("points to a missing devices" in problem for problem in problems)


def test_query_reads(any_fleet: Fleet) -> None:
    any_fleet.device()
    rows = admin.query(settings_of(any_fleet), any_fleet.data_dir, "SELECT device_key, authorized FROM devices")
    assert [(row["device_key"], bool(row["authorized"])) for row in rows] == [("cam-1", True)]
    assert admin.query(settings_of(any_fleet), any_fleet.data_dir, "SELECT 1 AS a WHERE 1 = 0") == []


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM devices",
        "UPDATE devices SET note = 'x'",
        "INSERT INTO tunnel_ports (port, freed_at_ms) VALUES (1, 0)",
        "DROP TABLE audit",
        "CREATE TABLE x (y int)",
        "SELECT * FROM nothing",
        "nonsense",
        "",
        "SELECT 1; DELETE FROM devices",
        "WITH gone AS (DELETE FROM devices RETURNING id) SELECT * FROM gone",
        "COMMIT",
        "PRAGMA query_only=0",
    ],
)
def test_query_refuses_to_write(any_fleet: Fleet, sql: str) -> None:
    any_fleet.device()
    settings = settings_of(any_fleet)
    try:
        rows = admin.query(settings, any_fleet.data_dir, sql)
    except InvalidInput:
        pass
    else:
        assert rows == [], "nothing but an empty answer"
    assert len(admin.query(settings, any_fleet.data_dir, "SELECT id FROM devices")) == 1
    assert admin.status(settings, any_fleet.data_dir)["rows"]["audit"] == 1


@pytest.mark.real
def test_check_finds_what_a_broken_restore_leaves(postgres_fleet: Fleet) -> None:
    fleet = postgres_fleet
    fleet.device()
    settings = settings_of(fleet)
    assert admin.check(settings, fleet.data_dir)["problems"] == []
    for statement in (
        "SELECT setval(pg_get_serial_sequence('devices', 'id'), 1, false)",
        "UPDATE devices SET id = 5",
        "ALTER TABLE connection_logs ADD CONSTRAINT later CHECK (id > 0) NOT VALID",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_connection_logs_at_ms'::regclass",
    ):
        fleet.write(lambda connection, text=statement: connection.exec_driver_sql(text))
    assert admin.check(settings, fleet.data_dir)["problems"] == [
        "index: ix_connection_logs_at_ms is not valid",
        "reference: later of connection_logs is not valid",
        "numbers: devices would give out ids that are taken",
    ]


@pytest.mark.real
def test_a_transaction_cannot_be_left_to_write(postgres_url: sa.URL, tmp_path: Path) -> None:
    settings = Settings(db_url=postgres_url.render_as_string())
    for sql in (
        "COMMIT; DELETE FROM tunnel_ports",
        "SET TRANSACTION READ WRITE; CREATE TABLE x (y int)",
        "END; DROP TABLE audit",
    ):
        with pytest.raises(InvalidInput):
            admin.query(settings, tmp_path, sql)
    assert admin.check(settings, tmp_path)["ok"] is True
