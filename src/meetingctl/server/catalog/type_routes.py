"""The table of device types over HTTP (contract section 5.10)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from meetingctl.core.errors import InvalidInput
from meetingctl.server.catalog import types
from meetingctl.server.catalog.fields import parse_fields
from meetingctl.server.catalog.icons import ICON_CAP_BYTES, ICONS, keep_icon, read_icon
from meetingctl.server.catalog.orphans import sweep_icons
from meetingctl.server.catalog.room import room_bytes
from meetingctl.server.http import SuccessReply, actor_of, describe, need, read_json, server_of
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.updates.channel_routes import parse_id
from meetingctl.server.uploads import UploadedFile, receive_upload

router = APIRouter(tags=["catalog"])

Viewer = Annotated[Principal, need(Role.VIEWER, limits="both")]
Admin = Annotated[Principal, need(Role.ADMIN)]
TypeId = Annotated[str, Path(alias="id")]

_TEXT = {"type": "string"}
_FIELDS = {
    "name": _TEXT,
    "serial_prefix": _TEXT,
    "platform": _TEXT,
    "services_default": {"type": "array", "items": _TEXT},
    "description": _TEXT,
    "tags": {"type": "array", "items": _TEXT},
    "default_distribution": _TEXT,
    "parent_id": {"type": "integer"},
}


class TypeItem(BaseModel):
    id: int
    name: str
    serial_prefix: str
    platform: str | None
    services_default: list[str]
    description: str | None
    icon_path: str | None
    tags: list[str]
    default_distribution: str | None
    parent_id: int | None
    status: str
    created_at: str
    updated_at: str


class TypesReply(BaseModel):
    device_types: list[TypeItem]


class CreatedReply(SuccessReply):
    id: int


def _describe(reply: Any, *errors: int, required: tuple[str, ...] = (), with_status: bool = False) -> dict[str, Any]:
    """Describe a route that takes JSON, a form, or a form with an icon."""
    properties: dict[str, Any] = {**_FIELDS, **({"status": {"enum": ["active", "inactive"]}} if with_status else {})}
    plain = {"schema": {"type": "object", "required": list(required), "properties": properties}}
    icon = {"type": "string", "format": "binary"}
    with_icon = {"schema": {"type": "object", "required": list(required), "properties": {**properties, "icon": icon}}}
    content = {
        "application/json": plain,
        "application/x-www-form-urlencoded": plain,
        "multipart/form-data": with_icon,
    }
    return describe(reply, *errors, 415, 507) | {"openapi_extra": {"requestBody": {"content": content}}}


@contextlib.asynccontextmanager
async def _form_of(request: Request) -> AsyncIterator[tuple[dict[str, Any], UploadedFile | None]]:
    """Read the fields and the icon, whatever of the three content types. Raises: InvalidInput, TooLarge."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        state = server_of(request)
        room = await run_in_threadpool(room_bytes, state)
        caps = {"icon": ICON_CAP_BYTES}
        async with receive_upload(request, state.data_dir / ICONS, file_fields=caps, room_bytes=room) as form:
            yield dict(form.fields), form.files.get("icon")
        return
    body = await request.body()
    if content_type == "application/x-www-form-urlencoded" and not body.lstrip().startswith(b"{"):
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=50)
        except ValueError:
            raise InvalidInput("Invalid form") from None
        yield dict(pairs), None
        return
    yield await read_json(request), None


@router.get("/api/device-types", **describe(TypesReply))
def list_types(request: Request, principal: Viewer) -> dict[str, Any]:
    """List the device types of the table."""
    with server_of(request).database.read() as connection:
        return {"device_types": [types.type_object(row) for row in types.list_types(connection)]}


@router.get("/api/device-types/{id}/icon", **describe(None, 404))
def get_icon(request: Request, type_id: TypeId, principal: Viewer) -> Response:
    """Return the icon of a type."""
    state = server_of(request)
    with state.database.read() as connection:
        icon_path = types.get_type(connection, parse_id(type_id))["icon_path"]
    content, media_type = read_icon(state.data_dir, icon_path)
    return Response(content, media_type=media_type, headers={"content-security-policy": "default-src 'none'"})


_NEW = ("name", "serial_prefix")


@router.post("/api/device-types", **_describe(CreatedReply, 409, required=_NEW))
async def create_type(request: Request, principal: Admin) -> dict[str, Any]:
    """Create a device type; this makes no folder (decision D-TYPES)."""
    async with _form_of(request) as (raw, icon):
        fields = parse_fields(raw, is_new=True)
        return {
            "success": True,
            "id": await run_in_threadpool(_write, request, principal, fields, icon, types.create_type),
        }


@router.put("/api/device-types/{id}", **_describe(SuccessReply, 404, 409, with_status=True))
async def change_type(request: Request, type_id: TypeId, principal: Admin) -> dict[str, Any]:
    """Change the fields that are given."""
    number = parse_id(type_id)
    async with _form_of(request) as (raw, icon):
        fields = parse_fields(raw, is_new=False, with_status=True)
        if not fields and icon is None:
            raise InvalidInput("Nothing to update")

        def change(connection: sa.Connection, actor: Any, values: dict[str, Any]) -> None:
            types.change_type(connection, actor, number, values)

        await run_in_threadpool(_write, request, principal, fields, icon, change)
    return {"success": True}


@router.post("/api/device-types/{id}/fork", **_describe(CreatedReply, 404, 409, required=_NEW))
async def fork_type(request: Request, type_id: TypeId, principal: Admin) -> dict[str, Any]:
    """Copy a type under a new name."""
    number = parse_id(type_id)
    async with _form_of(request) as (raw, icon):
        fields = parse_fields(raw, is_new=True)

        def change(connection: sa.Connection, actor: Any, values: dict[str, Any]) -> int:
            return types.fork_type(connection, actor, number, values)

        return {"success": True, "id": await run_in_threadpool(_write, request, principal, fields, icon, change)}


@router.post("/api/device-types/{id}/merge", **describe(SuccessReply, 404))
def merge_type(request: Request, type_id: TypeId, principal: Admin) -> dict[str, Any]:
    """Give a fork's fields and devices to its parent; the fork is deleted."""
    number, actor = parse_id(type_id), actor_of(request, principal)
    server_of(request).writer.run(lambda connection: types.merge_type(connection, actor, number))
    return {"success": True}


@router.delete("/api/device-types/{id}", **describe(SuccessReply, 404))
def delete_type(request: Request, type_id: TypeId, principal: Admin) -> dict[str, Any]:
    """Mark a type as deleted."""
    number, actor = parse_id(type_id), actor_of(request, principal)
    server_of(request).writer.run(lambda connection: types.delete_type(connection, actor, number))
    return {"success": True}


def _write(
    request: Request, principal: Principal, fields: dict[str, Any], icon: UploadedFile | None, change: Any
) -> Any:
    """Keep the icon, write the row, and remove icons that no type shows any more."""
    state, actor = server_of(request), actor_of(request, principal)
    values = fields | ({"icon_path": keep_icon(state.data_dir, icon)} if icon is not None else {})
    done = state.writer.run(lambda connection: change(connection, actor, values))
    if icon is not None:
        with state.database.read() as connection:
            sweep_icons(state.data_dir, connection)
    return done
