"""The storage tree: `storage/TYPE/DISTRIBUTION/FILE`. Nothing in it is ever unpacked or followed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import (
    Conflict,
    InvalidInput,
    MeetingctlError,
    NotFound,
    NotYours,
    StorageFull,
    TooLarge,
    UnsafeName,
)
from meetingctl.core.paths import safe_join, sync_folder, write_atomic
from meetingctl.core.secret import sha256_hex
from meetingctl.server.aside import restored_on_failure
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import distribution_files
from meetingctl.server.uploads import UploadedFile

if TYPE_CHECKING:
    from meetingctl.server.state import ServerState

STORAGE = "storage"
INCOMING = ".incoming"  # where uploads are received: on the file system of the tree
DISTRIB_JSON = "distrib.json"
DISTRIB_JSON_CAP_BYTES = 256 * 1024
RESERVED_TYPES = frozenset({"device-types", "upload", "create-type", "create-distribution"})


@contextlib.contextmanager
def failing_as(text: str) -> Iterator[None]:
    """Turn a disk's failure into the contract's error. Raises: MeetingctlError with `text`, StorageFull."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("Storage full", hint="free some space in the data directory") from exc
        raise MeetingctlError(text, hint="see the server's log; is its disk in order?") from exc


def storage_root(data_dir: Path) -> Path:
    """Return the root of the tree."""
    return data_dir / STORAGE


def list_types(data_dir: Path) -> list[str]:
    """Return the device types that have a folder."""
    return _folders(storage_root(data_dir))


def list_distributions(data_dir: Path, device_type: str) -> list[str]:
    """Return the distributions of a type. Raises: NotFound."""
    return _folders(_type_folder(data_dir, device_type))


def list_files(data_dir: Path, device_type: str, distribution: str) -> list[str]:
    """Return the names of the files of a distribution. Raises: NotFound."""
    with os.scandir(distribution_folder(data_dir, device_type, distribution)) as entries:
        return sorted(e.name for e in entries if e.is_file(follow_symlinks=False) and not e.name.startswith("."))


def distribution_folder(data_dir: Path, device_type: str, distribution: str) -> Path:
    """Return the folder of a distribution. Raises: NotFound, also for names that could not exist."""
    try:
        folder = safe_join(storage_root(data_dir), device_type, distribution)
    except InvalidInput:
        raise NotYours("Distribution not found") from None
    if not folder.is_dir():
        raise NotFound("Distribution not found", hint="meetingctl fleet distributions list")
    return folder


@failing_as("Cannot create device type")
def create_type(state: ServerState, actor: Actor, device_type: str) -> None:
    """Make the folder of a type. Raises: InvalidInput, Conflict."""
    if device_type.lower() in RESERVED_TYPES:
        raise InvalidInput("Invalid device type", hint="this word is part of the API")
    try:
        folder = safe_join(storage_root(state.data_dir), device_type)
    except InvalidInput:
        raise UnsafeName("Invalid device type") from None
    _make_folder(folder, "Device type already exists")
    state.writer.run(lambda connection: append(connection, actor, "storage.create-type", f"type:{device_type}"))


@failing_as("Cannot create distribution")
def create_distribution(state: ServerState, actor: Actor, device_type: str, distribution: str) -> None:
    """Make the folder of a distribution. Raises: InvalidInput, NotFound, Conflict."""
    try:
        folder = safe_join(storage_root(state.data_dir), device_type, distribution)
    except InvalidInput:
        raise UnsafeName("Invalid device type or distribution") from None
    _type_folder(state.data_dir, device_type)
    _make_folder(folder, "Distribution already exists")
    target = f"distribution:{device_type}/{distribution}"
    state.writer.run(lambda connection: append(connection, actor, "storage.create-distribution", target))


@failing_as("Upload failed")
def place_file(state: ServerState, actor: Actor, device_type: str, distribution: str, file: UploadedFile) -> None:
    """Move an upload to its place, over the file of that name, and record it. Raises: NotFound, InvalidInput."""
    final = safe_join(distribution_folder(state.data_dir, device_type, distribution), file.filename)
    if final.is_dir():
        raise InvalidInput("Invalid file name")
    if file.filename == DISTRIB_JSON:  # devices read it as `GET distrib-json`
        with file.path.open("rb") as content:
            check_json(content.read(DISTRIB_JSON_CAP_BYTES + 1))
    file.path.chmod(0o644)

    def change(connection: sa.Connection) -> None:
        before = _record_file(connection, actor, device_type, distribution, file)
        after = {"sha256": file.sha256, "size_bytes": file.size_bytes}
        target = f"file:{device_type}/{distribution}/{file.filename}"
        append(connection, actor, "storage.upload", target, before=before, after=after)
        if file.path.exists():  # a batch that fails is tried again
            file.path.replace(final)

    with _kept(state, final, file.sha256):
        state.writer.run(change)
    sync_folder(final.parent)


