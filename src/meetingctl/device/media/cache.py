"""The database of recordings: what ffprobe found, so that it runs once per file and not once per page view.

It is a cache: a damaged or foreign file is put aside and begun anew. Paths are those that the device sees.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from meetingctl.core.clock import iso_text
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import CACHE_DIR, MEDIA_CACHE_DB, THUMBNAILS_DIR
from meetingctl.device.media.probe import Metadata
from meetingctl.device.media.thumbnail import drop_thumbnail, is_fresh, thumbnail_of
from meetingctl.device.media.units import duration_text, size_text
from meetingctl.device.system import System

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA_VERSION = 1
TABLE = "media_cache"
COLUMNS: dict[str, type] = {
    "id": int,
    "filepath": str,
    "filename": str,
    "file_size": int,
    "file_mtime": float,
    "duration": float,
    "duration_human": str,
    "resolution": str,
    "width": int,
    "height": int,
    "codec": str,
    "bitrate": int,
    "fps": float,
    "has_audio": int,
    "thumbnail_path": str,
    "thumbnail_generated": int,
    "metadata_json": str,
    "created_at": str,
    "updated_at": str,
}
_BUSY_MS = 5000

log = logging.getLogger(__name__)
Row = dict[str, Any]


class MediaCache:
    """One connection to the database; use it in the thread that opened it, and close it (`with`)."""

    def __init__(self, system: System) -> None:
        """Open the database, and make it when it is missing. Raises: MeetingctlError when it cannot be written."""
        self._system = system
        self._path = system.path(MEDIA_CACHE_DB)
        try:
            # One at a time: two first starts at once would both make the tables.
            with system.locked(CACHE_DIR):
                self._db = _open(self._path)
        except (OSError, sqlite3.Error) as exc:
            raise MeetingctlError(f"{MEDIA_CACHE_DB}: {exc}", hint="df -h; ls -l " + MEDIA_CACHE_DB) from exc
        self._table = self._db.table(TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def get(self, filepath: str) -> Row | None:
        """Return the row of a file, None when it is unknown."""
        return next(iter(self._table.rows_where("filepath = ?", [filepath])), None)

    def rows(self) -> list[Row]:
        """Return all rows, oldest recording first."""
        return list(self._table.rows_where(order_by="file_mtime, filename"))

    def is_current(self, filepath: str) -> bool:
        """Say whether the row of a file is not older than the file and has its metadata."""
        row = self.get(filepath)
        try:
            found = self._system.path(filepath).stat()
        except OSError:
            return False
        return (
            row is not None
            and row["metadata_json"] is not None
            and row["file_mtime"] >= found.st_mtime
            and row["file_size"] == found.st_size
        )

    def note_file(self, filepath: str, metadata: Metadata | None = None) -> bool:
        """Write what is known of a file; without metadata only size and time. False when the file is gone."""
        try:
            found = self._system.path(filepath).stat()
        except OSError:
            return False
        facts: Row = {
            "filepath": filepath,
            "filename": filepath.rpartition("/")[2],
            "file_size": found.st_size,
            "file_mtime": found.st_mtime,
            "thumbnail_path": thumbnail_of(filepath),
            "thumbnail_generated": int(is_fresh(self._system, filepath)),
            "updated_at": _now_text(),
        }
        if self.get(filepath) is None:
            facts["created_at"] = facts["updated_at"]
        if metadata is not None:
            facts |= _metadata_columns(metadata)
        with self._changes():
            self._table.upsert(facts, pk="filepath")
        return True

    def note_thumbnail(self, filepath: str) -> None:
        """Write whether the thumbnail of a file is there now."""
        facts = {"thumbnail_generated": int(is_fresh(self._system, filepath)), "updated_at": _now_text()}
        with self._changes() as connection:
            connection.execute(
                f"UPDATE {TABLE} SET thumbnail_generated = :thumbnail_generated, updated_at = :updated_at "  # noqa: S608
                "WHERE filepath = :filepath",
                {**facts, "filepath": filepath},
            )

    def forget(self, filepath: str) -> None:
        """Delete the row and the thumbnail of a file."""
        with self._changes():
            self._table.delete_where("filepath = ?", [filepath])
        drop_thumbnail(self._system, filepath)

    def remove_orphans(self) -> dict[str, int]:
        """Delete rows without a file and thumbnails without a row. Returns how many of each."""
        gone = [row["filepath"] for row in self.rows() if not self._is_there(row["filepath"])]
        for filepath in gone:
            self.forget(filepath)
        kept = {row["thumbnail_path"] for row in self.rows()}
        thumbnails = [path for path in _thumbnails(self._system) if f"{THUMBNAILS_DIR}/{path.name}" not in kept]
        for path in thumbnails:
            path.unlink(missing_ok=True)
        return {"entries": len(gone), "thumbnails": len(thumbnails)}

    def statistics(self) -> Row:
        """Return the figures of the cache as the web page shows them; the worker adds its own."""
        entries, with_thumbnails, duration_s = next(
            iter(
                self._db.execute(
                    f"SELECT count(*), coalesce(sum(thumbnail_generated), 0), coalesce(sum(duration), 0) FROM {TABLE}"  # noqa: S608
                )
            )
        )
        database_bytes = self._path.stat().st_size + _size_bytes(self._path.with_name(f"{self._path.name}-wal"))
        pictures_bytes = sum(path.stat().st_size for path in _thumbnails(self._system))
        return {
            "total_entries": entries,
            "with_thumbnails": with_thumbnails,
            "missing_thumbnails": entries - with_thumbnails,
            "total_duration_seconds": round(duration_s, 2),
            "total_duration_human": duration_text(duration_s),
            "database_size": database_bytes,
            "database_size_human": size_text(database_bytes),
            "thumbnail_cache_size": pictures_bytes,
            "thumbnail_cache_size_human": size_text(pictures_bytes),
        }

    def _is_there(self, filepath: str) -> bool:
        try:
            return self._system.path(filepath).is_file()
        except MeetingctlError:
            return False

    @contextlib.contextmanager
    def _changes(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes. Raises: MeetingctlError when the database cannot be written."""
        connection: sqlite3.Connection = self._db.conn
        try:
            with connection:
                yield connection
        except sqlite3.Error as exc:
            raise MeetingctlError(f"{MEDIA_CACHE_DB}: {exc}", hint="df -h") from exc


