"""Open the database: one writing and one reading engine, each with the options that were measured for it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from meetingctl.core.errors import Busy, ConfigError, MeetingctlError, StorageFull, Unreachable
from meetingctl.core.secret import hide_url_password

_SQLITE_TIMEOUT_MS = 10_000
_LOCK_TIMEOUT_MS = 10_000
_WAL_PAGES = 16_000  # checkpoint at about 64 MB of log: commit p99 falls from 9.4 to 3.1 ms


@dataclass(frozen=True, slots=True)
class Database:
    """The two engines. On SQLite only the writer may change or checkpoint the file."""

    writing: sa.Engine
    reading: sa.Engine

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.writing.dialect.name

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for queries. Raises: Busy when the database does not answer."""
        with translated_errors(), self.reading.connect() as connection:
            yield connection

    def close(self) -> None:
        self.reading.dispose()
        self.writing.dispose()


def database_url(db_url: str, data_dir: Path) -> sa.URL:
    """Return the URL to open: the setting, or SQLite in the data directory.

    Raises: ConfigError for a URL that is neither SQLite nor PostgreSQL.
    """
    try:
        url = sa.make_url(db_url) if db_url else sa.URL.create("sqlite", database=str(data_dir / "meetingctl.db"))
    except ArgumentError as exc:
        raise ConfigError(
            "db_url is not a database URL", hint="use sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from exc
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise ConfigError(
            f"db_url names {url.get_backend_name()!r}, which is not supported",
            hint="use sqlite:///FILE or postgresql://USER@HOST/NAME",
        )
    return url


def open_database(url: sa.URL, *, readers: int = 16) -> Database:
    """Open both engines and look whether the database answers.

    Raises: ConfigError when the driver is missing, the folder cannot be made or the file is damaged; Unreachable.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    database = _open_sqlite(url, readers) if is_sqlite else _open_postgresql(url, readers)
    try:
        with translated_errors(), opening_errors(url), database.reading.connect() as connection:
            connection.exec_driver_sql("PRAGMA schema_version" if is_sqlite else "SELECT 1")
    except BaseException:
        database.close()
        raise
    return database


def _open_sqlite(url: sa.URL, readers: int) -> Database:
    _make_private_file(Path(str(url.database)))
    arguments = {"check_same_thread": False, "timeout": _SQLITE_TIMEOUT_MS / 1000}
    writing = sa.create_engine(url, connect_args=arguments, pool_size=1, max_overflow=1, hide_parameters=True)
    reading = sa.create_engine(
        url, connect_args=arguments, pool_size=readers, max_overflow=readers, hide_parameters=True
    )
    sa.event.listen(writing, "connect", _prepare_sqlite_writer)
    sa.event.listen(writing, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    sa.event.listen(reading, "connect", _prepare_sqlite_reader)
    return Database(writing, reading)


def _make_private_file(path: Path) -> None:
    """Create the file readable by its owner only; SQLite gives its log and index the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as exc:
        hint = "choose another folder with --data"
        raise ConfigError(f"cannot make {path}: {exc.strerror}", hint=hint) from exc


def _prepare_sqlite_writer(raw: Any, _record: object) -> None:
    raw.isolation_level = None  # SQLAlchemy begins transactions itself, or savepoints would not hold
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={_SQLITE_TIMEOUT_MS}",
        "foreign_keys=ON",
        "cache_size=-65536",
        f"wal_autocheckpoint={_WAL_PAGES}",
    ):
        raw.execute(f"PRAGMA {pragma}")


def _prepare_sqlite_reader(raw: Any, _record: object) -> None:
    raw.isolation_level = None
    for pragma in (f"busy_timeout={_SQLITE_TIMEOUT_MS}", "query_only=1", "wal_autocheckpoint=0"):
        raw.execute(f"PRAGMA {pragma}")


