"""What builds leave behind: old ones are deleted, and what no record names is found and removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.server.builder.store import ACTIVE, BUILDS, INCOMING, PACKAGES
from meetingctl.server.db.schema import build_files, builds, package_jobs
from meetingctl.server.state import ServerState

STALE_MS = 3_600_000


def find_orphans(data_dir: Path, connection: sa.Connection, *, older_than_ms: int = 0) -> list[str]:
    """Return one line for each file or folder of builds and packages that is not as recorded."""
    oldest_s = (now_ms() - older_than_ms + 1) / 1000
    lines = [f"{path.relative_to(data_dir)}: no record" for path in _unknown(data_dir, connection, oldest_s)]
    query = sa.select(build_files.c.build_id, build_files.c.filename, build_files.c.size_bytes)
    for row in connection.execute(query):
        lines += _compare(data_dir, f"{BUILDS}/{row.build_id}/{row.filename}", row.size_bytes)
    done = sa.select(package_jobs.c.id, package_jobs.c.archive_name, package_jobs.c.size_bytes)
    for row in connection.execute(done.where(package_jobs.c.state == "done")):
        lines += _compare(data_dir, f"{PACKAGES}/{row.id}/{row.archive_name}", row.size_bytes)
    return lines


def sweep(state: ServerState) -> list[str]:
    """Delete builds that nobody has touched for `builder_keep_s`, and what a crash left; return the names."""
    oldest_ms = now_ms() - int(state.settings.builder_keep_s * 1000)
    is_packed = sa.select(package_jobs.c.id).where(
        package_jobs.c.build_id == builds.c.id, package_jobs.c.state.in_(ACTIVE)
    )
    is_old = sa.and_(builds.c.updated_at_ms < oldest_ms, ~sa.exists(is_packed))
    state.writer.run(lambda connection: connection.execute(builds.delete().where(is_old)))
    with state.database.read() as connection:
        found = list(_unknown(state.data_dir, connection, (now_ms() - STALE_MS) / 1000))
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return [str(path.relative_to(state.data_dir)) for path in found]


def _unknown(data_dir: Path, connection: sa.Connection, oldest_s: float) -> Iterator[Path]:
    known: dict[str, set[str]] = {f"{BUILDS}/{INCOMING}": set()}
    for row in connection.execute(sa.select(builds.c.id)):
        known[f"{BUILDS}/{row.id}"] = set()
    for row in connection.execute(sa.select(build_files.c.build_id, build_files.c.filename)):
        known[f"{BUILDS}/{row.build_id}"].add(row.filename)
    # A job that runs writes into its folder; whatever stands there is its own.
    for row in connection.execute(sa.select(package_jobs.c.id, package_jobs.c.state, package_jobs.c.archive_name)):
        if row.state in ("done", *ACTIVE):
            known[f"{PACKAGES}/{row.id}"] = {row.archive_name} if row.state == "done" else {"*"}
    for tree in (BUILDS, PACKAGES):
        for folder in _entries(data_dir / tree):
            names = known.get(f"{tree}/{folder.name}")
            if names is None:
                if _is_older(folder, oldest_s):
                    yield folder
            elif "*" not in names:
                yield from (p for p in _entries(folder) if p.name not in names and _is_older(p, oldest_s))


def _compare(data_dir: Path, name: str, size_bytes: int) -> list[str]:
    try:
        found = (data_dir / name).stat(follow_symlinks=False).st_size
    except OSError:
        return [f"{name}: the file is missing"]
    return [] if found == size_bytes else [f"{name}: other size than recorded"]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_older(path: Path, oldest_s: float) -> bool:
    try:
        return path.stat(follow_symlinks=False).st_mtime < oldest_s
    except OSError:
        return False
