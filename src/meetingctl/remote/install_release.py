"""A published release on this machine: downloaded once, checked each time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from meetingctl.client import FleetClient
from meetingctl.core.errors import MeetingctlError, NotFound
from meetingctl.core.paths import safe_join


def fetch_release(client: FleetClient, named: Mapping[str, str], cache: Path) -> Path:
    """Return the archive of a release, downloaded into `cache` unless it lies there already and is whole.

    An earlier download that ended too early is continued. Raises: NotFound, MeetingctlError for another archive than
    the manifest's.
    """
    name = "/".join(named[part] for part in ("device_type", "distribution", "version"))
    facts = client.releases.verify(named)
    manifest = facts.get("manifest") or {}
    wanted = str(manifest.get("sha256") or "")
    if not wanted:
        raise NotFound(f"{name}: the server names no archive", hint=f"meetingctl fleet releases show {name}")
    path = safe_join(cache, f"{wanted}.tar.gz")
    if path.exists() and _sha256_of(path) == wanted:
        return path
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f"{path.name}.part")
    start = part.stat().st_size if part.exists() else 0
    start = start if start < int(manifest.get("size") or 0) else 0
    with part.open("ab" if start else "wb") as file:
        client.releases.download(named, file, start=start)
    if _sha256_of(part) != wanted:
        part.unlink()
        raise MeetingctlError(
            f"{name}: the archive is not the manifest's", hint="meetingctl fleet releases verify --all"
        )
    part.replace(path)
    return path


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
