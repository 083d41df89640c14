"""Queries and changes of the device registry. Each takes a connection and runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from meetingctl.core.ids import DeviceKey
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import connection_logs, device_tags, devices, presence
from meetingctl.server.devices.model import new_device_secrets, new_serial

_parent = devices.alias("parent")
_JOINED = devices.outerjoin(presence, presence.c.device_id == devices.c.id).outerjoin(
    _parent, _parent.c.id == devices.c.parent_id
)
_FULL = sa.select(
    devices,
    _parent.c.device_key.label("parent_device_key"),
    *(column for column in presence.c if column.name != "device_id"),
).select_from(_JOINED)
_HIGHEST = "\U0010ffff"


def get_device(connection: sa.Connection, device_key: str) -> sa.RowMapping:
    """Return the whole record. Raises: NotFound."""
    row = connection.execute(_FULL.where(devices.c.device_key == device_key)).mappings().first()
    if row is None:
        raise NotFound("Device not found", hint="meetingctl fleet list")
    return row


@dataclass(frozen=True, slots=True)
class Choice:
    """Which devices a list holds: keys that begin so, and what a caller asks for or is limited to; None is all."""

    prefix: str = ""
    tag: str | None = None
    allowed_types: frozenset[str] | None = None
    allowed_tags: frozenset[str] | None = None

    def clause(self) -> sa.ColumnElement[bool]:
        """Return the condition on `devices`."""
        folded = self.prefix.lower()
        parts = [devices.c.key_fold >= folded, devices.c.key_fold < folded + _HIGHEST] if folded else []
        if self.tag is not None:
            parts.append(has_any_tag([self.tag]))
        if self.allowed_tags is not None:
            parts.append(has_any_tag(self.allowed_tags))
        if self.allowed_types is not None:
            parts.append(devices.c.device_type.in_(sorted(self.allowed_types)))
        return sa.and_(sa.true(), *parts)


def has_any_tag(tags: Iterable[str]) -> sa.ColumnElement[bool]:
    """Return the condition that a device has at least one of these tags."""
    return devices.c.id.in_(sa.select(device_tags.c.device_id).where(device_tags.c.tag.in_(sorted(tags))))


def list_devices(connection: sa.Connection, choice: Choice, *, limit: int, offset: int) -> Sequence[sa.RowMapping]:
    """Return a page in the order of the folded key."""
    query = _FULL.where(choice.clause()).order_by(devices.c.key_fold).limit(limit).offset(offset)
    return connection.execute(query).mappings().all()


def count_devices(connection: sa.Connection, choice: Choice) -> int:
    """Count the devices that a list without paging would hold."""
    return connection.execute(sa.select(sa.func.count()).select_from(devices).where(choice.clause())).scalar_one()


def tags_of(connection: sa.Connection, device_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the tags of devices, in order; devices without tags are absent."""
    query = sa.select(device_tags).where(device_tags.c.device_id.in_(device_ids)).order_by(device_tags.c.tag)
    found: dict[int, list[str]] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(row["device_id"], []).append(row["tag"])
    return found


def set_tags(connection: sa.Connection, actor: Actor, device_key: str, tags: Sequence[str]) -> None:
    """Give a device exactly these tags. Raises: NotFound."""
    device_id = get_device(connection, device_key)["id"]
    before = {"tags": tags_of(connection, [device_id]).get(device_id, [])}
    connection.execute(device_tags.delete().where(device_tags.c.device_id == device_id))
    if tags:
        connection.execute(device_tags.insert(), [{"device_id": device_id, "tag": tag} for tag in tags])
    append(connection, actor, "device.tags", f"device:{device_key}", before=before, after={"tags": list(tags)})


def set_parent(connection: sa.Connection, actor: Actor, device_key: str, parent_key: str | None) -> None:
    """Name the parent of a device, or none. Raises: NotFound, InvalidInput for the device itself or one below it."""
    row = get_device(connection, device_key)
    parent_id = None
    if parent_key is not None:
        parent_id = connection.execute(sa.select(devices.c.id).where(devices.c.device_key == parent_key)).scalar()
        if parent_id is None:
            raise NotFound("Parent device not found", hint="meetingctl fleet list")
        if row["id"] in _ancestors(connection, parent_id):
            raise InvalidInput("Invalid parent", hint="a device cannot stand above itself")
    connection.execute(devices.update().where(devices.c.id == row["id"]).values(parent_id=parent_id))
    before, after = {"parent": row["parent_device_key"]}, {"parent": parent_key}
    append(connection, actor, "device.parent", f"device:{device_key}", before=before, after=after)


