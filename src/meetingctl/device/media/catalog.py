"""The list of recordings as people see it: files, locks and what the cache knows, in one row each."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from meetingctl.core.errors import InvalidInput, MeetingctlError, NotFound
from meetingctl.core.layout import LIVE_SEGMENTS_NAME
from meetingctl.device.media.cache import MediaCache
from meetingctl.device.media.files import media_files
from meetingctl.device.media.thumbnail import drop_thumbnail
from meetingctl.device.media.units import duration_text, size_text
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.recorder.locks import change_locks, read_locks
from meetingctl.device.recorder.naming import SUFFIXES, is_segment_name, parse_base_name
from meetingctl.device.system import System

FILTERS = ("all", "locked", "unlocked", *(suffix.removeprefix(".") for suffix in SUFFIXES))
SORTS = ("date-desc", "date-asc", "name-asc", "name-desc", "size-desc", "size-asc")
_SORT_KEYS = {"date": ("modified", "name"), "name": ("name",), "size": ("size_bytes", "name")}

Row = dict[str, Any]


def list_recordings(system: System, record_dir: str, cache: MediaCache | None = None) -> list[Row]:
    """Return a row for each video in the folder and for the segment being written, newest first.

    Without a cache only files are read. Raises: Conflict for a damaged list of locks.
    """
    locks = read_locks(system)
    known = {row["filepath"]: row for row in cache.rows()} if cache is not None else {}
    rows = [_row(system, path, locks, known.get(path)) for path in media_files(system, record_dir)]
    if (live := RecordFolder(system, record_dir).open_segment()) is not None:
        rows.append(_row(system, f"{record_dir.rstrip('/')}/{LIVE_SEGMENTS_NAME}/{live[0]}", locks, None))
    return select_recordings([row for row in rows if row])


def select_recordings(
    rows: Iterable[Row], *, only: str = "all", sort: str = "date-desc", search: str = ""
) -> list[Row]:
    """Filter and sort rows. Raises: InvalidInput for a filter or an order that does not exist."""
    if only not in FILTERS:
        raise InvalidInput(f"filter is {only[:40]!r}, allowed is one of {', '.join(FILTERS)}")
    if sort not in SORTS:
        raise InvalidInput(f"sort is {sort[:40]!r}, allowed is one of {', '.join(SORTS)}")
    wanted = search.casefold()
    kept = [row for row in rows if _passes(row, only) and wanted in str(row["name"]).casefold()]
    key, _, direction = sort.partition("-")
    return sorted(kept, key=lambda row: [row[name] for name in _SORT_KEYS[key]], reverse=direction == "desc")


def find_recording(system: System, record_dir: str, text: str) -> str:
    """Return the device path of a closed recording by its name. Raises: InvalidInput, NotFound."""
    name = parse_base_name(text)
    path = f"{record_dir.rstrip('/')}/{name}"
    try:
        is_file = stat.S_ISREG(system.path(path).lstat().st_mode)
    except OSError:
        is_file = False
    if not is_file:
        raise NotFound(f"{name}: no such recording", hint="meetingctl device record list")
    return path


@dataclass(slots=True)
class Deletion:
    """What became of each name: gone, kept because it is locked, or failed with a reason."""

    deleted: list[str] = field(default_factory=list)
    skipped_locked: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def delete_recordings(
    system: System, record_dir: str, names: Sequence[str], *, force: bool = False, cache: MediaCache | None = None
) -> Deletion:
    """Delete recordings with their thumbnails and rows; locked ones only with `force`, which unlocks them.

    Raises: Conflict for a damaged list of locks.
    """
    locks = read_locks(system)
    done = Deletion()
    for name in dict.fromkeys(names):
        if name in locks and not force:
            done.skipped_locked.append(name)
            continue
        try:
            path = find_recording(system, record_dir, name)
            system.path(path).unlink()
        except MeetingctlError as error:
            done.failed[name] = error.message
            continue
        except OSError as exc:
            done.failed[name] = (exc.strerror or str(exc)).lower()
            continue
        done.deleted.append(name)
        drop_thumbnail(system, path)
        if cache is not None:
            cache.forget(path)
    if unlocked := locks & set(done.deleted):
        change_locks(system, unlock=unlocked)
    return done


def _passes(row: Mapping[str, Any], only: str) -> bool:
    if only in {"locked", "unlocked"}:
        return bool(row["locked"]) == (only == "locked")
    return only == "all" or row["extension"] == f".{only}"


def _row(system: System, path: str, locks: Collection[str], known: Mapping[str, Any] | None) -> Row:
    """Make one row; empty when the file has gone meanwhile. Local times, sizes in bytes and as text."""
    pure = PurePosixPath(path)
    try:
        found = system.path(path).stat()
    except OSError:
        return {}
    is_known = known is not None and known["file_mtime"] >= found.st_mtime
    facts: Mapping[str, Any] = known if known is not None and is_known else {}
    modified = time.localtime(found.st_mtime)
    is_live = pure.parent.name == LIVE_SEGMENTS_NAME and is_segment_name(pure.name)
    return {
        "name": pure.name,
        "path": path,
        "state": "recording" if is_live else "closed",
        "size_bytes": found.st_size,
        "size_mb": round(found.st_size / (1 << 20), 1),
        "size_display": size_text(found.st_size),
        "modified": found.st_mtime,
        "modified_iso": time.strftime("%Y-%m-%dT%H:%M:%S", modified),
        "modified_display": time.strftime("%d/%m/%Y %H:%M", modified),
        "locked": pure.name in locks,
        "extension": pure.suffix.lower(),
        "duration": facts.get("duration"),
        "duration_display": duration_text(facts.get("duration")),
        "resolution": facts.get("resolution"),
        "codec": facts.get("codec"),
        "fps": facts.get("fps"),
        "has_audio": bool(facts["has_audio"]) if facts else None,
        "has_thumbnail": bool(facts.get("thumbnail_generated")),
    }


def folder_bytes(rows: Iterable[Row]) -> int:
    """Return the bytes of all rows."""
    return sum(int(row["size_bytes"]) for row in rows)


def free_bytes(system: System, record_dir: str) -> int:
    """Return the bytes that are free on the disk of the recordings, 0 when there is no folder."""
    try:
        disk = os.statvfs(system.path(record_dir))
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize
