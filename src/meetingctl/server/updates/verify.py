"""Look whether what is published is there and intact, and what lies there without a record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import MeetingctlError, NotFound
from meetingctl.server.db.schema import releases
from meetingctl.server.updates.releases import (
    CHANGELOG,
    MANIFEST,
    SIGNATURE,
    STAGING,
    STALE_MS,
    Release,
    hash_file,
    list_releases,
    published_root,
    read_file,
    read_manifest,
    release_folder,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one release on disk. `missing` names files; `manifest` is None when there is none to read."""

    manifest_exists: bool
    archive_exists: bool
    sha256_match: bool
    manifest: dict[str, Any] | None
    changelog: str | None
    missing: list[str] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        return not self.missing and self.sha256_match


def inspect_release(data_dir: Path, release: Release) -> Finding:
    """Read the files of a release and hash its archive, which takes a second per gigabyte."""
    folder = release_folder(data_dir, release.device_type, release.distribution, release.version)
    try:
        manifest = read_manifest(data_dir, release.device_type, release.distribution, release.version)
    except NotFound:
        manifest = None
    try:
        sha256 = hash_file(folder / release.archive_name)
    except OSError:
        sha256 = None
    missing = [MANIFEST] if manifest is None else []
    missing += [release.archive_name] if sha256 is None else []
    if release.signature != "none" and not (folder / SIGNATURE).is_file():
        missing.append(SIGNATURE)
    changelog = _read_text(folder / CHANGELOG)
    return Finding(manifest is not None, sha256 is not None, sha256 == release.sha256, manifest, changelog, missing)


def _read_text(path: Path) -> str | None:
    try:
        return read_file(path).decode(errors="replace")
    except OSError:
        return None


def artifacts_status(
    data_dir: Path, connection: sa.Connection, device_type: str, distribution: str, version: str
) -> str:
    """Return OK, MISSING or UNKNOWN (no such release) for a channel, without hashing."""
    query = sa.select(releases.c.archive_name).where(
        releases.c.device_type == device_type,
        releases.c.distribution == distribution,
        releases.c.version == version,
        releases.c.state == "published",
    )
    archive_name = connection.execute(query).scalar()
    if archive_name is None:
        return "UNKNOWN"
    try:
        folder = release_folder(data_dir, device_type, distribution, version)
    except MeetingctlError:
        return "MISSING"
    return "OK" if (folder / archive_name).is_file() and (folder / MANIFEST).is_file() else "MISSING"


def find_faults(data_dir: Path, connection: sa.Connection) -> list[dict[str, str]]:
    """Return `{name, fault}` for each release that is not whole and for each orphan; empty when all is well."""
    faults = []
    for release in list_releases(connection):
        found = inspect_release(data_dir, release)
        if found.missing:
            faults.append({"name": release.name, "fault": f"missing: {', '.join(found.missing)}"})
        elif not found.sha256_match:
            faults.append({"name": release.name, "fault": "the archive is not the one that was published"})
    return faults + find_orphans(data_dir, connection, older_than_ms=STALE_MS)


def find_missing(data_dir: Path, connection: sa.Connection) -> list[dict[str, str]]:
    """Return `{name, fault}` for each release that lacks a file, without hashing."""
    return [
        {"name": release.name, "fault": "a file of the release is missing"}
        for release in list_releases(connection)
        if artifacts_status(data_dir, connection, release.device_type, release.distribution, release.version) != "OK"
    ]


def find_orphans(data_dir: Path, connection: sa.Connection, *, older_than_ms: int = 0) -> list[dict[str, str]]:
    """Return `{name, fault}` for folders without a record, what a publication left, and unfinished rows.

    Of what publications left, that counts which was not touched for `older_than_ms`: the rest may still go on.
    """
    oldest_ms = now_ms() - older_than_ms + 1
    rows = connection.execute(
        sa.select(
            releases.c.device_type,
            releases.c.distribution,
            releases.c.version,
            releases.c.state,
            releases.c.published_at_ms,
        )
    ).all()
    known = {f"{row.device_type}/{row.distribution}/{row.version}": row for row in rows}
    faults = [
        {"name": name, "fault": "a publication that did not finish"}
        for name, row in known.items()
        if row.state != "published" and row.published_at_ms <= oldest_ms
    ]
    root = published_root(data_dir)
    for folder in _version_folders(root):
        name = folder.relative_to(root).as_posix()
        if name not in known:
            faults.append({"name": name, "fault": "a folder without a record"})
    staging = root / STAGING
    for folder in sorted(staging.iterdir()) if staging.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # a publication has just ended
            if folder.lstat().st_mtime * 1000 <= oldest_ms:
                faults.append({"name": folder.relative_to(root).as_posix(), "fault": "left by a publication"})
    return faults


def _version_folders(root: Path) -> Iterator[Path]:
    """Yield the folders two levels below, where versions are."""
    for folder in sorted(root.glob("*/*/*")) if root.is_dir() else ():
        if not folder.relative_to(root).as_posix().startswith("."):
            yield folder