def _ancestors(connection: sa.Connection, device_id: int) -> set[int]:
    """Return a device and all above it."""
    above = sa.select(devices.c.id, devices.c.parent_id).where(devices.c.id == device_id).cte(recursive=True)
    # UNION, not UNION ALL: a circle that somehow exists ends the walk.
    above = above.union(sa.select(devices.c.id, devices.c.parent_id).where(devices.c.id == above.c.parent_id))
    return set(connection.execute(sa.select(above.c.id)).scalars())


def create_device(
    connection: sa.Connection,
    actor: Actor,
    *,
    device_key: DeviceKey,
    token_code: str,
    device_type: str | None = None,
    distribution: str | None = None,
    product_serial: str | None = None,
) -> dict[str, Any]:
    """Insert a device, not yet authorized and without tokens; return the row. Raises: Conflict."""
    taken = sa.select(devices.c.id).where(devices.c.key_fold == device_key.lower())
    if connection.execute(taken).first() is not None:
        raise Conflict("Device already exists", hint=f"meetingctl fleet show {device_key}")
    serial = product_serial or (new_serial(device_type) if device_type else None)
    if serial and connection.execute(sa.select(devices.c.id).where(devices.c.product_serial == serial)).first():
        raise Conflict("Product serial already used")
    row = {
        "device_key": device_key,
        "key_fold": device_key.lower(),
        "token_code": token_code,
        "device_type": device_type,
        "distribution": distribution,
        "product_serial": serial,
        "created_at_ms": now_ms(),
        **new_device_secrets(device_key),
    }
    connection.execute(devices.insert().values(row))
    append(connection, actor, "device.create", f"device:{device_key}", after={"device_type": device_type})
    return row


def change_device(
    connection: sa.Connection, actor: Actor, device_key: str, action: str, changes: Mapping[str, Any]
) -> sa.RowMapping:
    """Set columns of a device and audit what was there before; return the row before. Raises: NotFound."""
    row = get_device(connection, device_key)
    connection.execute(devices.update().where(devices.c.id == row["id"]).values(**changes))
    append(
        connection,
        actor,
        action,
        f"device:{device_key}",
        before={name: row[name] for name in changes},
        after=changes,
    )
    return row


def move_devices(connection: sa.Connection, device_type: str, to_type: str) -> int:
    """Give all devices of a type another one; return how many. The caller writes the audit record."""
    change = devices.update().where(devices.c.device_type == device_type).values(device_type=to_type)
    return connection.execute(change).rowcount


def delete_device(connection: sa.Connection, actor: Actor, device_key: str) -> None:
    """Delete a device and all that belongs to it. Raises: NotFound."""
    row = get_device(connection, device_key)
    connection.execute(devices.delete().where(devices.c.id == row["id"]))
    before = {name: row[name] for name in ("device_type", "distribution", "product_serial")}
    append(connection, actor, "device.delete", f"device:{device_key}", before=before)


def take_token(connection: sa.Connection, actor: Actor, device_key: str) -> int:
    """Consume one token in one conditional statement; return how many are left. Raises: NotFound, Forbidden."""
    row = get_device(connection, device_key)
    if not row["authorized"]:
        raise Forbidden("Device not authorized", hint=f"meetingctl fleet authorize {device_key}")
    statement = (
        devices.update()
        .where(devices.c.id == row["id"], devices.c.token_count > 0)
        .values(token_count=devices.c.token_count - 1)
        .returning(devices.c.token_count)
    )
    left = connection.execute(statement).scalar()
    if left is None:
        raise Forbidden("No tokens left", hint=f"meetingctl fleet tokens {device_key} --set 1")
    append(connection, actor, "device.flash-request", f"device:{device_key}", after={"token_count": left})
    return int(left)


def list_logs(connection: sa.Connection, device_id: int, limit: int) -> Sequence[sa.RowMapping]:
    """Return the connection log, newest first."""
    query = (
        sa.select(connection_logs)
        .where(connection_logs.c.device_id == device_id)
        .order_by(connection_logs.c.id.desc())
        .limit(limit)
    )
    return connection.execute(query).mappings().all()


def purge_logs(connection: sa.Connection, actor: Actor, device_key: str) -> None:
    """Delete the connection log; the audit log keeps how much was there. Raises: NotFound."""
    row = get_device(connection, device_key)
    gone = connection.execute(connection_logs.delete().where(connection_logs.c.device_id == row["id"]))
    append(connection, actor, "device.purge-logs", f"device:{device_key}", before={"rows": gone.rowcount})
