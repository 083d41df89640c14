"""Releases: immutable folders below `published/`, each there once its row says so.

A publication survives a power cut at any moment: files in a staging folder, row `staging`, one rename, row `published`.
What a crash leaves is a staging folder, or a row `staging` with or without a folder; `recover` removes both, because
nobody was told that the release exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Busy, Conflict, InvalidInput, MeetingctlError, NotFound, StorageFull
from meetingctl.core.paths import safe_join, sync_folder
from meetingctl.core.versions import Manifest, newest_first, parse_manifest
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import current_releases, release_history, releases
from meetingctl.server.updates.errors import HashMismatch, VersionExists
from meetingctl.server.updates.signing import SignatureState
from meetingctl.server.webhooks.outbox import emit

if TYPE_CHECKING:
    from meetingctl.server.state import ServerState

PUBLISHED = "published"
STAGING = ".staging"
MANIFEST, SIGNATURE, CHANGELOG = "manifest.json", "manifest.sig", "CHANGELOG.md"
STALE_MS = 120_000  # a publication that says nothing for longer belongs to a process that died
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReleaseDraft:
    """A release to be. `archive` is moved when `move` is set, which needs the same file system to be quick."""

    device_type: str
    distribution: str
    version: str
    archive: Path
    archive_name: str
    sha256: str
    size_bytes: int
    manifest: bytes
    author: str
    notes: str = ""
    action: str = "publish"  # publish, commit, duplicate, rollback
    signature: bytes | None = None
    signature_state: SignatureState = "none"
    changelog: str | None = None
    move: bool = False

    @property
    def name(self) -> str:
        return f"{self.device_type}/{self.distribution}/{self.version}"


@dataclass(frozen=True, slots=True)
class Release:
    """A published release. `created` is False when the same bytes were there before."""

    device_type: str
    distribution: str
    version: str
    archive_name: str
    size_bytes: int
    sha256: str
    notes: str
    signature: str
    author: str
    published_at_ms: int
    created: bool = False

    @property
    def name(self) -> str:
        """The folder below `published/`."""
        return f"{self.device_type}/{self.distribution}/{self.version}"


def published_root(data_dir: Path) -> Path:
    """Return the folder of all releases."""
    return data_dir / PUBLISHED


def release_folder(data_dir: Path, device_type: str, distribution: str, version: str) -> Path:
    """Return the folder of one release, there or not. Raises: InvalidInput for names that could leave the tree."""
    return safe_join(published_root(data_dir), device_type, distribution, version)


def publish_release(state: ServerState, actor: Actor, draft: ReleaseDraft) -> Release:
    """Publish; the same bytes again return the release that is there. For worker threads.

    Raises: Conflict `Version already exists` for other bytes; Busy while another request publishes this version;
    StorageFull; InvalidInput for names, or when manifest, hash or size do not fit the archive.
    """
    manifest = parse_manifest(draft.manifest)
    _check_draft(draft, manifest)
    final = release_folder(state.data_dir, draft.device_type, draft.distribution, draft.version)
    with state.database.read() as connection:
        row = _find_row(connection, draft.device_type, draft.distribution, draft.version)
    if row is not None and row["state"] == "published":
        return _same_or_conflict(state, row, draft)
    with _storage_errors(), _staged(published_root(state.data_dir), draft) as staged:
        row_id = state.writer.run(lambda connection: _claim(connection, state.data_dir, draft))
        if row_id is None:
            return publish_release(state, actor, draft)  # another request was quicker, and has finished
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                raise Conflict("A folder without a record is in the way", hint="meetingctl fleet releases verify --all")
            staged.rename(final)
            sync_folder(final.parent)
            sync_folder(final.parent.parent)
        except BaseException:
            state.writer.run(lambda connection: connection.execute(releases.delete().where(releases.c.id == row_id)))
            raise
    at_ms = now_ms()
    found = state.writer.run(lambda connection: _finish(connection, actor, draft, row_id, at_ms))
    state.changes.announce()
    return found


def _check_draft(draft: ReleaseDraft, manifest: Manifest) -> None:
    """Let the manifest say what the archive is (side effects of `updates/publish`)."""

    for name in ("device_type", "distribution", "version"):
        if getattr(manifest, name) != getattr(draft, name):
            raise InvalidInput(f"Manifest does not match: {name}")
    if manifest.archive != draft.archive_name:
        raise InvalidInput("Manifest does not match: archive")
    if manifest.sha256 != draft.sha256.lower():
        raise HashMismatch("SHA-256 of the archive is not the manifest's")
    if manifest.size_bytes != draft.size_bytes:
        raise InvalidInput("Manifest does not match: size")


def _same_or_conflict(state: ServerState, row: sa.RowMapping, draft: ReleaseDraft) -> Release:
    """Compare with what is published; the manifest's date may differ, because tools write a new one each time."""
    is_same = row["sha256"] == draft.sha256.lower() and row["archive_name"] == draft.archive_name
    if is_same and row["manifest_sha256"] != hashlib.sha256(draft.manifest).hexdigest():
        kept = read_manifest(state.data_dir, row["device_type"], row["distribution"], row["version"])
        given = json.loads(draft.manifest)
        is_same = {**kept, "created_at": ""} == {**given, "created_at": ""}
    if not is_same:
        raise VersionExists("Version already exists", hint="published versions never change; choose another version")
    return release_of(row)


