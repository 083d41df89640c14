"""Migrations build the schema that the code uses, on both engines."""

from __future__ import annotations

import shutil
import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from planes import Postgres

from meetingctl.core.errors import ConfigError, Unreachable
from meetingctl.server.db.engine import Database, database_url, open_database
from meetingctl.server.db.migrate import alembic_config, current_revision, migrate
from meetingctl.server.db.migrations import HEAD
from meetingctl.server.db.schema import metadata


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def empty(request: pytest.FixtureRequest, tmp_path: Path):
    """An empty database."""
    if request.param == "sqlite":
        url = sa.URL.create("sqlite", database=str(tmp_path / "empty.db"))
        database = open_database(url)
        yield database
        database.close()
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new_database()
    database = open_database(url)
    yield database
    database.close()
    server.drop(url)


def test_migrations_build_what_the_code_describes(empty: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    assert migrate(empty) == (None, HEAD)
    assert migrate(empty) == (HEAD, HEAD)
    with empty.writing.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_head_names_the_newest_revision(empty: Database) -> None:
    from alembic.script import ScriptDirectory

    with empty.writing.connect() as connection:
        scripts = ScriptDirectory.from_config(alembic_config(connection))
    assert scripts.get_heads() == [HEAD]


def test_down_and_up_again(empty: Database) -> None:
    from alembic import command

    migrate(empty)
    with empty.writing.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
        connection.commit()
    with empty.read() as connection:
        assert set(sa.inspect(connection).get_table_names()) <= {"alembic_version"}
    migrate(empty)
    with empty.read() as connection:
        assert current_revision(connection) == HEAD


def test_a_newer_database_is_refused_and_left_alone(empty: Database) -> None:
    migrate(empty)
    with empty.writing.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="9999, newer than this program") as caught:
        migrate(empty)
    assert "newer meetingctl" in caught.value.hint
    with empty.read() as connection:
        assert current_revision(connection) == "9999"


def test_two_servers_that_start_together_migrate_once(empty: Database) -> None:
    others = [open_database(empty.writing.url) for _ in range(3)]
    outcomes: list[object] = []

    def start(database: Database) -> None:
        outcomes.append(migrate(database))

    if empty.dialect == "sqlite":
        for database in others:  # the lock of the data directory keeps servers apart; here one after the other
            start(database)
    else:
        threads = [threading.Thread(target=start, args=(database,)) for database in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(outcomes, key=str) == sorted([(None, HEAD), (HEAD, HEAD), (HEAD, HEAD)], key=str)
    for database in others:
        database.close()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:", "oracle://x"])
def test_other_databases_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError):
        database_url(url, tmp_path)


def test_a_postgresql_url_in_any_spelling_uses_our_driver(tmp_path: Path) -> None:
    for text in ("postgresql://u@h/n", "postgresql+psycopg://u@h/n"):
        assert database_url(text, tmp_path).drivername == "postgresql+psycopg"
    assert database_url("", tmp_path).database == str(tmp_path / "meetingctl.db")


def test_the_writer_keeps_every_commit_and_readers_never_write(migrated_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    shutil.copy(migrated_file, path)
    database = open_database(sa.URL.create("sqlite", database=str(path)))
    with database.writing.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    with pytest.raises(ConfigError), database.read() as connection:
        connection.exec_driver_sql("DELETE FROM devices")
    database.close()


def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    database = open_database(database_url("", tmp_path))
    try:
        migrate(database)
    finally:
        database.close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("meetingctl.db*")} == {0o600}


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    path.write_text("this is a letter, and a long one, not a database" * 3)
    with pytest.raises(ConfigError) as caught:
        open_database(sa.URL.create("sqlite", database=str(path)))
    assert caught.value.message == f"database {path} is no SQLite database"
    assert caught.value.hint == "name another with --data or --db"


def test_a_damaged_file_is_named(migrated_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    content = bytearray(migrated_file.read_bytes())
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        migrate(open_database(sa.URL.create("sqlite", database=str(path))))
    assert caught.value.message.startswith(f"database {path} is damaged: ")
    assert caught.value.hint == "restore a backup in its place"


def test_a_postgresql_server_that_is_away_is_named_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(Unreachable) as caught:
        open_database(database_url("postgresql://fleet:hunter2@127.0.0.1:9/fleet", tmp_path))
    assert caught.value.message.startswith("database postgresql://fleet:***@127.0.0.1:9/fleet: no connection: ")
    assert "hunter2" not in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("revision", ["0000", "abc", "99999"])
def test_a_revision_that_was_never_ours_is_not_called_newer(revision: str, empty: Database) -> None:
    migrate(empty)
    with empty.writing.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :new"), {"new": revision})
    with pytest.raises(ConfigError, match=f"has revision {revision}, which no meetingctl made"):
        migrate(empty)
