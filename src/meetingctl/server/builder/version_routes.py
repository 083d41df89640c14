"""Endpoints of what a build becomes: publish a job's archive, history, rollback, duplicate, the next version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request

from meetingctl.core.clock import iso_text, now_ms, wire_text
from meetingctl.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from meetingctl.core.versions import Manifest, check_name, check_version, suggest_next
from meetingctl.server.audit.chain import append
from meetingctl.server.builder import store
from meetingctl.server.builder.bodies import (
    CommitBody,
    CommitReply,
    DuplicateBody,
    HistoryReply,
    PlaceBody,
    SuggestReply,
    VersionBody,
)
from meetingctl.server.builder.routes import Builder, Reader, finished_job
from meetingctl.server.http import (
    SuccessReply,
    actor_of,
    body_of,
    describe,
    server_of,
)
from meetingctl.server.identity.principal import Principal
from meetingctl.server.updates import channels, releases
from meetingctl.server.updates.errors import VersionExists
from meetingctl.server.updates.http import check_type
from meetingctl.server.updates.urls import file_url

router = APIRouter(tags=["builder"])

_ROLLBACK_CHANNEL = "default"


@router.post("/api/builder/suggest-version", **describe(SuggestReply, body=PlaceBody))
def suggest_version(
    request: Request, principal: Reader, body: Annotated[PlaceBody, Depends(body_of(PlaceBody))]
) -> dict[str, str]:
    """Propose the number after the newest published one (decision D-SUGGEST)."""
    check_type(principal, body.device_type)
    with server_of(request).database.read() as connection:
        return {
            "suggested_version": suggest_next(releases.list_versions(connection, body.device_type, body.distribution))
        }


@router.post("/api/builder/commit", **describe(CommitReply, 404, 409, 507, body=CommitBody))
def commit(
    request: Request, principal: Builder, body: Annotated[CommitBody, Depends(body_of(CommitBody))]
) -> dict[str, Any]:
    """Publish the archive of a finished job; the same bytes again change nothing (decision D-OVERWRITE)."""
    server = server_of(request)
    job = finished_job(server, principal, body.job_id)
    manifest, archive = job["manifest"], store.package_folder(server.data_dir, job["id"]) / job["archive_name"]
    return _publish(
        request,
        principal,
        (str(manifest["device_type"]), str(manifest["distribution"]), str(manifest["version"])),
        archive,
        (job["archive_name"], job["size_bytes"], job["sha256"]),
        notes=body.notes or str(manifest.get("notes") or ""),
        action="commit",
    )


_PLACE = {"type": {"type": "string"}, "distribution": {"type": "string"}}


@router.get("/api/builder/history", **describe(HistoryReply, query=_PLACE))
def get_history(request: Request, principal: Reader) -> dict[str, Any]:
    """List what was published, committed, duplicated and rolled back, newest first."""
    device_type, distribution = request.query_params.get("type"), request.query_params.get("distribution")
    if not device_type or not distribution:
        raise InvalidInput("Missing type or distribution")
    check_type(principal, device_type)
    with server_of(request).database.read() as connection:
        rows = releases.list_history(connection, device_type, distribution)
    return {
        "history": [
            {
                "version": row["version"],
                "notes": row["notes"],
                "sha256": row["sha256"],
                "size": row["size_bytes"],
                "created_at": wire_text(row["at_ms"]),
                "author": row["author"],
                "action": row["action"],
            }
            for row in rows
        ]
    }


@router.post("/api/builder/rollback", **describe(SuccessReply, 404, 409, body=VersionBody))
def rollback(
    request: Request, principal: Builder, body: Annotated[VersionBody, Depends(body_of(VersionBody))]
) -> dict[str, Any]:
    """Make an older version the current one, and the target of the default channel; nothing is deleted."""
    check_type(principal, body.device_type)
    server, actor = server_of(request), actor_of(request, principal)

    def change(connection: sa.Connection) -> None:
        release = _release(connection, body)
        before = releases.set_current(connection, body.device_type, body.distribution, body.version)
        releases.record_history(connection, release, "rollback", principal.name, f"from {before}")
        row = channels.find_channel(connection, body.device_type, body.distribution, _ROLLBACK_CHANNEL)
        if row is not None and row["target_version"] != body.version:
            if not principal.may("channels:edit"):
                raise Forbidden("Channel not allowed", hint="the key lacks the permission channels:edit")
            channels.change_channel(connection, actor, row["id"], {"target_version": body.version})
        after = {"version": body.version}
        append(
            connection, actor, "release.rollback", f"release:{release.name}", before={"version": before}, after=after
        )

    server.writer.run(change)
    server.changes.announce()
    return {"success": True}


@router.post("/api/builder/duplicate", **describe(SuccessReply, 404, 409, 507, body=DuplicateBody))
def duplicate(
    request: Request, principal: Builder, body: Annotated[DuplicateBody, Depends(body_of(DuplicateBody))]
) -> dict[str, Any]:
    """Publish a version once more under a new number."""
    server = server_of(request)
    with server.database.read() as connection:
        release = _release(connection, body)
        if body.new_version in releases.list_versions(connection, body.device_type, body.distribution):
            raise Conflict("Version already published")
    folder = releases.release_folder(server.data_dir, body.device_type, body.distribution, body.version)
    names = (body.device_type, body.distribution, body.new_version)
    facts = (release.archive_name, release.size_bytes, release.sha256)
    notes = body.notes or release.notes
    _publish(request, principal, names, folder / release.archive_name, facts, notes=notes, action="duplicate")
    return {"success": True}


def _publish(
    request: Request,
    principal: Principal,
    names: tuple[str, str, str],
    archive: Path,
    facts: tuple[str, int, str],
    *,
    notes: str,
    action: str,
) -> dict[str, Any]:
    device_type, distribution, version = names
    check_type(principal, device_type)
    check_name(device_type, "device type")
    check_name(distribution, "distribution")
    check_version(version)
    archive_name, size_bytes, sha256 = facts
    manifest = Manifest(
        device_type=device_type,
        distribution=distribution,
        version=version,
        archive=archive_name,
        sha256=sha256,
        size_bytes=size_bytes,
        notes=notes,
        created_at=iso_text(now_ms()) or "",
    )
    draft = releases.ReleaseDraft(
        device_type=device_type,
        distribution=distribution,
        version=version,
        archive=archive,
        archive_name=archive_name,
        sha256=sha256,
        size_bytes=size_bytes,
        manifest=manifest.to_bytes(),
        author=principal.name,
        notes=notes,
        action=action,
    )
    server = server_of(request)
    try:
        release = releases.publish_release(server, actor_of(request, principal), draft)
    except VersionExists as exc:
        raise Conflict("Version already published", hint=exc.hint) from None
    url = file_url(request, server, release.name, release.archive_name)
    return {"success": True, "path": release.name, "published_url": url}


def _release(connection: sa.Connection, body: VersionBody) -> releases.Release:
    try:
        return releases.get_release(connection, body.device_type, body.distribution, body.version)
    except NotFound:
        raise NotFound("Version not found", hint="meetingctl fleet releases list") from None
