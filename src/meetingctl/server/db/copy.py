"""Copy every row of one database into an empty other one, SQLite or PostgreSQL, and compare what arrived.

Rows travel as the engines keep them, in batches: JSON as its text, truth values as 0 and 1. The source is read in one
snapshot, so it may be in use; the target is written in one transaction, so a copy that breaks off leaves it empty.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from meetingctl.core.errors import ConfigError, Conflict, InvalidInput, MeetingctlError, NotFound
from meetingctl.server.db.engine import Database, database_url, name_database, open_database, translated_errors
from meetingctl.server.db.migrate import current_revision, migrate
from meetingctl.server.db.migrations import HEAD
from meetingctl.server.db.schema import metadata

BATCH_ROWS = 1000
_MODULUS = 2**256


@dataclass(frozen=True, slots=True)
class TableDigest:
    """How many rows a table has, and a checksum that does not depend on their order."""

    rows: int
    checksum: str


def copy_url(source_url: str, target_url: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Copy a database into another, which is made where it is missing.

    Returns {source, target, tables: [{table, rows, checksum}], rows}. With `dry_run` nothing is written, and there are
    no checksums.
    Raises: ConfigError, NotFound, Conflict for a target with rows, Unreachable, MeetingctlError when what arrived
    is not what was sent.
    """
    source, target = _parse_url(source_url), _parse_url(target_url)
    if source == target:
        raise InvalidInput("source and target are the same database", hint="name two databases")
    with open_existing(source) as read_from:
        if dry_run:
            with snapshot(read_from) as connection:
                found = {table.name: TableDigest(_count(connection, table), "") for table in metadata.sorted_tables}
            check_target(target)
        else:
            with _opened(target) as written:
                found = copy_database(read_from, written)
    tables = [
        {"table": name, "rows": each.rows, **({} if dry_run else {"checksum": each.checksum})}
        for name, each in sorted(found.items())
    ]
    return {
        "source": source.render_as_string(hide_password=True),
        "target": target.render_as_string(hide_password=True),
        "rows": sum(each.rows for each in found.values()),
        "tables": tables,
    }


def copy_database(source: Database, target: Database) -> dict[str, TableDigest]:
    """Copy all rows and return what each table of the target has. The target gets its tables here.

    Raises: Conflict when the target has rows, MeetingctlError when it differs from the source afterwards.
    """
    with snapshot(source) as reading:
        return copy_snapshot(reading, target)


def copy_snapshot(reading: sa.Connection, target: Database) -> dict[str, TableDigest]:
    """Do the same with what a connection of `snapshot` sees."""
    migrate(target)
    sent: dict[str, TableDigest] = {}
    with translated_errors(), target.writing.begin() as writing:
        _check_empty(writing, target.writing.url)
        for table in metadata.sorted_tables:
            sent[table.name] = _copy_table(reading, writing, table)
        arrived = {table.name: digest_table(writing, table) for table in metadata.sorted_tables}
        if different := sorted(name for name in sent if sent[name] != arrived[name]):
            raise MeetingctlError(f"the copy differs in {', '.join(different)}; nothing was kept", hint="copy again")
        if target.dialect == "postgresql":
            _set_sequences(writing)
    return arrived


@contextlib.contextmanager
def open_existing(url: sa.URL) -> Iterator[Database]:
    """Open a database that is there. Raises: NotFound, ConfigError, Unreachable."""
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise NotFound(f"no database at {url.database}", hint="name one that is there: sqlite:///FILE")
    with _opened(url) as database:
        yield database


@contextlib.contextmanager
def _opened(url: sa.URL) -> Iterator[Database]:
    database = open_database(url, readers=1)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def snapshot(database: Database) -> Iterator[sa.Connection]:
    """Give a connection that sees one moment. Raises: ConfigError for a schema that is not this version's."""
    with database.read() as connection:
        if database.dialect == "postgresql":
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        else:
            connection.exec_driver_sql("BEGIN")
        try:
            require_newest(connection, database.reading.url)
            yield connection
        finally:
            connection.exec_driver_sql("ROLLBACK")


def require_newest(connection: sa.Connection, url: sa.URL) -> None:
    """Raises: ConfigError for a schema that is not this version's."""
    if (revision := current_revision(connection)) != HEAD:
        found = f"{name_database(url)} has revision {revision or 'none'}, not {HEAD}"
        raise ConfigError(found, hint="meetingctl db migrate")


