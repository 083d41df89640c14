"""Endpoints of the distribution builder (contract section 5.13)."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.core.paths import sync_folder
from meetingctl.server.aside import restored_on_failure
from meetingctl.server.builder import store
from meetingctl.server.builder.archive import FORMATS
from meetingctl.server.builder.bodies import (
    DistributionsReply,
    JobBody,
    JobReply,
    ManifestBody,
    ManifestReply,
    PackageBody,
    PackageReply,
    StartReply,
    TypesReply,
    UploadReply,
    ValidityReply,
    WhoamiReply,
)
from meetingctl.server.builder.manifest import check_manifest, list_missing
from meetingctl.server.catalog import tree
from meetingctl.server.catalog import types as type_table
from meetingctl.server.catalog.room import room_bytes
from meetingctl.server.http import (
    SuccessReply,
    actor_of,
    body_of,
    describe,
    need,
    read_json,
    server_of,
)
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.state import ServerState
from meetingctl.server.updates import releases
from meetingctl.server.updates.files import send_file
from meetingctl.server.updates.http import check_type
from meetingctl.server.uploads import receive_upload

router = APIRouter(tags=["builder"])

Reader = Annotated[Principal, need(Role.VIEWER, permission="updates:view", limits="both")]
Builder = Annotated[Principal, need(Role.OPERATOR, permission="updates:publish", limits="types")]
_MIB = 1024**2


@router.get("/api/builder/whoami", **describe(WhoamiReply))
def whoami(principal: Reader) -> dict[str, Any]:
    """Say who the caller is."""
    number = principal.key_id if principal.user_id is None else principal.user_id
    return {"user": {"id": number, "username": principal.name.partition(":")[2], "role": principal.role_text}}


_Q = {"q": {"type": "string"}}


@router.get("/api/builder/device-types", **describe(TypesReply, query=_Q))
def list_types(request: Request, principal: Reader) -> dict[str, Any]:
    """List the device types of the table, and those that only have a folder (decision D-TYPES)."""
    server = server_of(request)
    with server.database.read() as connection:
        rows = type_table.list_types(connection)
    found = {
        row["name"]: {
            "name": row["name"],
            "desc": row["description"] or "",
            "icon": f"/api/device-types/{row['id']}/icon" if row["icon_path"] else None,
        }
        for row in rows
    }
    for name in tree.list_types(server.data_dir):
        found.setdefault(name, {"name": name, "desc": "", "icon": None})
    wanted = request.query_params.get("q", "").casefold()
    allowed = principal.device_types
    return {
        "device_types": [
            found[name]
            for name in sorted(found, key=str.casefold)
            if wanted in f"{name} {found[name]['desc']}".casefold() and (allowed is None or name in allowed)
        ]
    }


@router.get("/api/builder/distributions", **describe(DistributionsReply, 404, query={"type": {"type": "string"}}))
def list_distributions(request: Request, principal: Reader) -> dict[str, Any]:
    """List the distributions of a type with their current versions."""
    server = server_of(request)
    device_type = request.query_params.get("type", "")
    if not device_type:
        raise InvalidInput("Missing type")
    check_type(principal, device_type)
    with server.database.read() as connection:
        published = releases.list_releases(connection, device_type=device_type)
        in_table = {row["name"] for row in type_table.list_types(connection)}
        names = {release.distribution for release in published}
        if device_type in tree.list_types(server.data_dir):
            names |= set(tree.list_distributions(server.data_dir, device_type))
        elif not names and device_type not in in_table:
            raise NotFound("Device type not found", hint="meetingctl fleet types list")
        found = [
            {"name": name, "last_version": releases.current_version(connection, device_type, name)}
            for name in sorted(names)
        ]
    return {"distributions": found}


async def _manifest_body(request: Request) -> dict[str, Any]:
    try:
        value = await read_json(request)
    except InvalidInput:
        raise InvalidInput("Invalid manifest", hint="a manifest is a JSON object") from None
    return check_manifest(value)


@router.post("/api/builder/start", **describe(StartReply))
def start_build(
    request: Request, principal: Builder, manifest: Annotated[dict[str, Any], Depends(_manifest_body)]
) -> dict[str, str]:
    """Open a build with a first manifest, which may be incomplete."""
    _check_allowed(principal, manifest)
    server, actor, owner = server_of(request), actor_of(request, principal), store.owner_of(principal)
    build_id = server.writer.run(lambda connection: store.create_build(connection, actor, owner, manifest))
    return {
        "build_id": build_id,
        "upload_url": "/api/builder/upload-file",
        "manifest_url": f"/api/builder/manifest?build_id={build_id}",
    }


_UPLOAD = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["build_id", "file"],
                    "properties": {
                        "build_id": {"type": "string"},
                        "type": {"type": "string", "maxLength": 32},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        }
    }
}


def _with_form(described: dict[str, Any]) -> dict[str, Any]:
    return {**described, "openapi_extra": {**described["openapi_extra"], **_UPLOAD}}


@router.post("/api/builder/upload-file", **_with_form(describe(UploadReply, 404, 415, 507)))
async def upload_file(request: Request, principal: Builder) -> dict[str, Any]:
    """Add a file to a build, over the one of that name."""
    server, actor = server_of(request), actor_of(request, principal)
    caps = {"file": server.settings.builder_file_max_mib * _MIB}
    room = await run_in_threadpool(room_bytes, server)
    folder = server.data_dir / store.BUILDS / store.INCOMING
    async with receive_upload(request, folder, file_fields=caps, room_bytes=room) as form:
        build_id, filetype = form.fields.get("build_id"), form.fields.get("type", "")
        if not build_id or "file" not in form.files:
            raise InvalidInput("Missing build_id or file")
        if len(filetype) > 32:
            raise InvalidInput("Missing or invalid field: type")
        file = form.files["file"]

        def place() -> None:
            with server.database.read() as connection:
                store.get_build(connection, principal, build_id)
            target = store.build_folder(server.data_dir, build_id)

            def change(connection: sa.Connection) -> None:
                store.record_file(connection, actor, build_id, file, filetype)
                target.mkdir(parents=True, exist_ok=True, mode=0o700)
                if file.path.exists():  # a batch that fails is tried again
                    file.path.replace(target / file.filename)

            with restored_on_failure(server.data_dir, target / file.filename, folder, sha256=file.sha256):
                server.writer.run(change)
            sync_folder(target)

        await run_in_threadpool(place)
    return {"success": True, "filename": file.filename, "filetype": filetype, "path": file.filename}


_BUILD = {"build_id": {"type": "string"}}


@router.get("/api/builder/manifest", **describe(ManifestReply, 404, query=_BUILD))
def get_manifest(request: Request, principal: Builder) -> dict[str, Any]:
    """Show the manifest of a build, and what is missing before it can be packaged."""
    build_id = request.query_params.get("build_id", "")
    if not build_id:
        raise InvalidInput("Missing build_id")
    with server_of(request).database.read() as connection:
        build = store.get_build(connection, principal, build_id)
        missing = _missing(connection, build)
    return {"manifest": build["manifest"], "valid": not missing, "missing": missing}


@router.post("/api/builder/manifest", **describe(ValidityReply, 404, body=ManifestBody))
def set_manifest(
    request: Request, principal: Builder, body: Annotated[ManifestBody, Depends(body_of(ManifestBody))]
) -> dict[str, Any]:
    """Replace the manifest of a build."""
    manifest = check_manifest(body.manifest)
    _check_allowed(principal, manifest)
    actor = actor_of(request, principal)

    def change(connection: sa.Connection) -> list[str]:
        store.get_build(connection, principal, body.build_id)
        store.set_manifest(connection, actor, body.build_id, manifest)
        return _missing(connection, store.get_build(connection, principal, body.build_id))

    missing = server_of(request).writer.run(change)
    return {"success": True, "valid": not missing, "missing": missing}


@router.post("/api/builder/package", **describe(PackageReply, 404, body=PackageBody))
def package_build(
    request: Request, principal: Builder, body: Annotated[PackageBody, Depends(body_of(PackageBody))]
) -> dict[str, Any]:
    """Queue the packaging of a build."""
    if body.format not in FORMATS:
        raise InvalidInput("Unsupported format", hint=f"use {' or '.join(FORMATS)}")
    server, actor = server_of(request), actor_of(request, principal)

    def change(connection: sa.Connection) -> str:
        build = store.get_build(connection, principal, body.build_id)
        if missing := _missing(connection, build):
            raise InvalidInput("Manifest not valid", hint=f"missing: {', '.join(missing)}")
        return store.create_job(connection, actor, build, body.format, most=server.settings.builder_jobs_max)

    job_id = server.writer.run(change)
    return {"success": True, "job_id": job_id, "status_url": f"/api/builder/package-status?job_id={job_id}"}


@router.get("/api/builder/package-status", **describe(JobReply, 404, query={"job_id": {"type": "string"}}))
def get_job(request: Request, principal: Builder) -> dict[str, Any]:
    """Show how far a job is: queued, running, done or failed."""
    with server_of(request).database.read() as connection:
        job = store.get_job(connection, principal, request.query_params.get("job_id", ""))
    done = job["state"] == "done"
    return {
        "state": job["state"],
        "progress": job["progress"],
        "download_url": f"/api/builder/download/{job['id']}" if done else None,
        "sha256": job["sha256"],
        "log": job["log"],
    }


@router.post("/api/builder/cancel", **describe(SuccessReply, 404, 409, body=JobBody))
def cancel_job(
    request: Request, principal: Builder, body: Annotated[JobBody, Depends(body_of(JobBody))]
) -> dict[str, Any]:
    """End a job that waits or runs; it becomes `failed`."""
    actor = actor_of(request, principal)

    def change(connection: sa.Connection) -> None:
        job = store.get_job(connection, principal, body.job_id)
        if not store.cancel_job(connection, actor, job):
            raise Conflict("Job has ended")

    server_of(request).writer.run(change)
    return {"success": True}


@router.head("/api/builder/download/{job_id}", include_in_schema=False)
@router.get("/api/builder/download/{job_id}", **describe(None, 404, 409), response_class=Response)
def download(request: Request, job_id: str, principal: Builder) -> Response:
    """Send the archive of a finished job, whole or in ranges."""
    server = server_of(request)
    job = finished_job(server, principal, job_id)
    path = store.package_folder(server.data_dir, job_id) / job["archive_name"]
    return send_file(request, path, sha256=job["sha256"], media_type="application/octet-stream", public=False)


def _missing(connection: sa.Connection, build: sa.RowMapping) -> list[str]:
    uploaded = {row["filename"] for row in store.list_files(connection, build["id"])}
    return list_missing(build["manifest"], uploaded)


def _check_allowed(principal: Principal, manifest: dict[str, Any]) -> None:
    if principal.device_types is not None:
        check_type(principal, str(manifest.get("device_type") or ""))


def finished_job(server: ServerState, principal: Principal, job_id: str) -> sa.RowMapping:
    """Return a job of the caller that is done. Raises: NotFound, Conflict."""
    with server.database.read() as connection:
        job = store.get_job(connection, principal, job_id)
    if job["state"] != "done":
        raise Conflict("Job not finished", hint=f"meetingctl builder status {job_id}")
    return job
