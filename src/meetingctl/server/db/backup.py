"""Everything a server needs to come back, in one archive: the database and the files that it names.

The archive is a tar file: `meetingctl.db` first (SQLite, whatever the server runs on), then the files, and at the end
`complete.json` with the counts and the checksum of all of it. An archive without that end is no backup. Nothing is
stopped: the database is read in one snapshot, and at the same moment each file that it names gets a second link, since
the server replaces files and never changes them. A file that was replaced just before shows by its checksum, and the
backup begins again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import Busy, ConfigError, Conflict, NotFound, StorageFull
from meetingctl.core.paths import sync_folder
from meetingctl.core.settings import Settings
from meetingctl.server.builder.store import BUILDS, PACKAGES
from meetingctl.server.catalog.icons import ICONS
from meetingctl.server.catalog.tree import STORAGE
from meetingctl.server.credentials_file import NAME as CREDENTIALS
from meetingctl.server.db.copy import copy_snapshot, open_existing, snapshot
from meetingctl.server.db.engine import Database, database_url, open_database
from meetingctl.server.db.migrations import HEAD
from meetingctl.server.db.schema import (
    build_files,
    device_types,
    distribution_files,
    package_jobs,
    releases,
)
from meetingctl.server.db.writer import take_turn
from meetingctl.server.identity.sessions import FILE_NAME as LOGIN_KEY
from meetingctl.server.sealing import FILE_NAME as SEALING_KEY
from meetingctl.server.updates.releases import MANIFEST, PUBLISHED

log = logging.getLogger(__name__)

DATABASE, COMPLETE = "meetingctl.db", "complete.json"
KEYS = "keys"
TREES = (STORAGE, PUBLISHED, ICONS, BUILDS, PACKAGES, KEYS)
SECRETS = (SEALING_KEY, LOGIN_KEY, CREDENTIALS)
LINKS = ".backup"
FORMAT = 1
TRIES = 5

Taken = tuple[str, Path, str | None]  # name in the archive, where the bytes are, checksum where it is known


@dataclass(slots=True)
class Contents:
    """What has gone into an archive, or come out of one. The checksum covers names and bytes in their order."""

    files: int = 0
    size_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, name: str, size_bytes: int, sha256: str) -> None:
        self.files += 1
        self.size_bytes += size_bytes
        self.digest.update(f"{name}\0{size_bytes}\0{sha256}\n".encode())


class HashingReader:
    """Read a file and hash what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._digest.update(chunk)
        return chunk

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def backup(settings: Settings, data_dir: Path, to: Path) -> dict[str, Any]:
    """Write the archive, safe while a server runs. Returns {file, size_bytes, files, problems}.

    The archive appears under its name only when it is whole. `problems` names files that are missing or damaged in the
    server itself, which the archive therefore lacks.
    Raises: Conflict when the file exists, NotFound, ConfigError, StorageFull, Busy.
    """
    check_new_file(to)
    partial, snapshot_file = to.with_name(f".{to.name}.partial"), to.with_name(f".{to.name}.database")
    try:
        with _writing_errors(to), _links(data_dir) as links:
            problems: list[str] | None = None
            for _ in range(TRIES):
                _remove_database(snapshot_file)
                taken = _take_snapshot(settings, data_dir, snapshot_file, links)
                contents = _write_archive(data_dir, snapshot_file, partial, taken)
                if contents.problems in ([], problems):  # the same twice: no change meanwhile, but damage
                    break
                problems = contents.problems
                log.info("files changed during the backup, beginning again", extra={"problems": problems[:3]})
            partial.rename(to)
            sync_folder(to.parent)
    finally:
        partial.unlink(missing_ok=True)
        _remove_database(snapshot_file)
    return {
        "file": str(to),
        "size_bytes": to.stat().st_size,
        "files": contents.files - 1,
        "problems": contents.problems,
    }


def check_new_file(path: Path) -> None:
    """Raises: Conflict when the file is there, NotFound when its folder is not."""
    import shlex

    if path.exists():
        raise Conflict(f"{path} exists", hint="choose another name, or remove it")
    if not path.parent.is_dir():
        raise NotFound(f"no folder {path.parent}", hint=f"mkdir -p {shlex.quote(str(path.parent))}")