def _claim(connection: sa.Connection, data_dir: Path, draft: ReleaseDraft) -> int | None:
    """Insert the row `staging`; None when the version has been published meanwhile. Raises: Busy."""
    row = _find_row(connection, draft.device_type, draft.distribution, draft.version)
    if row is not None:
        if row["state"] == "published":
            return None
        if now_ms() - row["published_at_ms"] < STALE_MS:
            raise Busy("This version is being published", retry_after_s=5)
        _drop(connection, data_dir, row)
    values = {
        "device_type": draft.device_type,
        "distribution": draft.distribution,
        "version": draft.version,
        "state": "staging",
        "archive_name": draft.archive_name,
        "size_bytes": draft.size_bytes,
        "sha256": draft.sha256.lower(),
        "manifest_sha256": hashlib.sha256(draft.manifest).hexdigest(),
        "notes": draft.notes,
        "signature": draft.signature_state,
        "author": draft.author[:160],
        "published_at_ms": now_ms(),
    }
    return int(connection.execute(releases.insert().values(values).returning(releases.c.id)).scalar_one())


def _finish(connection: sa.Connection, actor: Actor, draft: ReleaseDraft, row_id: int, at_ms: int) -> Release:
    """Make the release visible, with its history, its audit record and its event, in one transaction."""
    change = releases.update().where(releases.c.id == row_id).values(state="published", published_at_ms=at_ms)
    if connection.execute(change).rowcount != 1:
        raise MeetingctlError("The publication was taken over", hint="publish again")
    row = _find_row(connection, draft.device_type, draft.distribution, draft.version)
    if row is None:
        raise MeetingctlError("The publication was taken over", hint="publish again")
    record_history(connection, release_of(row), draft.action, draft.author, draft.notes)
    set_current(connection, draft.device_type, draft.distribution, draft.version)
    facts = {"sha256": row["sha256"], "size_bytes": row["size_bytes"], "action": draft.action}
    append(connection, actor, "release.publish", f"release:{draft.name}", after=facts)
    about = {"device_type": draft.device_type, "distribution": draft.distribution, "version": draft.version}
    emit(connection, "release.published", draft.name, {**about, **facts})
    return release_of(row, created=True)


def record_history(connection: sa.Connection, release: Release, action: str, author: str, notes: str) -> None:
    """Add one line to the history of a distribution. `action` is publish, commit, duplicate or rollback."""
    values = {
        "device_type": release.device_type,
        "distribution": release.distribution,
        "version": release.version,
        "action": action,
        "notes": notes,
        "sha256": release.sha256,
        "size_bytes": release.size_bytes,
        "author": author[:160],
        "at_ms": now_ms(),
    }
    connection.execute(release_history.insert().values(values))


def set_current(connection: sa.Connection, device_type: str, distribution: str, version: str) -> str | None:
    """Make a version the current one of its distribution; return the one before."""
    key = sa.and_(current_releases.c.device_type == device_type, current_releases.c.distribution == distribution)
    before = connection.execute(sa.select(current_releases.c.version).where(key)).scalar()
    if before is None:
        values = {"device_type": device_type, "distribution": distribution, "version": version}
        connection.execute(current_releases.insert().values(values))
    else:
        connection.execute(current_releases.update().where(key).values(version=version))
    return None if before is None else str(before)


def current_version(connection: sa.Connection, device_type: str, distribution: str) -> str | None:
    """Return the current version of a distribution, None when nothing was published."""
    query = sa.select(current_releases.c.version).where(
        current_releases.c.device_type == device_type, current_releases.c.distribution == distribution
    )
    return connection.execute(query).scalar()


def get_release(connection: sa.Connection, device_type: str, distribution: str, version: str) -> Release:
    """Return a published release. Raises: NotFound."""
    row = _find_row(connection, device_type, distribution, version)
    if row is None or row["state"] != "published":
        raise NotFound("Release not found", hint="meetingctl fleet releases list")
    return release_of(row)


