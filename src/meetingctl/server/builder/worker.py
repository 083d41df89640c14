"""Package jobs in the background: claimed with a lease, so that a job outlives the process that packs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import shutil
import time
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import iso_text, now_ms
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.paths import sync_folder
from meetingctl.server.builder import store
from meetingctl.server.builder.archive import Member, write_archive
from meetingctl.server.builder.manifest import is_update_package, list_items, update_manifest
from meetingctl.server.builder.orphans import sweep
from meetingctl.server.db.schema import builds, package_jobs
from meetingctl.server.state import ServerState

log = logging.getLogger(__name__)

LEASE_MS = 30_000
POLL_S = 0.5
SWEEP_S = 600.0
MOST_ATTEMPTS = 3
_TELL_EVERY_S = 0.3


class Cancelled(MeetingctlError):
    """Somebody asked the job to end."""


class LostLease(MeetingctlError):
    """Another process took the job over."""


async def run_packages(state: ServerState) -> None:
    """Pack what is queued until cancelled, at most `builder_jobs` at a time in this process."""
    worker, running = secrets.token_hex(8), set[asyncio.Task[None]]()
    # One process on SQLite: what runs according to the table died with the process before.
    is_alone = state.database.dialect == "sqlite"
    swept_s = 0.0
    try:
        while True:
            try:
                if is_alone:
                    await state.writer.run_async(release_all)
                    is_alone = False
                while len(running) < state.settings.builder_jobs and await asyncio.to_thread(_is_work, state):
                    found = await state.writer.run_async(lambda connection: claim(connection, worker))
                    if found is None:
                        break
                    job = dict(found)
                    task = asyncio.create_task(asyncio.to_thread(pack, state, worker, job))
                    running.add(task)
                    task.add_done_callback(running.discard)
                if time.monotonic() >= swept_s:
                    swept_s = time.monotonic() + SWEEP_S
                    for name in await asyncio.to_thread(sweep, state):
                        log.info("removed what a build had left", extra={"path": name})
            except (OSError, MeetingctlError) as exc:
                log.warning("package jobs wait", extra={"error": str(exc)})
            await asyncio.sleep(POLL_S)
    finally:
        if running:
            await asyncio.gather(*running, return_exceptions=True)


def release_all(connection: sa.Connection) -> None:
    """End every lease: to be called where no other process packs."""
    connection.execute(package_jobs.update().where(package_jobs.c.state == "running").values(lease_until_ms=0))


def _is_free() -> sa.ColumnElement[bool]:
    is_left = sa.and_(package_jobs.c.state == "running", package_jobs.c.lease_until_ms < now_ms())
    return sa.or_(package_jobs.c.state == "queued", is_left)


def _is_work(state: ServerState) -> bool:
    with state.database.read() as connection:
        return connection.execute(sa.select(package_jobs.c.id).where(_is_free()).limit(1)).first() is not None


def claim(connection: sa.Connection, worker: str) -> sa.RowMapping | None:
    """Take the oldest job that waits, or whose process is gone."""
    now = now_ms()
    query = sa.select(package_jobs).where(_is_free()).order_by(package_jobs.c.created_at_ms).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).mappings().first()
    if row is None:
        return None
    values: dict[str, Any] = {
        "state": "running",
        "claimed_by": worker,
        "lease_until_ms": now + LEASE_MS,
        "attempts": row["attempts"] + 1,
        "started_at_ms": now,
        "progress": 0,
    }
    if row["attempts"] >= MOST_ATTEMPTS:
        line = f"given up after {row['attempts']} attempts"
        values |= {"state": "failed", "finished_at_ms": now, "log": store.with_line(row["log"], line)}
    elif row["attempts"]:
        values["log"] = store.with_line(row["log"], "started again: the server had stopped")
    connection.execute(package_jobs.update().where(package_jobs.c.id == row["id"]).values(values))
    return connection.execute(sa.select(package_jobs).where(package_jobs.c.id == row["id"])).mappings().first()


def pack(state: ServerState, worker: str, job: dict[str, Any]) -> None:
    """Write the archive of a claimed job and record how it went. For worker threads."""
    if job["state"] != "running":
        return
    folder = store.package_folder(state.data_dir, job["id"])
    lines = list(job["log"])
    ends: dict[str, Any] = {"state": "failed"}
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        members, name = gather(state, job)
        lines = store.with_line(lines, f"packing {len(members)} files into {name}")
        progress = _Progress(state, worker, job["id"], sum(member.size_bytes for member in members))
        part = folder / f".{name}.part"
        size_bytes, sha256 = write_archive(part, job["format"], members, progress.tell)
        part.rename(folder / name)
        sync_folder(folder)
        lines = store.with_line(lines, f"done: {size_bytes} bytes, sha256 {sha256}")
        ends = {"state": "done", "progress": 100, "archive_name": name, "size_bytes": size_bytes, "sha256": sha256}
    except LostLease:
        return
    except Cancelled:
        lines = store.with_line(lines, "cancelled")
    except MeetingctlError as exc:
        lines = store.with_line(lines, f"failed: {exc.message}")
    except OSError as exc:
        lines = store.with_line(lines, f"failed: {exc.strerror or exc}")
    except Exception:  # a boundary: the job ends, the log of the server has the rest
        log.exception("package job failed", extra={"job": job["id"]})
        lines = store.with_line(lines, "failed: unexpected, see the log of the server")
    if ends["state"] != "done":
        shutil.rmtree(folder, ignore_errors=True)
    values = {**ends, "log": lines, "finished_at_ms": now_ms(), "claimed_by": None, "lease_until_ms": None}
    with contextlib.suppress(MeetingctlError):  # a database that is gone: the lease runs out, and the job starts again
        state.writer.run(lambda c: c.execute(package_jobs.update().where(_is_mine(job["id"], worker)).values(values)))


def gather(state: ServerState, job: dict[str, Any]) -> tuple[list[Member], str]:
    """Return what the archive holds, and its name."""
    with state.database.read() as connection:
        rows = store.list_files(connection, job["build_id"])
        created_ms = connection.execute(
            sa.select(builds.c.created_at_ms).where(builds.c.id == job["build_id"])
        ).scalar_one()
    manifest, folder = job["manifest"], store.build_folder(state.data_dir, job["build_id"])
    paths = {item.filename: item.path for item in list_items(manifest)}
    chosen = [row for row in rows if not paths or row["filename"] in paths]
    is_update = is_update_package(list_items(manifest))
    members = [
        Member(
            f"payload/{paths[row['filename']]}" if is_update else row["filename"],
            folder / row["filename"],
            b"",
            row["size_bytes"],
            row["sha256"],
        )
        for row in chosen
    ]
    if is_update:
        files = [(paths[row["filename"]], row["size_bytes"], row["sha256"]) for row in chosen]
        content = _json(update_manifest(manifest, files, (iso_text(created_ms) or "").removesuffix("Z")))
        stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(created_ms / 1000))
        members.append(Member("update_manifest.json", None, content, len(content)))
        return members, f"rpi-cam-update_{manifest['version']}_{stamp}.{job['format']}"
    if "manifest.json" not in {row["filename"] for row in chosen}:
        content = _json(manifest)
        members.append(Member("manifest.json", None, content, len(content)))
    return members, f"{manifest['device_type']}-{manifest['distribution']}-{manifest['version']}.{job['format']}"


class _Progress:
    """Writes progress and lease now and then, and ends the work when somebody asks for it."""

    def __init__(self, state: ServerState, worker: str, job_id: str, total_bytes: int) -> None:
        self._state, self._worker, self._job_id = state, worker, job_id
        self._total_bytes = max(1, total_bytes)
        self._read_bytes = 0
        self._told_s = time.monotonic()

    def tell(self, more_bytes: int) -> None:
        self._read_bytes += more_bytes
        if time.monotonic() - self._told_s < _TELL_EVERY_S:
            return
        self._told_s = time.monotonic()
        percent = min(99, 100 * self._read_bytes // self._total_bytes)
        self._state.writer.run(lambda connection: self._write(connection, percent))

    def _write(self, connection: sa.Connection, percent: int) -> None:
        statement = (
            package_jobs.update()
            .where(_is_mine(self._job_id, self._worker))
            .values(progress=percent, lease_until_ms=now_ms() + LEASE_MS)
            .returning(package_jobs.c.cancel_requested)
        )
        wish = connection.execute(statement).scalar()
        if wish is None:
            raise LostLease("another process has the job")
        if wish:
            raise Cancelled("cancelled")


def _is_mine(job_id: str, worker: str) -> sa.ColumnElement[bool]:
    return sa.and_(package_jobs.c.id == job_id, package_jobs.c.claimed_by == worker)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
