"""Migrations keep what is there: every table of each older revision with rows that refer to each other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from planes import Postgres

import meetingctl.server.db as db_package
from meetingctl.core.settings import Settings
from meetingctl.server.db import admin
from meetingctl.server.db.engine import Database, open_database
from meetingctl.server.db.migrate import alembic_config, current_revision, migrate
from meetingctl.server.db.migrations import HEAD

ROWS = 3
OLDER = sorted(path.name[:4] for path in (Path(db_package.__file__).parent / "migrations/versions").glob("[0-9]*.py"))[
    :-1
]
# Columns that a later revision may leave out, because their content moved elsewhere.
DROPPED: set[tuple[str, str]] = set()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    if request.param == "sqlite":
        database = open_database(sa.URL.create("sqlite", database=str(tmp_path / "meetingctl.db")))
        yield database
        database.close()
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new_database()
    database = open_database(url)
    yield database
    database.close()
    server.drop(url)


def reflect(connection: sa.Connection) -> list[sa.Table]:
    found = sa.MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def value_for(column: sa.Column[Any], number: int) -> Any:
    if isinstance(column.type, sa.Boolean):
        return number % 2 == 0
    if isinstance(column.type, sa.Integer):
        return number
    if isinstance(column.type, sa.JSON):
        return {"number": number, "text": "Übergröße"}
    assert isinstance(column.type, sa.String), f"no example for {column}"
    return f"{number}-é-{column.name}"[: column.type.length or 60]


def fill(connection: sa.Connection, first: int = 1) -> None:
    """Put rows into every table, parents first; a row that refers to its own table refers to the one before it.

    The numbers of `id` columns are the database's own.
    """
    for table in reflect(connection):
        if table.name == "audit_head":  # one row, written by the migration itself
            continue
        for number in range(first, first + ROWS):
            row: dict[str, Any] = {}
            for column in table.columns:
                reference = next(iter(column.foreign_keys), None)
                if reference is not None:
                    query = sa.select(reference.column).order_by(reference.column)
                    known = list(connection.execute(query).scalars())
                    own = reference.column.table is table
                    row[column.name] = (known or [None])[-1] if own else known[number - first - ROWS]
                elif column.name != "id" or table.name == "audit" or isinstance(column.type, sa.String):
                    row[column.name] = value_for(column, number)
            connection.execute(table.insert().values(row))


def contents(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: [
            dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
        ]
        for table in reflect(connection)
    }


@pytest.mark.parametrize("revision", OLDER)
def test_an_upgrade_keeps_every_row_and_column(empty: Database, revision: str) -> None:
    with empty.writing.connect() as connection:
        command.upgrade(alembic_config(connection), revision)
        connection.commit()
    with empty.writing.begin() as connection:
        fill(connection)
        before = {name: rows for name, rows in contents(connection).items() if name != "audit_head"}
    assert before, "there are tables"
    assert {len(rows) for rows in before.values()} == {ROWS}
    assert migrate(empty) == (revision, HEAD)
    with empty.read() as connection:
        assert current_revision(connection) == HEAD
        after = contents(connection)
        if empty.dialect == "sqlite":
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    lost = {(name, column) for name in before for column in before[name][0].keys() - after[name][0].keys()}
    assert lost <= DROPPED
    for name, rows in before.items():
        wanted = [{column: value for column, value in row.items() if (name, column) not in lost} for row in rows]
        found = [{column: row[column] for column in wanted[0]} for row in after[name]]
        assert found == wanted, name
    with empty.writing.begin() as connection:  # numbering goes on where it was
        fill(connection, first=ROWS + 1)
        assert {len(rows) for name, rows in contents(connection).items() if name in before} == {2 * ROWS}


def test_every_revision_follows_the_one_before(empty: Database) -> None:
    with empty.writing.connect() as connection:
        scripts = ScriptDirectory.from_config(alembic_config(connection))
    line = [script.revision for script in scripts.walk_revisions()][::-1]
    assert line == [*OLDER, HEAD], "one line, numbered in order"


def test_an_upgrade_that_is_cut_off_changes_nothing(tmp_path: Path) -> None:
    """SQLite: a copy of the file as it was in the middle of a migration opens as the older revision."""
    database = open_database(sa.URL.create("sqlite", database=str(tmp_path / "meetingctl.db")))
    with database.writing.connect() as connection:
        command.upgrade(alembic_config(connection), OLDER[0])
        connection.commit()
    with database.writing.begin() as connection:
        fill(connection)
        before = contents(connection)
    with database.writing.connect() as connection:
        assert current_revision(connection) == OLDER[0]  # begins the transaction, as `migrate` does
        command.upgrade(alembic_config(connection), "head")
        (tmp_path / "crash").mkdir()
        for path in tmp_path.glob("meetingctl.db*"):
            shutil.copy(path, tmp_path / "crash" / path.name)
        connection.rollback()
    database.close()
    crashed = open_database(sa.URL.create("sqlite", database=str(tmp_path / "crash/meetingctl.db")))
    with crashed.read() as connection:
        assert current_revision(connection) == OLDER[0]
        assert contents(connection) == before
    assert migrate(crashed) == (OLDER[0], HEAD)
    crashed.close()
    assert admin.status(Settings(), tmp_path / "crash")["up_to_date"] is True