def digest_table(connection: sa.Connection, table: sa.Table) -> TableDigest:
    """Read a whole table, in batches."""
    digest = _Digest()
    for batch in _batches(connection, table):
        for row in batch:
            digest.add(row)
    return digest.result()


class _Digest:
    """Add up the hashes of rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum = 0

    def add(self, row: Sequence[Any]) -> None:
        plain = [int(value) if isinstance(value, bool) else value for value in row]
        self._rows += 1
        self._sum += int.from_bytes(hashlib.sha256(repr(plain).encode()).digest())

    def result(self) -> TableDigest:
        return TableDigest(self._rows, f"{self._sum % _MODULUS:064x}")


def _copy_table(reading: sa.Connection, writing: sa.Connection, table: sa.Table) -> TableDigest:
    """Copy the rows; references within the table follow when all rows are there."""
    digest = _Digest()
    names = [column.name for column in table.columns]
    inner = [column.name for column in table.columns if _is_inner(column)]
    kept = [position for position, name in enumerate(names) if name not in inner]
    for batch in _batches(reading, table):
        for row in batch:
            digest.add(row)
        _write(writing, table, [names[i] for i in kept], [[row[i] for i in kept] for row in batch])
    for name in inner:
        _write_references(reading, writing, table, name)
    return digest.result()


def _is_inner(column: sa.Column[Any]) -> bool:
    return any(key.column.table is column.table for key in column.foreign_keys)


def _batches(connection: sa.Connection, table: sa.Table) -> Iterator[list[Sequence[Any]]]:
    """Yield the rows in the order of the primary key, as the engine keeps them."""
    columns = [
        sa.cast(column, sa.Text).label(column.name) if isinstance(column.type, sa.JSON) else column
        for column in table.columns
    ]
    query = sa.select(*columns).order_by(*table.primary_key.columns)
    with connection.execute(query, execution_options={"yield_per": BATCH_ROWS}) as result:
        for partition in result.partitions():
            yield [tuple(row) for row in partition]


def _write(connection: sa.Connection, table: sa.Table, names: list[str], rows: list[list[Any]]) -> None:
    quoted = ", ".join(f'"{name}"' for name in names)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        text = f'INSERT INTO "{table.name}" ({quoted}) VALUES ({marks})'  # noqa: S608 - names of our schema
        connection.exec_driver_sql(text, [tuple(row) for row in rows])
        return
    raw: Any = connection.connection
    try:
        with raw.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({quoted}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
    except raw.driver_connection.Error as exc:
        reason = " ".join(str(exc).split())[:300]
        raise MeetingctlError(f"table {table.name} cannot be copied: {reason}", hint="meetingctl db check") from exc


def _write_references(reading: sa.Connection, writing: sa.Connection, table: sa.Table, name: str) -> None:
    key = next(iter(table.primary_key.columns))
    column = table.columns[name]
    change = table.update().where(key == sa.bindparam("of")).values({name: sa.bindparam("to")})
    with reading.execute(sa.select(key, column).where(column.is_not(None))) as result:
        pairs = iter(result)
        while batch := [{"of": row[0], "to": row[1]} for row in islice(pairs, BATCH_ROWS)]:
            writing.execute(change, batch)


def _set_sequences(connection: sa.Connection) -> None:
    """Let PostgreSQL give out the ids after the highest that was copied."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        highest = connection.execute(sa.select(sa.func.max(column))).scalar()
        if highest is not None and connection.execute(sa.select(sequence)).scalar() is not None:
            connection.execute(sa.select(sa.func.setval(sequence, highest)))


def check_target(url: sa.URL) -> None:
    """Look whether a copy could be written. Raises: Conflict when there are rows."""
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return
    with _opened(url) as database, database.read() as connection:
        _check_empty(connection, url)


def _check_empty(connection: sa.Connection, url: sa.URL) -> None:
    present = set(sa.inspect(connection).get_table_names())
    for table in metadata.sorted_tables:
        if table.name in present and connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
            raise Conflict(f"{name_database(url)} has rows in {table.name}", hint="name an empty database")


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def _parse_url(text: str) -> sa.URL:
    """Read a database URL; a plain path is a SQLite file."""
    is_path = "://" not in text and ("/" in text or text.endswith(".db"))
    return database_url(f"sqlite:///{text}" if is_path else text, Path())
