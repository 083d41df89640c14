"""Update channels (contract family C)."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from meetingctl.core.clock import wire_text
from meetingctl.core.errors import InvalidInput
from meetingctl.core.versions import check_name, check_version
from meetingctl.server.db.schema import update_channels
from meetingctl.server.http import MAX_INT, Bit, Body, Text, actor_of, body_of, query_int, server_of
from meetingctl.server.updates import channels
from meetingctl.server.updates.http import AdminReply, ChannelEditor, Viewer, check_type, describe_admin, query_text
from meetingctl.server.updates.verify import artifacts_status

router = APIRouter(tags=["updates"])

RowId = Annotated[str, Path(alias="id")]

_QUERY = {
    "page": {"type": "integer", "minimum": 1, "default": 1},
    "page_size": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000},
    "active": {"type": "integer", "enum": [0, 1]},
    "device_type": {"type": "string", "maxLength": 128},
}


class ChannelItem(BaseModel):
    id: int
    device_type: str
    distribution: str
    channel: str
    target_version: str
    active: int
    artifacts_status: str
    created_at: str
    updated_at: str


class ChannelReply(AdminReply):
    item: ChannelItem


class ChannelMadeReply(ChannelReply):
    id: int


class ChannelsReply(AdminReply):
    items: list[ChannelItem]
    total: int
    page: int
    page_size: int


class ChannelBody(Body):
    device_type: Text
    distribution: Text
    channel: Text
    target_version: Text
    active: Bit = True


class ChannelChange(Body):
    device_type: Text | None = None
    distribution: Text | None = None
    channel: Text | None = None
    target_version: Text | None = None
    active: Bit | None = Field(default=None)


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """Check the names that are there. Raises: InvalidInput."""
    for name in ("device_type", "distribution", "channel"):
        if values.get(name) is not None:
            check_name(values[name], name)
    if values.get("target_version") is not None:
        check_version(values["target_version"])
    return {name: value for name, value in values.items() if value is not None}


def _shown(request: Request, connection: sa.Connection, row: sa.RowMapping) -> dict[str, Any]:
    names = (row["device_type"], row["distribution"], row["target_version"])
    return {
        "id": row["id"],
        "device_type": row["device_type"],
        "distribution": row["distribution"],
        "channel": row["channel"],
        "target_version": row["target_version"],
        "active": int(row["active"]),
        "artifacts_status": artifacts_status(server_of(request).data_dir, connection, *names),
        "created_at": wire_text(row["created_at_ms"]),
        "updated_at": wire_text(row["updated_at_ms"]),
    }


@router.get("/api/admin/update-channels", **describe_admin(ChannelsReply, query=_QUERY))
def list_channels(request: Request, principal: Viewer) -> dict[str, Any]:
    """List channels, oldest first."""
    page, size = query_int(request, "page", 1, 1, 10**9), query_int(request, "page_size", 1000, 1, 1000)
    where: list[sa.ColumnElement[bool]] = []
    active, device_type = query_text(request, "active"), query_text(request, "device_type")
    if active is not None:
        if active not in ("0", "1"):
            raise InvalidInput("Invalid active")
        where.append(update_channels.c.active.is_(active == "1"))
    if device_type is not None:
        where.append(update_channels.c.device_type == device_type)
    if principal.device_types is not None:
        where.append(update_channels.c.device_type.in_(sorted(principal.device_types)))
    with server_of(request).database.read() as connection:
        rows, total = channels.list_channels(connection, where=where, limit=size, offset=(page - 1) * size)
        items = [_shown(request, connection, row) for row in rows]
    return {"ok": True, "items": items, "total": total, "page": page, "page_size": size}


_UPSERT = {"upsert": {"type": "integer", "enum": [0, 1]}}


@router.post("/api/admin/update-channels", **describe_admin(ChannelMadeReply, 409, body=ChannelBody, query=_UPSERT))
def create_channel(
    request: Request, principal: ChannelEditor, body: Annotated[ChannelBody, Depends(body_of(ChannelBody))]
) -> dict[str, Any]:
    """Create a channel; `?upsert=1` changes one that is there (decision D-UPSERT)."""
    check_type(principal, body.device_type)
    values, actor = checked(body.model_dump()), actor_of(request, principal)
    upsert = request.query_params.get("upsert") in ("1", "true")

    def change(connection: sa.Connection) -> dict[str, Any]:
        row = channels.create_channel(connection, actor, values, upsert=upsert)
        return _shown(request, connection, row)

    item = server_of(request).writer.run(change)
    return {"ok": True, "id": item["id"], "item": item}


@router.put("/api/admin/update-channels/{id}", **describe_admin(ChannelReply, 404, 409, body=ChannelChange))
def change_channel(
    request: Request,
    channel_id: RowId,
    principal: ChannelEditor,
    body: Annotated[ChannelChange, Depends(body_of(ChannelChange))],
) -> dict[str, Any]:
    """Change what is named in the body."""
    values, actor, number = checked(body.model_dump()), actor_of(request, principal), parse_id(channel_id)

    def change(connection: sa.Connection) -> dict[str, Any]:
        check_type(principal, channels.get_channel(connection, number)["device_type"])
        check_type(principal, values.get("device_type", channels.get_channel(connection, number)["device_type"]))
        row = channels.change_channel(connection, actor, number, values)
        return _shown(request, connection, row)

    return {"ok": True, "item": server_of(request).writer.run(change)}


@router.delete("/api/admin/update-channels/{id}", **describe_admin(AdminReply, 404, 409))
def delete_channel(request: Request, channel_id: RowId, principal: ChannelEditor) -> dict[str, Any]:
    """Delete a channel; its devices have no target then."""
    actor, number = actor_of(request, principal), parse_id(channel_id)

    def change(connection: sa.Connection) -> None:
        check_type(principal, channels.get_channel(connection, number)["device_type"])
        channels.delete_channel(connection, actor, number)

    server_of(request).writer.run(change)
    return {"ok": True}


def parse_id(text: str) -> int:
    """Read the number of a row. Raises: InvalidInput."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > MAX_INT:
        raise InvalidInput("Invalid id")
    return int(text)
