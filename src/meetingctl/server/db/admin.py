"""What `meetingctl db` does to a database: migrate, status, check, query.

While a server runs, SQLite files are opened for reading only; writing goes through the API.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from meetingctl.core.errors import InvalidInput, NotFound
from meetingctl.core.settings import Settings
from meetingctl.server.audit.chain import verify
from meetingctl.server.db.engine import Database, database_url, open_database, translated_errors
from meetingctl.server.db.migrate import current_revision
from meetingctl.server.db.migrate import migrate as run_migrations
from meetingctl.server.db.migrations import HEAD
from meetingctl.server.db.schema import metadata

QUERY_ROWS = 10_000


@contextlib.contextmanager
def _opened(settings: Settings, data_dir: Path, *, create: bool = False) -> Iterator[tuple[Database, sa.URL]]:
    url = database_url(settings.db_url, data_dir)
    if url.get_backend_name() == "sqlite" and not create and not Path(str(url.database)).exists():
        raise NotFound(f"no database at {url.database}", hint="name the server's folder with --data DIR")
    database = open_database(url, readers=1)
    try:
        yield database, url
    finally:
        database.close()


def migrate(settings: Settings, data_dir: Path) -> dict[str, Any]:
    """Bring the database to the newest revision. Returns {before, after, changed}."""
    with _opened(settings, data_dir, create=True) as (database, _):
        before, after = run_migrations(database)
    return {"before": before, "after": after, "changed": before != after}


def status(settings: Settings, data_dir: Path) -> dict[str, Any]:
    """Return where the database is, its revision, size in bytes and rows per table."""
    with _opened(settings, data_dir) as (database, url), database.read() as connection:
        revision = current_revision(connection)
        rows = {}
        if revision is not None:
            for table in metadata.sorted_tables:
                rows[table.name] = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        return {
            "database": url.render_as_string(hide_password=True),
            "engine": _engine_version(connection),
            "revision": revision,
            "newest_revision": HEAD,
            "up_to_date": revision == HEAD,
            "size_bytes": _size_bytes(connection, url),
            "rows": rows,
        }


def _engine_version(connection: sa.Connection) -> str:
    if connection.dialect.name == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    return f"PostgreSQL {connection.exec_driver_sql('SHOW server_version').scalar()}"


def _size_bytes(connection: sa.Connection, url: sa.URL) -> int:
    if connection.dialect.name == "sqlite":
        return sum(path.stat().st_size for suffix in ("", "-wal") if (path := Path(f"{url.database}{suffix}")).exists())
    return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())


def check(settings: Settings, data_dir: Path, *, checksums: bool = False) -> dict[str, Any]:
    """Check integrity, references, revision, the audit chain and the files. Returns {ok, problems, audit_records}.

    With `checksums` every byte of the files is read.
    """
    problems: list[str] = []
    with _opened(settings, data_dir) as (database, _), database.read() as connection:
        if database.dialect == "sqlite":
            problems += [
                f"integrity: {row[0]}" for row in connection.exec_driver_sql("PRAGMA integrity_check") if row[0] != "ok"
            ]
            problems += [
                f"reference: {row[0]} row {row[1]} points to a missing {row[2]}"
                for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
            ]
        else:
            problems += _check_postgresql(connection)
        revision = current_revision(connection)
        if revision != HEAD:
            problems.append(f"revision: {revision or 'none'}, newest is {HEAD}")
            return {"ok": False, "problems": problems, "audit_records": 0}
        records, first_bad = verify(connection)
        if first_bad is not None:
            problems.append(f"audit: record {first_bad} does not fit the chain")
        problems += _check_files(data_dir, connection)
        if checksums:
            problems += _check_contents(data_dir, database, connection)
    return {"ok": not problems, "problems": problems, "audit_records": records}


def _check_postgresql(connection: sa.Connection) -> list[str]:
    """Look for what a broken restore or a cut-off command leaves: PostgreSQL itself keeps pages and references."""
    indexes = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1"
    problems = [f"index: {name} is not valid" for name in connection.exec_driver_sql(indexes).scalars()]
    references = "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE NOT convalidated ORDER BY 1, 2"
    problems += [f"reference: {name} of {table} is not valid" for table, name in connection.exec_driver_sql(references)]
    present = set(sa.inspect(connection).get_table_names())
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None or table.name not in present:
            continue
        sequence = connection.execute(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))).scalar()
        highest = connection.execute(sa.select(sa.func.max(column))).scalar() or 0
        newest = f"SELECT last_value FROM {sequence}"  # noqa: S608 - a name that PostgreSQL gave us, quoted
        if sequence is None or connection.exec_driver_sql(newest).scalar_one() < highest:
            problems.append(f"numbers: {table.name} would give out {column.name}s that are taken")
    return problems


def _check_files(data_dir: Path, connection: sa.Connection) -> list[str]:
    """Say where the files below the data directory are not what the tables tell, without reading their content.

    What a running server may still be receiving is left out until it is stale.
    """
    from meetingctl.server.builder import orphans as builder
    from meetingctl.server.catalog.orphans import STALE_MS, find_orphans
    from meetingctl.server.updates import verify as published
    from meetingctl.server.updates.releases import PUBLISHED

    problems = [f"files: {line}" for line in find_orphans(data_dir, connection, older_than_ms=STALE_MS)]
    problems += [f"files: {line}" for line in builder.find_orphans(data_dir, connection, older_than_ms=STALE_MS)]
    faults = published.find_missing(data_dir, connection)
    faults += published.find_orphans(data_dir, connection, older_than_ms=STALE_MS)
    return problems + [f"files: {PUBLISHED}/{fault['name']}: {fault['fault']}" for fault in faults]


def _check_contents(data_dir: Path, database: Database, connection: sa.Connection) -> list[str]:
    """Say which files are not what was recorded; those that are missing are told elsewhere."""
    from meetingctl.server.db.backup import files_of

    faults = {entry: fault for entry in files_of(data_dir, connection) if (fault := _content_fault(data_dir, *entry))}
    if faults:  # what the server has replaced or removed meanwhile is no damage
        with database.read() as later:
            recorded = set(files_of(data_dir, later))
        faults = {entry: fault for entry, fault in faults.items() if entry in recorded}
    return [f"files: {name}: {fault}" for (name, _), fault in faults.items()]


def _content_fault(data_dir: Path, name: str, sha256: str | None) -> str | None:
    from meetingctl.server.updates.releases import hash_file

    if not sha256:
        return None
    try:
        found = hash_file(data_dir / name)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return exc.strerror or "cannot be read"
    return None if found == sha256 else "other content than recorded"


def query(settings: Settings, data_dir: Path, sql: str) -> list[dict[str, Any]]:
    """Run one reading statement; at most 10,000 rows. Raises: InvalidInput for a statement that fails or writes."""
    url = database_url(settings.db_url, data_dir)
    if url.get_backend_name() == "sqlite":
        return _query_sqlite(Path(str(url.database)), sql)
    return _query_postgresql(settings, data_dir, sql)


def _query_postgresql(settings: Settings, data_dir: Path, sql: str) -> list[dict[str, Any]]:
    with _opened(settings, data_dir) as (database, _), translated_errors(), database.writing.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        raw: Any = connection.connection
        with raw.cursor() as cursor:
            try:
                # A prepared statement is exactly one: `COMMIT; DELETE ...` cannot leave the transaction.
                cursor.execute(sql, prepare=True)
            except raw.driver_connection.Error as exc:
                raise InvalidInput(f"query failed: {exc}", hint=_query_hint(exc, _POSTGRESQL_TABLES)) from exc
            if cursor.description is None:
                raise InvalidInput("query failed: the statement gives no rows", hint=_READS_ONLY)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(QUERY_ROWS)]


_READS_ONLY = "only one statement that reads rows is allowed"
_SQLITE_TABLES = "select name from sqlite_schema where type='table'"
_POSTGRESQL_TABLES = "select table_name from information_schema.tables where table_schema='public'"


def _query_hint(error: Exception, tables: str) -> str:
    """Say that only reading is allowed, or, for a slip in the statement, how to see what tables there are."""
    text = str(error).lower()
    is_slip = "syntax error" in text or "no such" in text or "does not exist" in text
    return f'meetingctl db query "{tables}"' if is_slip else _READS_ONLY


def _query_sqlite(path: Path, sql: str) -> list[dict[str, Any]]:
    from itertools import islice

    import sqlite_utils

    if not path.exists():
        raise NotFound(f"no database at {path}", hint="name the server's folder with --data DIR")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        connection.execute("PRAGMA query_only=1")
        return [dict(row) for row in islice(sqlite_utils.Database(connection).query(sql), QUERY_ROWS)]
    except (sqlite3.Error, ValueError) as exc:
        raise InvalidInput(f"query failed: {exc}", hint=_query_hint(exc, _SQLITE_TABLES)) from exc
    finally:
        connection.close()
