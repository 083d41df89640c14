"""Queries and changes of builds and package jobs. Each takes a connection and runs in the caller's transaction."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import NotFound, NotYours, RateLimited
from meetingctl.core.paths import safe_join
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.builder.manifest import NAMES
from meetingctl.server.db.schema import build_files, builds, package_jobs
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.uploads import UploadedFile

BUILDS, PACKAGES = "builds", "packages"
INCOMING = ".incoming"  # below builds/: files that are being received
ACTIVE = ("queued", "running")
_LOG_LINES = 200


def owner_of(principal: Principal) -> str:
    """Return whose builds a caller may touch: keys and people are known by ids, because names repeat or change."""
    if principal.user_id is not None:
        return f"user:{principal.user_id}"
    return f"key:{principal.key_id}" if principal.kind == "key" else principal.name


def build_folder(data_dir: Path, build_id: str) -> Path:
    """Return the folder of a build's files."""
    return safe_join(data_dir, BUILDS, build_id)


def package_folder(data_dir: Path, job_id: str) -> Path:
    """Return the folder of a job's archive."""
    return safe_join(data_dir, PACKAGES, job_id)


def create_build(connection: sa.Connection, actor: Actor, owner: str, manifest: Mapping[str, Any]) -> str:
    """Insert a build and return its id of 128 random bits."""
    build_id, now = secrets.token_hex(16), now_ms()
    values = {"id": build_id, "owner": owner, "created_at_ms": now, "updated_at_ms": now, **_columns(manifest)}
    connection.execute(builds.insert().values(values))
    append(connection, actor, "build.create", f"build:{build_id}", after=_named(manifest))
    return build_id


def get_build(connection: sa.Connection, principal: Principal, build_id: str) -> sa.RowMapping:
    """Return a build of the caller's, any for an administrator. Raises: NotFound."""
    row = connection.execute(sa.select(builds).where(builds.c.id == build_id)).mappings().first()
    if row is None:
        raise NotFound("Build not found", hint="meetingctl builder start TYPE/DISTRIBUTION")
    if not _may_touch(principal, row["owner"]):
        raise NotYours("Build not found", hint="meetingctl builder start TYPE/DISTRIBUTION")
    return row


def set_manifest(connection: sa.Connection, actor: Actor, build_id: str, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a build."""
    changes = {**_columns(manifest), "updated_at_ms": now_ms()}
    connection.execute(builds.update().where(builds.c.id == build_id).values(changes))
    append(connection, actor, "build.manifest", f"build:{build_id}", after=_named(manifest))


def list_files(connection: sa.Connection, build_id: str) -> list[sa.RowMapping]:
    """Return the files of a build, by name."""
    query = sa.select(build_files).where(build_files.c.build_id == build_id).order_by(build_files.c.filename)
    return list(connection.execute(query).mappings())


def checksum_of(connection: sa.Connection, name: str) -> str | None:
    """Return what the record of a build's file says, by its name below the data directory."""
    _, build_id, filename = name.split("/")
    is_it = sa.and_(build_files.c.build_id == build_id, build_files.c.filename == filename)
    return connection.execute(sa.select(build_files.c.sha256).where(is_it)).scalar()


def record_file(connection: sa.Connection, actor: Actor, build_id: str, file: UploadedFile, filetype: str) -> None:
    """Record a file, over the one of that name."""
    is_it = sa.and_(build_files.c.build_id == build_id, build_files.c.filename == file.filename)
    connection.execute(build_files.delete().where(is_it))
    values = {
        "build_id": build_id,
        "filename": file.filename,
        "filetype": filetype,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "uploaded_at_ms": now_ms(),
    }
    connection.execute(build_files.insert().values(values))
    connection.execute(builds.update().where(builds.c.id == build_id).values(updated_at_ms=now_ms()))
    after = {"filename": file.filename, "sha256": file.sha256}
    append(connection, actor, "build.upload", f"build:{build_id}", after=after)


def create_job(connection: sa.Connection, actor: Actor, build: sa.RowMapping, kind: str, *, most: int) -> str:
    """Queue a package job; return its id. Raises: RateLimited when too many wait or run."""
    active = sa.select(sa.func.count()).where(package_jobs.c.state.in_(ACTIVE))
    if connection.execute(active).scalar_one() >= most:
        raise RateLimited("Too many jobs", hint="wait until some have ended", retry_after_s=30)
    job_id = secrets.token_hex(16)
    values = {
        "id": job_id,
        "build_id": build["id"],
        "owner": build["owner"],
        "format": kind,
        "manifest": build["manifest"],
        "state": "queued",
        "progress": 0,
        "log": ["queued"],
        "created_at_ms": now_ms(),
    }
    connection.execute(package_jobs.insert().values(values))
    append(connection, actor, "build.package", f"build:{build['id']}", after={"job": job_id, "format": kind})
    return job_id


def get_job(connection: sa.Connection, principal: Principal, job_id: str) -> sa.RowMapping:
    """Return a job of the caller's, any for an administrator. Raises: NotFound."""
    row = connection.execute(sa.select(package_jobs).where(package_jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise NotFound("Job not found", hint="meetingctl builder package BUILD")
    if not _may_touch(principal, row["owner"]):
        raise NotYours("Job not found", hint="meetingctl builder package BUILD")
    return row


def cancel_job(connection: sa.Connection, actor: Actor, row: sa.RowMapping) -> bool:
    """Ask a job to end; return whether there was something to end."""
    if row["state"] not in ACTIVE:
        return False
    is_waiting = sa.and_(package_jobs.c.id == row["id"], package_jobs.c.state == "queued")
    changes = {"state": "failed", "finished_at_ms": now_ms(), "log": with_line(row["log"], "cancelled")}
    if connection.execute(package_jobs.update().where(is_waiting).values(changes)).rowcount == 0:
        wish = package_jobs.update().where(package_jobs.c.id == row["id"]).values(cancel_requested=True)
        connection.execute(wish)
    append(connection, actor, "build.cancel", f"build:{row['build_id']}", after={"job": row["id"]})
    return True


def with_line(log: list[str], line: str) -> list[str]:
    """Return a log with one more line, its newest lines at most."""
    return [*log, line][-_LOG_LINES:]


def _columns(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"manifest": dict(manifest), **{name: str(manifest.get(name) or "") for name in NAMES}}


def _named(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: manifest.get(name) for name in NAMES}


def _may_touch(principal: Principal, owner: str) -> bool:
    return principal.has_role(Role.ADMIN) or owner == owner_of(principal)
