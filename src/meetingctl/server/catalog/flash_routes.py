"""The storage tree over HTTP (contract sections 5.3 and 5.7)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AliasChoices, BaseModel, Field
from starlette.concurrency import run_in_threadpool

from meetingctl.core.errors import InvalidInput, NotFound
from meetingctl.server.catalog import tree
from meetingctl.server.catalog.room import room_bytes
from meetingctl.server.devices.store import get_device
from meetingctl.server.http import (
    Body,
    SuccessReply,
    Text,
    actor_of,
    body_of,
    describe,
    need,
    server_of,
    with_error,
)
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.updates.http import check_type
from meetingctl.server.uploads import receive_upload

router = APIRouter(tags=["catalog"])

Viewer = Annotated[Principal, need(Role.VIEWER, limits="both")]
ViewerOrDevice = Annotated[Principal, need(Role.VIEWER, device=True)]
Operator = Annotated[Principal, need(Role.OPERATOR, limits="types")]
Admin = Annotated[Principal, need(Role.ADMIN, limits="types")]

_MIB = 1024**2
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["devicetype", "distribution", "file"],
                    "properties": {
                        "devicetype": {"type": "string"},
                        "distribution": {"type": "string"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        }
    }
}
_ANY_JSON: dict[str, Any] = {"requestBody": {"content": {"application/json": {"schema": {}}}}}


class TypesReply(BaseModel):
    device_types: list[str]


class DistributionsReply(BaseModel):
    distributions: list[str]


class FilesReply(BaseModel):
    devicetype: str
    distribution: str
    files: list[str]


class UploadReply(SuccessReply):
    file: str


class TypeBody(Body):
    """Both spellings are read (decision D-CASE)."""

    devicetype: Text = Field(
        validation_alias=AliasChoices("devicetype", "device_type"), json_schema_extra={"error": "Invalid device type"}
    )


class TypeReply(SuccessReply):
    devicetype: str


class DistributionBody(Body):
    devicetype: Text = Field(
        validation_alias=AliasChoices("devicetype", "device_type"),
        json_schema_extra={"error": "Invalid device type or distribution"},
    )
    distribution: Text = with_error("Invalid device type or distribution")


class DistributionReply(TypeReply):
    distribution: str


def _documented(described: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    return described | {"openapi_extra": extra}


def _place_of(request: Request, device_key: str) -> tuple[str | None, str | None]:
    """Return device type and distribution of a device. Raises: NotFound."""
    with server_of(request).database.read() as connection:
        row = get_device(connection, device_key)
    return row["device_type"], row["distribution"]


@router.get("/api/devices/device-types", **describe(TypesReply))
@router.get("/api/flash/device-types", **describe(TypesReply))
def list_types(request: Request, principal: Viewer) -> dict[str, Any]:
    """List the device types that have a folder in the storage tree."""
    return {"device_types": tree.list_types(server_of(request).data_dir)}


@router.get("/api/devices/device-types/{device_type}/distributions", **describe(DistributionsReply, 404))
@router.get("/api/flash/{device_type}/distributions", **describe(DistributionsReply, 404))
def list_distributions(request: Request, device_type: str, principal: Viewer) -> dict[str, Any]:
    """List the distributions of a type."""
    return {"distributions": tree.list_distributions(server_of(request).data_dir, device_type)}


@router.get("/api/flash/{device_key}/distribution-files", **describe(FilesReply, 404))
def list_files(request: Request, device_key: str, principal: ViewerOrDevice) -> dict[str, Any]:
    """List the files of a device's distribution."""
    device_type, distribution = _place_of(request, device_key)
    if not device_type or not distribution:
        raise InvalidInput("Device has no device type or distribution")
    files = tree.list_files(server_of(request).data_dir, device_type, distribution)
    return {"devicetype": device_type, "distribution": distribution, "files": files}


@router.get("/api/devices/{device_key}/distrib-json", **describe(None, 404))
def get_distrib_json(request: Request, device_key: str, principal: ViewerOrDevice) -> Response:
    """Return distrib.json of a device's distribution, as stored."""
    device_type, distribution = _place_of(request, device_key)
    if not device_type or not distribution:
        raise NotFound("Distribution not found")
    content = tree.read_distrib_json(server_of(request).data_dir, device_type, distribution)
    return Response(content, media_type="application/json")


@router.put("/api/devices/{device_key}/distrib-json", **_documented(describe(SuccessReply, 404, 415), _ANY_JSON))
async def put_distrib_json(request: Request, device_key: str, principal: Operator) -> dict[str, Any]:
    """Replace distrib.json of a device's distribution; any JSON, at most 256 KiB."""
    content = await request.body()
    await run_in_threadpool(_write_distrib_json, request, principal, device_key, content)
    return {"success": True}


def _write_distrib_json(request: Request, principal: Principal, device_key: str, content: bytes) -> None:
    device_type, distribution = _place_of(request, device_key)
    if not device_type or not distribution:
        raise NotFound("Distribution not found")
    check_type(principal, device_type)
    tree.write_distrib_json(server_of(request), actor_of(request, principal), device_type, distribution, content)


@router.post("/api/flash/upload", **_documented(describe(UploadReply, 404, 415, 500, 507), _UPLOAD))
async def upload(request: Request, principal: Operator) -> dict[str, Any]:
    """Upload a file into a distribution, over the one of that name (decision D-OVERWRITE)."""
    state = server_of(request)
    caps = {"file": state.settings.flash_file_max_mib * _MIB}
    room = await run_in_threadpool(room_bytes, state)
    folder = tree.storage_root(state.data_dir) / tree.INCOMING
    async with receive_upload(request, folder, file_fields=caps, room_bytes=room) as form:
        if "file" not in form.files:
            raise InvalidInput("Missing file")
        device_type = form.fields.get("devicetype") or form.fields.get("device_type")
        distribution = form.fields.get("distribution")
        if not device_type or not distribution:
            raise InvalidInput("Missing devicetype or distribution")
        check_type(principal, device_type)
        file, actor = form.files["file"], actor_of(request, principal)
        await run_in_threadpool(tree.place_file, state, actor, device_type, distribution, file)
    return {"success": True, "file": file.filename}


@router.post("/api/flash/create-type", **describe(TypeReply, 409, 500, body=TypeBody))
def create_type(
    request: Request, principal: Operator, body: Annotated[TypeBody, Depends(body_of(TypeBody))]
) -> dict[str, Any]:
    """Create the folder of a device type."""
    check_type(principal, body.devicetype)
    tree.create_type(server_of(request), actor_of(request, principal), body.devicetype)
    return {"success": True, "devicetype": body.devicetype}


@router.post("/api/flash/create-distribution", **describe(DistributionReply, 404, 409, 500, body=DistributionBody))
def create_distribution(
    request: Request, principal: Operator, body: Annotated[DistributionBody, Depends(body_of(DistributionBody))]
) -> dict[str, Any]:
    """Create the folder of a distribution."""
    check_type(principal, body.devicetype)
    tree.create_distribution(server_of(request), actor_of(request, principal), body.devicetype, body.distribution)
    return {"success": True, "devicetype": body.devicetype, "distribution": body.distribution}


@router.delete("/api/flash/{device_type}/{distribution}/{filename}", **describe(SuccessReply, 404, 500))
def delete_file(
    request: Request, device_type: str, distribution: str, filename: str, principal: Admin
) -> dict[str, Any]:
    """Delete a file of a distribution."""
    check_type(principal, device_type)
    tree.delete_file(server_of(request), actor_of(request, principal), device_type, distribution, filename)
    return {"success": True}
