"""Find what a crash or a person left: files without a record, records without a file, temporary files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.server.catalog.icons import ICONS
from meetingctl.server.catalog.tree import storage_root
from meetingctl.server.db.schema import device_types, distribution_files
from meetingctl.server.uploads import UPLOAD_PREFIX

STALE_MS = 3_600_000  # an upload that has written nothing for an hour is over
# Of files that are received, and of those that `write_atomic` has not renamed: notes of changes, distrib.json.
_LEFT_PREFIXES = (UPLOAD_PREFIX, f".{UPLOAD_PREFIX}", ".distrib.json.")


def find_orphans(data_dir: Path, connection: sa.Connection, *, older_than_ms: int = 0) -> list[str]:
    """Return one line for each thing of the catalog that is not as recorded.

    Of what uploads left, those count that were not touched for `older_than_ms`: younger ones may still be received.
    """
    root = storage_root(data_dir)
    rows = connection.execute(sa.select(distribution_files)).mappings().all()
    recorded = {f"{row['device_type']}/{row['distribution']}/{row['filename']}": row["size_bytes"] for row in rows}
    found = dict(_walk(root))
    lines = [f"storage/{name}: no record" for name in sorted(found.keys() - recorded.keys())]
    lines += [f"storage/{name}: the file is missing" for name in sorted(recorded.keys() - found.keys())]
    lines += [
        f"storage/{n}: other size than recorded" for n in sorted(found) if n in recorded and found[n] != recorded[n]
    ]
    lines += [f"{ICONS}/{path.name}: no record" for path in _unused_icons(data_dir, connection, older_than_ms)]
    oldest_s = (now_ms() - older_than_ms + 1) / 1000
    return lines + [
        f"{path.relative_to(data_dir)}: left by an upload" for path in _leftovers(data_dir) if _is_older(path, oldest_s)
    ]


def sweep_uploads(data_dir: Path, *, older_than_ms: int = STALE_MS) -> list[str]:
    """Remove temporary files of uploads that ended long ago; return their names."""
    oldest_s = (now_ms() - older_than_ms) / 1000
    removed = []
    for path in _leftovers(data_dir):
        if _is_older(path, oldest_s):
            path.unlink(missing_ok=True)
            removed.append(str(path.relative_to(data_dir)))
    return removed


def sweep_icons(data_dir: Path, connection: sa.Connection, *, older_than_ms: int = STALE_MS) -> None:
    """Remove icons that no type shows any more; a younger one may belong to a row that is being written."""
    for path in _unused_icons(data_dir, connection, older_than_ms):
        path.unlink(missing_ok=True)


def _unused_icons(data_dir: Path, connection: sa.Connection, older_than_ms: int) -> list[Path]:
    oldest_s = (now_ms() - older_than_ms + 1) / 1000
    kept = set(connection.execute(sa.select(device_types.c.icon_path)).scalars())
    unused = [path for path in _files(data_dir / ICONS) if f"{ICONS}/{path.name}" not in kept]
    return [path for path in unused if _is_older(path, oldest_s)]


def _is_older(path: Path, oldest_s: float) -> bool:
    """Say whether a file is still there and was last written before a time."""
    try:
        return path.lstat().st_mtime <= oldest_s
    except FileNotFoundError:
        return False


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """Yield `TYPE/DISTRIBUTION/FILE` and size of every entry at that depth; links count as size -1."""
    for type_folder in _entries(root):
        for folder in _entries(type_folder):
            for path in _entries(folder):
                is_plain = path.is_file() and not path.is_symlink()
                yield str(path.relative_to(root)), path.lstat().st_size if is_plain else -1


def _entries(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file()]


def _leftovers(data_dir: Path) -> list[Path]:
    """Return what uploads and atomic writes have not taken away (yet)."""
    found: list[Path] = []
    for top in (data_dir / ICONS, storage_root(data_dir)):
        for folder, _, names in os.walk(top):
            inside = Path(folder)
            found += [inside / name for name in names if name.startswith(_LEFT_PREFIXES)]
    return found
