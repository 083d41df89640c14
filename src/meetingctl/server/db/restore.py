"""Bring a backup back, into a data directory and a database that hold nothing yet."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from meetingctl.core.errors import ConfigError, Conflict, InvalidInput, NotFound, StorageFull
from meetingctl.core.settings import Settings
from meetingctl.core.untrusted_tar import BROKEN, bounded_header
from meetingctl.server.db.backup import COMPLETE, DATABASE, FORMAT, SECRETS, TREES, Contents, HashingReader
from meetingctl.server.db.copy import check_target, copy_database, open_existing
from meetingctl.server.db.engine import database_url, open_database
from meetingctl.server.db.migrate import migrate
from meetingctl.server.db.migrations import HEAD

STAGE = ".restore"
_CHUNK_BYTES = 1024 * 1024
_END_BYTES = 64 * 1024
_NEWER = "install the newer meetingctl"
_WHOLE = "take another backup: this one is not whole"


def restore(settings: Settings, data_dir: Path, archive: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Unpack an archive, compare every byte with its checksum, then put it in place, the database last.

    Returns {database, data, files, size_bytes, made_at, revision}. With `dry_run` the archive is read and compared,
    nothing is written, and `obstacle` says what the folder or the database holds that is in the way. The server must
    not run on this directory.
    Raises: NotFound, Conflict when the directory or the database holds something, InvalidInput for an archive that is
    not whole, StorageFull, ConfigError.
    """
    url = database_url(settings.db_url, data_dir)
    _check_room(data_dir, archive)
    obstacle = None
    if dry_run:
        end = _read_archive(archive, None)
        try:
            _check_vacant(url, data_dir)
        except Conflict as exc:
            obstacle = exc.message
    else:
        _check_vacant(url, data_dir)
        end = _unpack(url, data_dir, archive)
    return {
        "database": url.render_as_string(hide_password=True),
        "data": str(data_dir),
        "files": end["files"] - 1,
        "size_bytes": end["size_bytes"],
        "made_at": end["made_at"],
        "revision": end["revision"],
        **({"obstacle": obstacle} if dry_run else {}),
    }


