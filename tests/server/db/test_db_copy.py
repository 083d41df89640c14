"""A database copied to another engine and back is the same database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fill import fill_tables
from planes import Postgres

from meetingctl.core.errors import ConfigError, Conflict, InvalidInput, MeetingctlError, NotFound
from meetingctl.server.db import copy
from meetingctl.server.db.engine import open_database
from meetingctl.server.db.schema import connection_logs, device_types, devices, metadata


def text_of(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def all_rows(url: sa.URL) -> dict[str, list[tuple[Any, ...]]]:
    database = open_database(url)
    try:
        with database.read() as connection:
            return {
                table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]
                for table in metadata.sorted_tables
            }
    finally:
        database.close()


def insert_log(url: sa.URL) -> int:
    """Insert a row and return its id."""
    row = {"device_id": 1, "at_ms": 1, "event": "x", "host": "", "remote": ""}
    database = open_database(url)
    with database.writing.begin() as connection:
        made = connection.execute(connection_logs.insert().values(row).returning(connection_logs.c.id)).scalar_one()
    database.close()
    return int(made)


@pytest.fixture
def full(sqlite_url: sa.URL) -> sa.URL:
    """A SQLite database with rows in every table."""
    database = open_database(sqlite_url)
    with database.writing.begin() as connection:
        fill_tables(connection)
        # a child before its parent, and a JSON null beside a missing value
        connection.execute(devices.update().where(devices.c.id == 1).values(parent_id=3, provision=sa.null()))
        connection.execute(devices.update().where(devices.c.id == 2).values(provision=sa.JSON.NULL))
        connection.execute(device_types.update().where(device_types.c.id == 1).values(parent_id=2))
    database.close()
    return sqlite_url


def test_a_copy_to_another_file_is_the_same(full: sa.URL, tmp_path: Path) -> None:
    target = tmp_path / "new" / "copy.db"
    done = copy.copy_url(text_of(full), str(target))
    assert all_rows(full) == all_rows(sa.URL.create("sqlite", database=str(target)))
    assert {each["table"] for each in done["tables"]} == set(metadata.tables)
    assert done["rows"] == sum(each["rows"] for each in done["tables"])
    assert all(each["rows"] for each in done["tables"])
    with pytest.raises(Conflict, match="has rows in"):
        copy.copy_url(text_of(full), str(target))


@pytest.mark.real
def test_to_postgresql_and_back(full: sa.URL, postgres: Postgres, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(copy, "BATCH_ROWS", 2)  # several batches of the three rows
    middle = postgres.new_database()
    try:
        there = copy.copy_url(text_of(full), text_of(middle))
        assert all_rows(full) == all_rows(middle)
        back = copy.copy_url(text_of(middle), str(tmp_path / "back.db"))
        assert there["tables"] == back["tables"], "the same checksums on either engine"
        assert all_rows(full) == all_rows(sa.URL.create("sqlite", database=str(tmp_path / "back.db")))
        assert insert_log(middle) == 4, "ids go on after those that were copied"
        with pytest.raises(Conflict):
            copy.copy_url(text_of(full), text_of(middle))
    finally:
        postgres.drop(middle)


@pytest.mark.real
def test_a_value_that_postgresql_refuses_is_named(full: sa.URL, postgres: Postgres) -> None:
    database = open_database(full)
    with database.writing.begin() as connection:
        connection.execute(devices.update().where(devices.c.id == 2).values(token_code="x" * 50))
    database.close()
    target = postgres.new_database()
    try:
        with pytest.raises(MeetingctlError, match="table devices cannot be copied: value too long"):
            copy.copy_url(text_of(full), text_of(target))
        assert not any(all_rows(target).values())
    finally:
        postgres.drop(target)


def test_a_dry_run_writes_nothing(full: sa.URL, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    told = copy.copy_url(text_of(full), str(target), dry_run=True)
    assert (told["rows"] > 0, target.exists()) == (True, False)
    copy.copy_url(text_of(full), str(target))
    with pytest.raises(Conflict):
        copy.copy_url(text_of(full), str(target), dry_run=True)


def test_a_copy_that_differs_is_not_kept(full: sa.URL, tmp_path: Path, monkeypatch: Any) -> None:
    write = copy._write

    def lose(connection: sa.Connection, table: sa.Table, names: list[str], rows: list[list[Any]]) -> None:
        write(connection, table, names, rows[:-1] if table.name == "webhook_deliveries" else rows)

    monkeypatch.setattr(copy, "_write", lose)
    target = tmp_path / "copy.db"
    with pytest.raises(MeetingctlError, match="differs in webhook_deliveries"):
        copy.copy_url(text_of(full), str(target))
    assert not any(all_rows(sa.URL.create("sqlite", database=str(target))).values())


def test_what_is_no_source_is_refused(tmp_path: Path, sqlite_url: sa.URL) -> None:
    with pytest.raises(NotFound):
        copy.copy_url(str(tmp_path / "none.db"), str(tmp_path / "new.db"))
    with pytest.raises(InvalidInput):
        copy.copy_url(text_of(sqlite_url), text_of(sqlite_url))
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(ConfigError) as caught:
        copy.copy_url(str(empty), str(tmp_path / "new.db"))
    assert caught.value.hint == "meetingctl db migrate"