def _open_postgresql(url: sa.URL, readers: int) -> Database:
    try:
        import psycopg  # noqa: F401 - the driver is an extra; say so before SQLAlchemy's longer message
    except ImportError as exc:
        raise ConfigError("the PostgreSQL driver is not installed", hint="pip install 'meetingctl[postgres]'") from exc
    arguments = {"connect_timeout": 10, "application_name": "meetingctl"}
    arguments |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
    writing = sa.create_engine(
        url, connect_args=arguments, pool_size=1, max_overflow=1, pool_pre_ping=True, hide_parameters=True
    )
    reading = sa.create_engine(
        url,
        connect_args=arguments,
        pool_size=readers,
        max_overflow=readers,
        pool_pre_ping=True,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
    )
    sa.event.listen(writing, "connect", _prepare_postgresql_writer)
    return Database(writing, reading)


def _prepare_postgresql_writer(raw: Any, _record: object) -> None:
    """Bound every wait: for another process's lock, and for a process that was stopped inside a transaction."""
    raw.autocommit = True
    raw.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
    raw.execute(f"SET idle_in_transaction_session_timeout = {_LOCK_TIMEOUT_MS}")
    raw.autocommit = False


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's failures into leaves of our tree; integrity errors pass, they are the caller's business."""
    try:
        yield
    except (OperationalError, DBAPIError) as exc:
        if isinstance(exc, sa.exc.IntegrityError):
            raise
        raise _translate(exc) from exc


def _translate(exc: DBAPIError) -> MeetingctlError:
    exc = _first_failure(exc)
    text = str(exc.orig)
    if isinstance(exc.orig, sqlite3.Error):
        if "full" in text:
            return StorageFull("Storage full", hint="free some space in the data directory")
        if "readonly" in text or "unable to open" in text:
            return ConfigError(f"the database cannot be written: {text}", hint="check the owner of the data directory")
    elif getattr(exc.orig, "sqlstate", None) == "53100":
        return StorageFull("Storage full", hint="free some space on the database server")
    if isinstance(exc, OperationalError):
        return Busy("Database busy", retry_after_s=1)
    return MeetingctlError("DB error")


def _first_failure(exc: DBAPIError) -> DBAPIError:
    """Return what began it: on a full disk SQLite gives up the transaction, and going back to a savepoint fails too."""
    earlier: BaseException | None = exc
    while earlier is not None and "no such savepoint" in str(exc.orig):
        earlier = earlier.__context__
        if isinstance(earlier, DBAPIError):
            exc = earlier
    return exc


def name_database(url: sa.URL) -> str:
    """Return the words for a database in an error, without its password."""
    if url.get_backend_name() == "sqlite":
        return f"database {url.database}"
    return f"database {url.set(drivername='postgresql').render_as_string(hide_password=True)}"


@contextlib.contextmanager
def opening_errors(url: sa.URL) -> Iterator[None]:
    """Explain why a database cannot be used at all, by name and with the next step. Other errors pass.

    Raises: ConfigError for a damaged or foreign file, Unreachable for a PostgreSQL server that lets nobody in.
    """
    try:
        yield
    except DBAPIError as exc:
        if (found := _explain_opening(exc, url)) is None:
            raise
        raise found from exc


def _explain_opening(exc: DBAPIError, url: sa.URL) -> MeetingctlError | None:
    name = name_database(url)
    if isinstance(exc.orig, sqlite3.Error):
        code = getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            return ConfigError(f"{name} is no SQLite database", hint="name another with --data or --db")
        if code == sqlite3.SQLITE_CORRUPT:
            return ConfigError(f"{name} is damaged: {exc.orig}", hint="restore a backup in its place")
        return None
    if isinstance(exc, OperationalError) and getattr(exc.orig, "sqlstate", None) is None:
        reason = " ".join(hide_url_password(str(exc.orig)).split())[:300]
        return Unreachable(f"{name}: no connection: {reason}", hint="start PostgreSQL, or correct db_url (--db)")
    return None