def _unpack(url: sa.URL, data_dir: Path, archive: Path) -> dict[str, Any]:
    stage = data_dir / STAGE
    with _writing_errors(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(mode=0o700)
    try:
        with _writing_errors(data_dir):
            end = _read_archive(archive, stage)
            _give_to(data_dir, stage)
            with _in_place(data_dir, stage):
                _place_database(url, stage / DATABASE)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return end


@contextlib.contextmanager
def _in_place(data_dir: Path, stage: Path) -> Iterator[None]:
    """Move the files to where they belong, and back when what follows fails."""
    moved = []
    try:
        for name in (*TREES, *SECRETS):
            if (stage / name).exists():
                (stage / name).rename(data_dir / name)  # takes the place of an empty folder
                moved.append(name)
        yield
    except BaseException:
        for name in moved:
            (data_dir / name).rename(stage / name)
        raise


def _place_database(url: sa.URL, staged: Path) -> None:
    if url.get_backend_name() == "sqlite":
        target = Path(str(url.database))
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if target.parent.stat().st_dev == staged.stat().st_dev:
            staged.rename(target)
        else:
            partial = target.with_name(f".{target.name}.restore")
            shutil.copyfile(staged, partial)
            partial.chmod(0o600)
            partial.rename(target)
        return
    target_database = open_database(url, readers=1)
    try:
        with open_existing(sa.URL.create("sqlite", database=str(staged))) as source:
            migrate(source)  # the backup of an older version
            copy_database(source, target_database)
    finally:
        target_database.close()


def _read_archive(archive: Path, stage: Path | None) -> dict[str, Any]:
    """Read to the end and compare; write into `stage` where one is given. Raises: InvalidInput."""
    contents, end = Contents(), None
    try:
        with tarfile.open(archive, "r|", bufsize=_CHUNK_BYTES, tarinfo=bounded_header(_refuse_header)) as tar:
            for member in tar:
                _forget_members(tar)
                if member.name == COMPLETE:
                    end = _parse_end(tar, member)
                else:
                    _take_member(tar, member, contents, stage)
    except BROKEN as exc:
        raise InvalidInput(f"{archive} is no backup: {exc}", hint=_WHOLE) from exc
    if end is None:
        raise InvalidInput(f"{archive} breaks off", hint=_WHOLE)
    found = (contents.files, contents.size_bytes, contents.digest.hexdigest())
    if found != (end["files"], end["size_bytes"], end["sha256"]):
        raise InvalidInput(f"{archive} is damaged: its checksum differs", hint=_WHOLE)
    return end


def _refuse_header(size_bytes: int) -> InvalidInput:
    return InvalidInput(f"a header of {size_bytes} bytes in the backup", hint=_WHOLE)


def _forget_members(tar: Any) -> None:
    """Let it not remember every file."""
    tar.members.clear()


def _parse_end(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    file = tar.extractfile(member)
    try:
        end = json.loads(file.read(_END_BYTES)) if file is not None else {}
        made_by = end["format"]
        if missing := {"files", "size_bytes", "sha256", "revision", "made_at"} - end.keys():
            raise InvalidInput(f"the backup does not say its {sorted(missing)[0]}", hint=_WHOLE)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InvalidInput("the end of the backup cannot be read", hint=_WHOLE) from exc
    if made_by != FORMAT:
        raise ConfigError(f"the backup has format {made_by}, this program reads {FORMAT}", hint=_NEWER)
    if str(end["revision"]) > HEAD:
        raise ConfigError(f"the backup has revision {end['revision']}, newer than this program knows", hint=_NEWER)
    return dict(end)


def _take_member(tar: tarfile.TarFile, member: tarfile.TarInfo, contents: Contents, stage: Path | None) -> None:
    parts = _check_name(member.name)
    if member.isdir():
        if stage is not None:
            stage.joinpath(*parts).mkdir(parents=True, exist_ok=True, mode=0o755)
        return
    file = tar.extractfile(member) if member.isreg() else None
    if file is None:
        raise InvalidInput(f"the backup holds {member.name!r}, which is no file", hint=_WHOLE)
    reader = HashingReader(file)
    with contextlib.ExitStack() as stack:
        target = None if stage is None else stack.enter_context(_new_file(stage.joinpath(*parts), member.mode))
        while chunk := reader.read(_CHUNK_BYTES):
            if target is not None:
                target.write(chunk)
        if target is not None:
            target.flush()
            os.fsync(target.fileno())
    contents.add(member.name, member.size, reader.sha256)


def _check_name(name: str) -> list[str]:
    """Return the parts of a name that an archive of ours can hold. Raises: InvalidInput for any other."""
    parts = name.split("/")
    is_ours = parts[0] in TREES if len(parts) > 1 else name in (*TREES, *SECRETS, DATABASE)
    if not is_ours or any(part.startswith(".") or not part or "\0" in part or "\\" in part for part in parts):
        raise InvalidInput(f"the backup holds {name!r}, which no server has", hint=_WHOLE)
    return parts


def _new_file(path: Path, mode: int) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode & 0o755)
    return os.fdopen(descriptor, "wb")


def _check_room(data_dir: Path, archive: Path) -> None:
    """Raises: NotFound without the archive, StorageFull when its files cannot fit."""
    try:
        size_bytes = archive.stat().st_size
    except OSError as exc:
        raise NotFound(f"no backup at {archive}: {exc.strerror}") from exc
    folder = next(path for path in (data_dir, *data_dir.absolute().parents) if path.exists())
    if shutil.disk_usage(folder).free < size_bytes:
        raise StorageFull(f"no room in {folder}: the backup has {size_bytes} bytes", hint="choose another disk")


def _check_vacant(url: sa.URL, data_dir: Path) -> None:
    """Raises: Conflict with the name of the first thing that is there."""
    hint = "name an empty folder with --data"
    for name in (DATABASE, *TREES, *SECRETS):
        path = data_dir / name
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise Conflict(f"{path} is there", hint=hint)
    if url.get_backend_name() == "sqlite":
        if Path(str(url.database)).exists():
            raise Conflict(f"{url.database} is there", hint="name another database")
    else:
        check_target(url)


def _give_to(data_dir: Path, stage: Path) -> None:
    """Give what root unpacked to the owner of the data directory, who runs the server."""
    owner = data_dir.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for folder, _, names in os.walk(stage):
        os.chown(folder, owner.st_uid, owner.st_gid)
        for name in names:
            os.chown(Path(folder) / name, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextlib.contextmanager
def _writing_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno == 28:
            raise StorageFull(f"no room in {folder}", hint="choose another disk") from exc
        raise ConfigError(f"cannot write in {folder}: {exc.strerror or exc}") from exc