@failing_as("Delete failed")
def delete_file(state: ServerState, actor: Actor, device_type: str, distribution: str, filename: str) -> None:
    """Remove a file and its record, either of which may be gone. Raises: NotFound, InvalidInput `Invalid path`."""
    names = (device_type, distribution, filename)
    path = safe_join(storage_root(state.data_dir), device_type, distribution, filename)
    with state.database.read() as connection:
        is_recorded = connection.execute(sa.select(distribution_files.c.id).where(_is_file(*names))).first() is not None
    if not path.is_file() and not is_recorded:
        raise NotFound("File not found", hint="meetingctl fleet files list")

    def change(connection: sa.Connection) -> None:
        connection.execute(distribution_files.delete().where(_is_file(*names)))
        append(connection, actor, "storage.delete", f"file:{device_type}/{distribution}/{filename}")
        path.unlink(missing_ok=True)

    with _kept(state, path, None):
        state.writer.run(change)


def read_distrib_json(data_dir: Path, device_type: str, distribution: str) -> bytes:
    """Return distrib.json as stored. Raises: NotFound."""
    path = distribution_folder(data_dir, device_type, distribution) / DISTRIB_JSON
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise NotFound("distrib.json not found", hint="meetingctl fleet distributions put") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotFound("distrib.json not found")
        return file.read(8 * 1024**2)


@failing_as("Cannot write distrib.json")
def write_distrib_json(state: ServerState, actor: Actor, device_type: str, distribution: str, content: bytes) -> None:
    """Replace distrib.json. Raises: NotFound, TooLarge, InvalidInput `Invalid JSON`."""
    check_json(content)
    path = distribution_folder(state.data_dir, device_type, distribution) / DISTRIB_JSON
    file = UploadedFile(DISTRIB_JSON, path, len(content), sha256_hex(content.decode()))

    def change(connection: sa.Connection) -> None:
        before = _record_file(connection, actor, device_type, distribution, file)
        after = {"sha256": file.sha256, "size_bytes": file.size_bytes}
        append(
            connection, actor, "storage.distrib-json", f"file:{device_type}/{distribution}", before=before, after=after
        )
        write_atomic(path, content)

    with _kept(state, path, file.sha256):
        state.writer.run(change)


def _kept(state: ServerState, path: Path, sha256: str | None) -> AbstractContextManager[None]:
    return restored_on_failure(state.data_dir, path, storage_root(state.data_dir) / INCOMING, sha256=sha256)


def checksum_of(connection: sa.Connection, name: str) -> str | None:
    """Return what the record of a stored file says, by its name below the data directory."""
    _, device_type, distribution, filename = name.split("/")
    query = sa.select(distribution_files.c.sha256).where(_is_file(device_type, distribution, filename))
    return connection.execute(query).scalar()


def check_json(content: bytes) -> Any:
    """Return the JSON value of a body. Raises: TooLarge, InvalidInput `Invalid JSON`."""
    if len(content) > DISTRIB_JSON_CAP_BYTES:
        raise TooLarge("Body too large")
    try:
        return json.loads(content.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise InvalidInput("Invalid JSON") from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _record_file(
    connection: sa.Connection, actor: Actor, device_type: str, distribution: str, file: UploadedFile
) -> dict[str, Any] | None:
    """Write what the file is; return what it was before."""
    key = _is_file(device_type, distribution, file.filename)
    values = {
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "uploaded_by": actor.principal[:160],
        "uploaded_at_ms": now_ms(),
    }
    before = connection.execute(sa.select(distribution_files).where(key)).mappings().first()
    if before is not None:
        connection.execute(distribution_files.update().where(key).values(values))
        return {"sha256": before["sha256"], "size_bytes": before["size_bytes"]}
    names = {"device_type": device_type, "distribution": distribution, "filename": file.filename}
    connection.execute(distribution_files.insert().values(**names, **values))
    return None


def _is_file(device_type: str, distribution: str, filename: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        distribution_files.c.device_type == device_type,
        distribution_files.c.distribution == distribution,
        distribution_files.c.filename == filename,
    )


def _type_folder(data_dir: Path, device_type: str) -> Path:
    try:
        folder = safe_join(storage_root(data_dir), device_type)
    except InvalidInput:
        raise NotYours("Device type not found") from None
    if not folder.is_dir():
        raise NotFound("Device type not found", hint="meetingctl fleet distributions list")
    return folder


def _make_folder(folder: Path, error: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    try:
        folder.mkdir(mode=0o755)
    except FileExistsError:
        raise Conflict(error) from None
    sync_folder(folder.parent)


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
