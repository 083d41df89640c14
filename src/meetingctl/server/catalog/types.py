"""The table of device types: create, change, fork, merge, delete. Operations of the group writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.catalog import tree
from meetingctl.server.catalog.fields import fold_name
from meetingctl.server.db.schema import device_types
from meetingctl.server.devices.store import move_devices

_COPIED = (
    "serial_prefix",
    "platform",
    "services_default",
    "description",
    "icon_path",
    "tags",
    "default_distribution",
)


def list_types(connection: sa.Connection) -> list[sa.RowMapping]:
    """Return the types that are not deleted, oldest first."""
    query = sa.select(device_types).where(device_types.c.status != "deleted").order_by(device_types.c.id)
    return list(connection.execute(query).mappings())


def serial_prefix_of(connection: sa.Connection, device_type: str) -> str:
    """Return what the serial numbers of a type begin with: what the table says, else the name of the type."""
    query = sa.select(device_types.c.serial_prefix).where(device_types.c.live_name == fold_name(device_type))
    return str(connection.execute(query).scalar() or device_type)


def find_unknown(data_dir: Path, connection: sa.Connection, device_type: str, distribution: str) -> str | None:
    """Say what of a place is neither in the table nor a folder of files; None when both are known."""
    folders = tree.list_types(data_dir)
    query = sa.select(device_types.c.id).where(device_types.c.live_name == fold_name(device_type))
    if device_type not in folders and connection.execute(query).first() is None:
        return f"unknown device type {device_type}"
    if device_type not in folders or distribution not in tree.list_distributions(data_dir, device_type):
        return f"unknown distribution {device_type}/{distribution}"
    return None


def get_type(connection: sa.Connection, type_id: int) -> sa.RowMapping:
    """Return a type. Raises: NotFound, also for deleted ones."""
    query = sa.select(device_types).where(device_types.c.id == type_id, device_types.c.status != "deleted")
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("Device type not found", hint="meetingctl fleet types list")
    return row


def create_type(connection: sa.Connection, actor: Actor, fields: Mapping[str, Any]) -> int:
    """Add a type; return its number. Raises: Conflict, InvalidInput for an unknown parent."""
    return _insert(connection, actor, fields, "device-type.create")


def change_type(connection: sa.Connection, actor: Actor, type_id: int, fields: Mapping[str, Any]) -> None:
    """Change what is given. Raises: NotFound, Conflict, InvalidInput for a parent that is unknown or below it."""
    row = get_type(connection, type_id)
    values = dict(fields)
    if "name" in values:
        _check_free(connection, values["name"], type_id)
        values["live_name"] = fold_name(values["name"])
    if "parent_id" in values:
        _check_parent(connection, values["parent_id"], type_id)
    change = device_types.update().where(device_types.c.id == type_id)
    connection.execute(change.values(**values, updated_at_ms=now_ms()))
    before = {key: row[key] for key in fields}
    append(connection, actor, "device-type.change", f"device-type:{type_id}", before=before, after=fields)


def fork_type(connection: sa.Connection, actor: Actor, type_id: int, fields: Mapping[str, Any]) -> int:
    """Copy a type under a new name, with the original as its parent. Raises: NotFound, Conflict."""
    row = get_type(connection, type_id)
    copied = {key: row[key] for key in _COPIED}
    return _insert(connection, actor, {**copied, **fields, "parent_id": type_id}, "device-type.fork")


def merge_type(connection: sa.Connection, actor: Actor, type_id: int) -> int:
    """Give a fork's fields and devices to its parent, and delete the fork; return how many devices moved.

    The parent keeps its name, because releases and folders carry it. Raises: NotFound, InvalidInput.
    """
    row = get_type(connection, type_id)
    if row["parent_id"] is None:
        raise InvalidInput("Device type has no parent")
    try:
        parent = get_type(connection, row["parent_id"])
    except NotFound:
        raise InvalidInput("Device type has no parent") from None
    taken = {key: row[key] for key in _COPIED}
    change = device_types.update().where(device_types.c.id == parent["id"])
    connection.execute(change.values(**taken, updated_at_ms=now_ms()))
    moved = move_devices(connection, row["name"], parent["name"])
    _mark_deleted(connection, type_id)
    before = {key: parent[key] for key in _COPIED}
    after = {**taken, "fork": row["name"], "devices": moved}
    append(connection, actor, "device-type.merge", f"device-type:{parent['id']}", before=before, after=after)
    return moved


def delete_type(connection: sa.Connection, actor: Actor, type_id: int) -> None:
    """Mark a type as deleted; its name is free again. Raises: NotFound."""
    row = get_type(connection, type_id)
    _mark_deleted(connection, type_id)
    append(connection, actor, "device-type.delete", f"device-type:{type_id}", before={"name": row["name"]})


def type_object(row: sa.RowMapping) -> dict[str, Any]:
    """Return a type as the contract shows it."""
    shown: dict[str, Any] = {
        key: row[key]
        for key in (
            "id",
            "name",
            "serial_prefix",
            "platform",
            "services_default",
            "description",
            "icon_path",
            "tags",
            "default_distribution",
            "parent_id",
            "status",
        )
    }
    return shown | {"created_at": wire_text(row["created_at_ms"]), "updated_at": wire_text(row["updated_at_ms"])}


def _insert(connection: sa.Connection, actor: Actor, fields: Mapping[str, Any], action: str) -> int:
    _check_free(connection, fields["name"], None)
    if fields.get("parent_id") is not None:
        _check_parent(connection, fields["parent_id"], None)
    at_ms = now_ms()
    values = {"services_default": [], "tags": [], **fields, "live_name": fold_name(fields["name"]), "status": "active"}
    insert = device_types.insert().values(**values, created_at_ms=at_ms, updated_at_ms=at_ms)
    type_id = int(connection.execute(insert.returning(device_types.c.id)).scalar_one())
    append(connection, actor, action, f"device-type:{type_id}", after=fields)
    return type_id


def _check_free(connection: sa.Connection, name: str, own_id: int | None) -> None:
    query = sa.select(device_types.c.id).where(device_types.c.live_name == fold_name(name))
    if connection.execute(query).scalar() not in (None, own_id):
        raise Conflict("Device type already exists", hint="choose another name")


def _check_parent(connection: sa.Connection, parent_id: int, own_id: int | None) -> None:
    """Raises: InvalidInput when the parent is unknown, deleted, the type itself or one of its descendants."""
    seen: set[int] = set()
    above: int | None = parent_id
    while above is not None and above not in seen:
        if above == own_id:
            raise InvalidInput("Invalid parent_id", hint="a type cannot be below itself")
        seen.add(above)
        query = sa.select(device_types.c.parent_id, device_types.c.status).where(device_types.c.id == above)
        row = connection.execute(query).first()
        if above == parent_id and (row is None or row.status == "deleted"):
            raise InvalidInput("Invalid parent_id", hint="meetingctl fleet types list")
        above = row.parent_id if row else None


def _mark_deleted(connection: sa.Connection, type_id: int) -> None:
    change = device_types.update().where(device_types.c.id == type_id)
    connection.execute(change.values(status="deleted", live_name=None, updated_at_ms=now_ms()))