@contextlib.contextmanager
def _links(data_dir: Path) -> Iterator[Path | None]:
    """Give an empty folder for second links; None where none can be made. Raises: Conflict beside another backup."""
    folder = data_dir / LINKS
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise Conflict(f"another backup of {data_dir} is being made", hint="wait until it is done") from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _take_snapshot(settings: Settings, data_dir: Path, to: Path, links: Path | None) -> list[Taken]:
    """Write the database as one SQLite file, and hold fast what it names.

    Raises: NotFound, ConfigError for another revision, Busy.
    """
    url = database_url(settings.db_url, data_dir)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise NotFound(f"no database at {url.database}", hint="name the server's folder with --data DIR")
    with open_existing(url) as database, contextlib.ExitStack() as stack:
        with _standing_still(database):
            connection = stack.enter_context(snapshot(database))
            taken = _take_files(data_dir, connection, links)
        if database.dialect == "sqlite":
            _copy_sqlite(connection, to)
            return taken
        target = open_database(sa.URL.create("sqlite", database=str(to)))
        try:
            copy_snapshot(connection, target)
        finally:
            target.close()
    with contextlib.closing(sqlite3.connect(to)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")
    return taken


@contextlib.contextmanager
def _standing_still(database: Database) -> Iterator[None]:
    """Keep writers waiting, for as long as the files get their second links: each changes them in a transaction."""
    with database.writing.connect() as connection:
        if database.dialect == "sqlite":
            connection.execute(sa.select(1))  # begins a transaction that writes, see `open_database`
        else:
            take_turn(connection)
        try:
            yield
        finally:
            connection.rollback()


def _take_files(data_dir: Path, connection: sa.Connection, links: Path | None) -> list[Taken]:
    if links is not None:
        for left in links.iterdir():
            left.unlink()
    taken = []
    for number, (name, sha256) in enumerate(files_of(data_dir, connection)):
        path = data_dir / name
        if links is not None:
            with contextlib.suppress(OSError):  # another file system, or missing: the archive looks at the place itself
                os.link(path, links / str(number), follow_symlinks=False)
                path = links / str(number)
        taken.append((name, path, sha256))
    return taken


def _copy_sqlite(connection: sa.Connection, target: Path) -> None:
    """Copy what the connection sees in one step, which a server that writes meanwhile neither delays nor notices."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(descriptor)
    live: Any = connection.connection.driver_connection
    try:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            live.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode=DELETE")
            if (found := copy.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                raise Busy(f"the copy failed its integrity check: {found}", hint="meetingctl db check")
    except sqlite3.Error as exc:
        raise Busy(f"cannot copy the database: {exc}", hint="meetingctl db check") from exc


def _write_archive(data_dir: Path, snapshot_file: Path, partial: Path, taken: list[Taken]) -> Contents:
    contents = Contents()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add_file(tar, contents, snapshot_file, DATABASE, None)
            for name in _folders(data_dir):
                info = tarfile.TarInfo(name)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                _add(tar, info)
            for name, path, sha256 in taken:
                _add_file(tar, contents, path, name, sha256)
            _add_end(tar, contents)
        file.flush()
        os.fsync(file.fileno())
    return contents


def files_of(data_dir: Path, connection: sa.Connection) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each file that belongs to this state of the database, and its checksum where it is known."""
    stored = distribution_files.c
    for row in connection.execute(sa.select(stored.device_type, stored.distribution, stored.filename, stored.sha256)):
        yield f"{STORAGE}/{row.device_type}/{row.distribution}/{row.filename}", row.sha256
    for release in connection.execute(sa.select(releases).where(releases.c.state == "published")).mappings():
        yield from _files_of_release(data_dir, release)
    for path in connection.execute(sa.select(device_types.c.icon_path).where(device_types.c.icon_path.is_not(None))):
        yield str(path[0]), None
    built = build_files.c
    for file in connection.execute(sa.select(built.build_id, built.filename, built.sha256)):
        yield f"{BUILDS}/{file.build_id}/{file.filename}", file.sha256
    packed = package_jobs.c
    done = sa.select(packed.id, packed.archive_name, packed.sha256).where(packed.state == "done")
    for job in connection.execute(done):
        yield f"{PACKAGES}/{job.id}/{job.archive_name}", job.sha256
    yield from ((path.relative_to(data_dir).as_posix(), None) for path in _walk(data_dir / KEYS) if path.is_file())
    yield from ((name, None) for name in SECRETS if (data_dir / name).exists())


def _files_of_release(data_dir: Path, row: sa.RowMapping) -> Iterator[tuple[str, str | None]]:
    folder = f"{PUBLISHED}/{row['device_type']}/{row['distribution']}/{row['version']}"
    known = {row["archive_name"]: row["sha256"], MANIFEST: row["manifest_sha256"]}
    others = [path.name for path in _walk(data_dir / folder) if path.is_file() and path.name not in known]
    yield from ((f"{folder}/{name}", sha256) for name, sha256 in known.items())
    yield from ((f"{folder}/{name}", None) for name in others)


def _folders(data_dir: Path) -> Iterator[str]:
    """Yield the folders of types and distributions: an empty one counts too."""
    for tree in TREES:
        if (data_dir / tree).is_dir():
            yield tree
    for path in _walk(data_dir / STORAGE):
        if path.is_dir():
            yield path.relative_to(data_dir).as_posix()


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what is below a folder, without links and what is hidden."""
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in entries:
        if path.name.startswith(".") or path.is_symlink():
            continue
        yield path
        if path.is_dir():
            yield from _walk(path)


def _add_file(tar: tarfile.TarFile, contents: Contents, path: Path, name: str, sha256: str | None) -> None:
    """Add one file; note it as a problem when it is missing or not what the database says."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        contents.problems.append(f"{name}: {exc.strerror}")
        return
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            contents.problems.append(f"{name}: no file")
            return
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = found.st_size, stat.S_IMODE(found.st_mode), int(found.st_mtime)
        reader = HashingReader(file)
        _add(tar, info, reader)
    contents.add(name, found.st_size, reader.sha256)
    if sha256 is not None and reader.sha256 != sha256:
        contents.problems.append(f"{name}: other content than recorded")


def _add(tar: Any, info: tarfile.TarInfo, reader: Any = None) -> None:
    tar.addfile(info, reader)
    tar.members.clear()  # it would remember every file


def _add_end(tar: tarfile.TarFile, contents: Contents) -> None:
    end = {
        "format": FORMAT,
        "revision": HEAD,
        "made_at": wire_text(now_ms()),
        "files": contents.files,
        "size_bytes": contents.size_bytes,
        "sha256": contents.digest.hexdigest(),
    }
    text = json.dumps(end, indent=2).encode() + b"\n"
    info = tarfile.TarInfo(COMPLETE)
    info.size, info.mode = len(text), 0o600
    _add(tar, info, io.BytesIO(text))


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _writing_errors(to: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno == 28:
            raise StorageFull(f"no room for {to}", hint="choose another disk") from exc
        raise ConfigError(f"cannot write {to}: {exc.strerror or exc}") from exc