def _open(path: Path) -> Database:
    """Open a database of ours; put a damaged or foreign one aside first."""
    try:
        return _open_ours(path)
    except sqlite3.OperationalError:
        raise  # locked, read-only or full: the content is not to blame
    except (sqlite3.DatabaseError, _Foreign) as exc:
        log.warning("media cache begun anew", extra={"problem": str(exc)})
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.replace(path.with_name(f"{path.name}.old"))
        return _open_ours(path)


class _Foreign(Exception):
    """The database has a table of our name with other columns."""


def _open_ours(path: Path) -> Database:
    from sqlite_utils import Database

    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        db = Database(connection, execute_plugins=False)
        _make_tables(db)
    except BaseException:
        connection.close()
        raise
    return db


def _make_tables(db: Database) -> None:
    if TABLE in db.table_names():
        if missing := set(COLUMNS) - {column.name for column in db.table(TABLE).columns}:
            raise _Foreign(f"no column {min(missing)}")
        return
    table = db.table(TABLE)
    defaults = {"has_audio": 0, "thumbnail_generated": 0}
    table.create(COLUMNS, pk="id", not_null={"filepath", "filename"}, defaults=defaults)
    table.create_index(["filepath"], unique=True)
    db.table("schema_version").insert({"version": SCHEMA_VERSION})


def _metadata_columns(metadata: Metadata) -> Row:
    return {
        "duration": metadata.duration_s,
        "duration_human": duration_text(metadata.duration_s),
        "resolution": metadata.resolution,
        "width": metadata.width_px,
        "height": metadata.height_px,
        "codec": metadata.codec,
        "bitrate": metadata.bitrate_bps,
        "fps": metadata.fps,
        "has_audio": int(metadata.has_audio),
        "metadata_json": metadata.raw,
    }


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _thumbnails(system: System) -> list[Path]:
    return [path for path in system.path(THUMBNAILS_DIR).glob("*.jpg") if path.is_file() and not path.is_symlink()]


def _now_text() -> str:
    return iso_text(int(time.time() * 1000)) or ""