def list_releases(
    connection: sa.Connection, *, device_type: str | None = None, distribution: str | None = None
) -> list[Release]:
    """Return published releases, newest publication first."""
    query = sa.select(releases).where(releases.c.state == "published").order_by(releases.c.id.desc())
    if device_type is not None:
        query = query.where(releases.c.device_type == device_type)
    if distribution is not None:
        query = query.where(releases.c.distribution == distribution)
    return [release_of(row) for row in connection.execute(query).mappings()]


def list_versions(connection: sa.Connection, device_type: str, distribution: str) -> list[str]:
    """Return the published versions of a distribution, newest first in the order of versions."""
    found = list_releases(connection, device_type=device_type, distribution=distribution)
    return newest_first(release.version for release in found)


def list_history(
    connection: sa.Connection, device_type: str, distribution: str, *, limit: int = 100
) -> list[sa.RowMapping]:
    """Return what was published, committed, duplicated and rolled back, newest first."""
    query = (
        sa.select(release_history)
        .where(release_history.c.device_type == device_type, release_history.c.distribution == distribution)
        .order_by(release_history.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(query).mappings())


def read_manifest(data_dir: Path, device_type: str, distribution: str, version: str) -> dict[str, Any]:
    """Return the manifest's JSON object. Raises: NotFound, also when it is no JSON any more."""
    folder = release_folder(data_dir, device_type, distribution, version)
    try:
        value = json.loads(read_file(folder / MANIFEST))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise NotFound("Manifest not found") from None
    return value if isinstance(value, dict) else {}


def read_file(path: Path) -> bytes:
    """Read a small file of the tree without following a link. Raises: FileNotFoundError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MANIFEST_READ_BYTES)


MANIFEST_READ_BYTES = 4 * 1024 * 1024


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex, without following a link. Raises: FileNotFoundError."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def release_of(row: sa.RowMapping, *, created: bool = False) -> Release:
    """Make the value of a row."""
    return Release(
        device_type=row["device_type"],
        distribution=row["distribution"],
        version=row["version"],
        archive_name=row["archive_name"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        notes=row["notes"],
        signature=row["signature"],
        author=row["author"],
        published_at_ms=row["published_at_ms"],
        created=created,
    )


def _find_row(connection: sa.Connection, device_type: str, distribution: str, version: str) -> sa.RowMapping | None:
    query = sa.select(releases).where(
        releases.c.device_type == device_type,
        releases.c.distribution == distribution,
        releases.c.version == version,
    )
    return connection.execute(query).mappings().first()


@contextlib.contextmanager
def _staged(root: Path, draft: ReleaseDraft) -> Iterator[Path]:
    """Write all files of the release into a folder of their own, down to the disk; remove what is left of it."""

    folder = root / STAGING / secrets.token_hex(8)
    folder.mkdir(parents=True, mode=0o755)
    try:
        _write(folder / MANIFEST, draft.manifest)
        if draft.signature is not None:
            _write(folder / SIGNATURE, draft.signature)
        if draft.changelog is not None:
            _write(folder / CHANGELOG, draft.changelog.encode())
        if draft.move:
            draft.archive.rename(folder / draft.archive_name)
        elif _copy(draft.archive, folder / draft.archive_name) != draft.sha256.lower():
            raise HashMismatch("SHA-256 of the archive is not the manifest's")
        (folder / draft.archive_name).chmod(0o644)
        sync_folder(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Raises: StorageFull for a full disk or quota."""
    import errno

    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("Storage full", hint="free some space in the data directory") from exc
        raise


# After a crash.


def recover(state: ServerState, *, is_alone: bool) -> list[str]:
    """Remove what publications left that never finished; return their names. For the start of a server.

    `is_alone`: no other process can be publishing, so nothing needs to be old.
    """
    oldest_ms = now_ms() - (0 if is_alone else STALE_MS)
    removed = state.writer.run(lambda connection: _drop_stale(connection, state.data_dir, oldest_ms))
    staging = published_root(state.data_dir) / STAGING
    for path in staging.iterdir() if staging.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # another process is quicker
            if path.lstat().st_mtime * 1000 > oldest_ms:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
    return removed


def _drop_stale(connection: sa.Connection, data_dir: Path, oldest_ms: int) -> list[str]:
    query = sa.select(releases).where(releases.c.state == "staging", releases.c.published_at_ms <= oldest_ms)
    rows = connection.execute(query).mappings().all()
    for row in rows:
        _drop(connection, data_dir, row)
    return [f"{row['device_type']}/{row['distribution']}/{row['version']}" for row in rows]


def _drop(connection: sa.Connection, data_dir: Path, row: sa.RowMapping) -> None:
    """Remove an unfinished publication: its folder first, so that the row is there as long as the folder."""
    folder = release_folder(data_dir, row["device_type"], row["distribution"], row["version"])
    if folder.exists():
        shutil.rmtree(folder)
    connection.execute(releases.delete().where(releases.c.id == row["id"]))
