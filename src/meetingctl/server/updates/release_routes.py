"""Publish releases and read them (contract family C)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from meetingctl.core.clock import wire_text
from meetingctl.core.errors import InvalidInput, MeetingctlError, NotFound, NotYours
from meetingctl.core.ids import is_name
from meetingctl.core.versions import (
    MANIFEST_CAP_BYTES,
    check_archive_name,
    check_name,
    check_version,
    newest_first,
    parse_manifest,
)
from meetingctl.server.db.schema import current_releases, update_channels
from meetingctl.server.http import actor_of, query_int, server_of
from meetingctl.server.state import ServerState
from meetingctl.server.updates.archives import check_archive
from meetingctl.server.updates.errors import HashMismatch
from meetingctl.server.updates.files import send_file
from meetingctl.server.updates.http import (
    AdminReply,
    Publisher,
    ReleaseReader,
    Viewer,
    check_type,
    describe_admin,
    need_text,
    query_text,
)
from meetingctl.server.updates.releases import (
    CHANGELOG,
    MANIFEST,
    PUBLISHED,
    SIGNATURE,
    STAGING,
    Release,
    ReleaseDraft,
    current_version,
    get_release,
    list_releases,
    list_versions,
    publish_release,
    release_folder,
)
from meetingctl.server.updates.signing import SIGNATURE_CAP_BYTES, check_signature
from meetingctl.server.updates.urls import file_url, is_signed
from meetingctl.server.updates.verify import find_faults, inspect_release
from meetingctl.server.uploads import UploadForm, receive_upload

router = APIRouter(tags=["updates"])

_NAMED = {
    "device_type": {"type": "string", "maxLength": 128},
    "distribution": {"type": "string", "maxLength": 128},
    "version": {"type": "string", "maxLength": 64},
}
_FORM = {
    "type": "object",
    "required": ["device_type", "distribution", "version", "manifest", "archive"],
    "properties": {
        "device_type": {"type": "string"},
        "distribution": {"type": "string"},
        "version": {"type": "string"},
        "notes": {"type": "string"},
        "manifest": {"type": "string", "format": "binary"},
        "archive": {"type": "string", "format": "binary"},
        "signature": {"type": "string", "format": "binary"},
    },
}


class PublishReply(AdminReply):
    message: str
    path: str
    manifest_url: str
    archive_url: str
    size_bytes: int


class VerifyReply(AdminReply):
    path: str
    manifest_exists: bool
    archive_exists: bool
    archive_name: str
    sha256_match: bool
    manifest: dict[str, Any] | None
    changelog: str | None
    manifest_url: str
    archive_url: str
    signature: str
    missing_files: list[str] | None = None


class VersionsReply(AdminReply):
    device_type: str
    distribution: str
    versions: list[str]
    total: int


class NotesReply(AdminReply):
    release_notes: str


class ReleaseItem(BaseModel):
    device_type: str
    distribution: str
    version: str
    archive_name: str
    size_bytes: int
    sha256: str
    signature: str
    notes: str
    author: str
    published_at: str
    current: bool


class ReleasesReply(AdminReply):
    items: list[ReleaseItem]
    total: int


class FaultsReply(AdminReply):
    intact: bool
    faults: list[dict[str, str]]


_PUBLISH = describe_admin(PublishReply, 409, 415, 507)
_PUBLISH["openapi_extra"] = {"requestBody": {"content": {"multipart/form-data": {"schema": _FORM}}}}


@router.post("/api/admin/updates/publish", **_PUBLISH)
async def publish(request: Request, principal: Publisher) -> Any:
    """Publish a release. Its manifest must be about the form's names and the archive's bytes."""
    server = server_of(request)
    caps = {
        "manifest": MANIFEST_CAP_BYTES,
        "archive": server.settings.updates_archive_max_mib * 1024**2,
        "signature": SIGNATURE_CAP_BYTES,
    }
    folder = server.data_dir / PUBLISHED / STAGING
    async with receive_upload(
        request, folder, file_fields=caps, required=("device_type", "distribution", "version", "manifest", "archive")
    ) as form:
        check_type(principal, form.fields["device_type"])
        actor = actor_of(request, principal)
        draft = await run_in_threadpool(_draft_of, server, form, principal.name)
        release = await run_in_threadpool(publish_release, server, actor, draft)
    return {
        "ok": True,
        "message": "Release published" if release.created else "Release was published before",
        "path": release.name,
        "manifest_url": file_url(request, server, release.name, MANIFEST),
        "archive_url": file_url(request, server, release.name, release.archive_name),
        "size_bytes": release.size_bytes,
    }


def _draft_of(server: ServerState, form: UploadForm, author: str) -> ReleaseDraft:
    """Check the form against its own manifest. Raises: InvalidInput, HashMismatch."""
    fields, archive = form.fields, form.files.get("archive")
    if archive is None or "manifest" not in form.files:
        raise InvalidInput("Missing archive" if archive is None else "Missing manifest")
    content = form.files["manifest"].path.read_bytes()
    given = form.files.get("signature")
    signature = given.path.read_bytes() if given else None
    state = check_signature(content, signature, server.settings.updates_signing_keys)
    manifest = parse_manifest(content)
    if manifest.sha256 != archive.sha256:
        raise HashMismatch("SHA-256 of the archive is not the manifest's")
    check_archive(archive.path)
    return ReleaseDraft(
        device_type=check_name(fields["device_type"], "device_type"),
        distribution=check_name(fields["distribution"], "distribution"),
        version=check_version(fields["version"]),
        archive=archive.path,
        archive_name=check_archive_name(archive.filename),
        sha256=archive.sha256,
        size_bytes=archive.size_bytes,
        manifest=content,
        author=author,
        notes=fields.get("notes") or manifest.notes,
        signature=signature,
        signature_state=state,
        changelog=fields.get("changelog"),
        move=True,
    )


@router.get("/api/admin/updates/verify", **describe_admin(VerifyReply, 404, query=_NAMED))
def verify(request: Request, principal: ReleaseReader) -> Any:
    """Say whether a release is there and intact."""
    server = server_of(request)
    names = _names_of(request)
    try:
        with server.database.read() as connection:
            release = get_release(connection, *names)
    except NotFound as exc:
        body = {"ok": False, "error": "NOT_FOUND", "message": exc.message}
        return JSONResponse({**body, "manifest_exists": False, "archive_exists": False}, 404)
    found = inspect_release(server.data_dir, release)
    reply = {
        "ok": True,
        "path": release.name,
        "manifest_exists": found.manifest_exists,
        "archive_exists": found.archive_exists,
        "archive_name": release.archive_name,
        "sha256_match": found.sha256_match,
        "manifest": found.manifest,
        "changelog": found.changelog,
        "manifest_url": file_url(request, server, release.name, MANIFEST),
        "archive_url": file_url(request, server, release.name, release.archive_name),
        "signature": release.signature,
    }
    return reply | ({"missing_files": found.missing} if found.missing else {})


def _names_of(request: Request) -> tuple[str, str, str]:
    """Return type, distribution and version of the query. Raises: InvalidInput."""
    return (
        check_name(need_text(request, "device_type"), "device_type"),
        check_name(need_text(request, "distribution"), "distribution"),
        check_version(need_text(request, "version")),
    )


@router.get("/api/admin/updates/verify-all", **describe_admin(FaultsReply))
def verify_all(request: Request, principal: Viewer) -> dict[str, Any]:
    """Hash every release and look for what lies in the tree without a record."""
    server = server_of(request)
    with server.database.read() as connection:
        faults = find_faults(server.data_dir, connection)
    return {"ok": True, "intact": not faults, "faults": faults}


_LIST_QUERY = {
    "device_type": _NAMED["device_type"],
    "distribution": _NAMED["distribution"],
    "page": {"type": "integer", "minimum": 1, "default": 1},
    "page_size": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
}


@router.get("/api/admin/updates/releases", **describe_admin(ReleasesReply, query=_LIST_QUERY))
def get_releases(request: Request, principal: Viewer) -> dict[str, Any]:
    """List releases, newest publication first."""
    server = server_of(request)
    page, size = query_int(request, "page", 1, 1, 10**9), query_int(request, "page_size", 50, 1, 1000)
    with server.database.read() as connection:
        found = list_releases(
            connection,
            device_type=query_text(request, "device_type"),
            distribution=query_text(request, "distribution"),
        )
        current = {(row.device_type, row.distribution): row.version for row in connection.execute(_CURRENT)}
    if principal.device_types is not None:
        found = [release for release in found if release.device_type in principal.device_types]
    shown = found[(page - 1) * size : page * size]
    return {"ok": True, "items": [_item(release, current) for release in shown], "total": len(found)}


_CURRENT = sa.select(current_releases)


def _item(release: Release, current: dict[tuple[str, str], str]) -> dict[str, Any]:
    return {
        "device_type": release.device_type,
        "distribution": release.distribution,
        "version": release.version,
        "archive_name": release.archive_name,
        "size_bytes": release.size_bytes,
        "sha256": release.sha256,
        "signature": release.signature,
        "notes": release.notes,
        "author": release.author,
        "published_at": wire_text(release.published_at_ms),
        "current": current.get((release.device_type, release.distribution)) == release.version,
    }


_TYPES_QUERY = {"format": {"type": "string", "enum": ["object", "list"]}}


@router.get("/api/admin/updates/device-types", **describe_admin(AdminReply, query=_TYPES_QUERY))
def get_device_types(request: Request, principal: ReleaseReader) -> dict[str, Any]:
    """Show types, distributions and latest versions; `?format=list` gives `name -> [distributions]` (D-DTSHAPE).

    The latest version is what devices that know nothing of channels should install: the target of the channel
    `default` where there is an active one, so that they follow a rollout at its end, else the current release.
    """
    with server_of(request).database.read() as connection:
        found = list_releases(connection)
        latest = {(row.device_type, row.distribution): row.version for row in connection.execute(_CURRENT)}
        latest |= {(row.device_type, row.distribution): row.target_version for row in connection.execute(_DEFAULTS)}
    types: dict[str, dict[str, Any]] = {}
    for release in sorted(found, key=lambda one: (one.device_type, one.distribution)):
        entry = types.setdefault(release.device_type, {"distributions": [], "latest_versions": {}})
        if release.distribution not in entry["distributions"]:
            entry["distributions"].append(release.distribution)
            entry["latest_versions"][release.distribution] = latest.get(
                (release.device_type, release.distribution), release.version
            )
    as_list = request.query_params.get("format") == "list"
    shown = {name: entry["distributions"] for name, entry in types.items()} if as_list else types
    return {"ok": True, "device_types": shown, "total_types": len(types), "total_versions": len(found)}


_DEFAULTS = sa.select(update_channels).where(update_channels.c.channel == "default", update_channels.c.active)
_VERSIONS_QUERY = {
    "device_type": _NAMED["device_type"],
    "distribution": _NAMED["distribution"],
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20},
}


@router.get("/api/admin/updates/versions", **describe_admin(VersionsReply, 404, query=_VERSIONS_QUERY))
def get_versions(request: Request, principal: ReleaseReader) -> dict[str, Any]:
    """List the versions of a distribution, newest first."""
    device_type, distribution = need_text(request, "device_type"), need_text(request, "distribution")
    limit = query_int(request, "limit", 20, 1, 1000)
    with server_of(request).database.read() as connection:
        versions = list_versions(connection, device_type, distribution)
    if not versions:
        raise NotFound("No versions found", hint="meetingctl fleet releases list")
    named = {"device_type": device_type, "distribution": distribution}
    return {"ok": True, **named, "versions": versions[:limit], "total": len(versions)}


_FILE_RESPONSES = {
    200: {"content": {"application/octet-stream": {}}, "description": "The file"},
    206: {"content": {"application/octet-stream": {}}, "description": "A part of the file"},
    304: {"description": "The client has it"},
    416: {"description": "No such range"},
}


def _describe_file(query: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    described = describe_admin(None, 404, query=query)
    described["responses"] |= _FILE_RESPONSES
    return described


@router.head("/api/admin/updates/download", include_in_schema=False)
@router.get("/api/admin/updates/download", **_describe_file(_NAMED))
def download(request: Request, principal: ReleaseReader) -> Response:
    """Send the archive of a release, whole or in ranges."""
    server = server_of(request)
    names = _names_of(request)
    with server.database.read() as connection:
        release = get_release(connection, *names)
    path = release_folder(server.data_dir, *names) / release.archive_name
    public = server.settings.updates_public_read
    return send_file(request, path, sha256=release.sha256, media_type="application/octet-stream", public=public)


_NOTES_QUERY = dict(_NAMED)


@router.get("/api/admin/updates/release-notes", **describe_admin(NotesReply, 404, query=_NOTES_QUERY))
def get_release_notes(request: Request, principal: ReleaseReader) -> dict[str, Any]:
    """Show the notes of a version, of the newest one when none is named."""
    server = server_of(request)
    device_type = need_text(request, "device_type")
    distribution, version = query_text(request, "distribution"), query_text(request, "version")
    with server.database.read() as connection:
        found = list_releases(connection, device_type=device_type, distribution=distribution)
        if version is None and distribution is not None:
            version = current_version(connection, device_type, distribution)
    if version is None and found:
        version = newest_first(release.version for release in found)[0]
    release = next((one for one in found if one.version == version), None)
    if release is None:
        raise NotFound("Release not found", hint="meetingctl fleet releases list")
    changelog = inspect_text(server, release)
    return {"ok": True, "release_notes": release.notes or changelog or ""}


def inspect_text(server: ServerState, release: Release) -> str | None:
    """Return the text of CHANGELOG.md, None when there is none."""
    from meetingctl.server.updates.releases import read_file

    try:
        folder = release_folder(server.data_dir, release.device_type, release.distribution, release.version)
        return read_file(folder / CHANGELOG).decode(errors="replace")
    except (OSError, MeetingctlError):
        return None


_PUBLISHED = describe_admin(None, 404, query={"expires": {"type": "integer"}, "signature": {"type": "string"}})
_PUBLISHED["responses"] = {**_describe_file()["responses"]}


@router.head("/published/{device_type}/{distribution}/{version}/{file}", include_in_schema=False)
@router.get("/published/{device_type}/{distribution}/{version}/{file}", **_PUBLISHED)
async def get_published(request: Request, device_type: str, distribution: str, version: str, file: str) -> Response:
    """Send a published file: manifest.json, manifest.sig, CHANGELOG.md or the archive."""
    from meetingctl.server.updates.http import _check_reader

    server = server_of(request)
    query = request.query_params
    is_invited = is_signed(server.data_dir, request.url.path, query.get("expires", ""), query.get("signature", ""))
    if not is_invited:
        await _check_reader(request)
    return await run_in_threadpool(_send_published, request, (device_type, distribution, version), file)


def _send_published(request: Request, names: tuple[str, str, str], file: str) -> Response:
    """Raises: NotFound for a name that is no file of a published release, whatever it looks like."""
    server = server_of(request)
    if not all(map(is_name, (*names, file))):
        raise NotYours("Not found")
    try:
        with server.database.read() as connection:
            release = get_release(connection, *names)
        if file not in (MANIFEST, SIGNATURE, CHANGELOG, release.archive_name):
            raise NotFound("Not found")
        folder = release_folder(server.data_dir, *names)
    except (NotFound, InvalidInput):
        raise NotFound("Not found") from None
    sha256 = release.sha256 if file == release.archive_name else None
    return send_file(request, folder / file, sha256=sha256, public=server.settings.updates_public_read)
