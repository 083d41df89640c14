"""Update channels: which version the devices of a distribution should have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Conflict, NotFound
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import rollouts, update_channels
from meetingctl.server.updates.errors import ChannelExists

_KEYS = ("device_type", "distribution", "channel")


def channel_name(row: Mapping[str, Any] | sa.RowMapping) -> str:
    """Return `type/distribution/channel`."""
    return f"{row['device_type']}/{row['distribution']}/{row['channel']}"


def find_channel(connection: sa.Connection, device_type: str, distribution: str, channel: str) -> sa.RowMapping | None:
    """Return a channel by its name."""
    query = sa.select(update_channels).where(
        update_channels.c.device_type == device_type,
        update_channels.c.distribution == distribution,
        update_channels.c.channel == channel,
    )
    return connection.execute(query).mappings().first()


def get_channel(connection: sa.Connection, channel_id: int) -> sa.RowMapping:
    """Return a channel by its id. Raises: NotFound."""
    query = sa.select(update_channels).where(update_channels.c.id == channel_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("Channel not found", hint="meetingctl fleet channels list")
    return row


def list_channels(
    connection: sa.Connection, *, where: list[sa.ColumnElement[bool]], limit: int, offset: int
) -> tuple[list[sa.RowMapping], int]:
    """Return a page in the order of the ids, and how many there are."""
    total = connection.execute(sa.select(sa.func.count()).select_from(update_channels).where(*where)).scalar_one()
    query = sa.select(update_channels).where(*where).order_by(update_channels.c.id).limit(limit).offset(offset)
    return list(connection.execute(query).mappings()), int(total)


def create_channel(
    connection: sa.Connection, actor: Actor, values: Mapping[str, Any], *, upsert: bool = False
) -> sa.RowMapping:
    """Create a channel; with `upsert` change the one that is there. Raises: ChannelExists, Conflict."""
    found = find_channel(connection, *(values[name] for name in _KEYS))
    if found is not None:
        if not upsert:
            raise ChannelExists("Channel already exists", hint="add ?upsert=1, or change it")
        return change_channel(connection, actor, found["id"], values)
    at_ms = now_ms()
    row = {**values, "created_at_ms": at_ms, "updated_at_ms": at_ms}
    made = connection.execute(update_channels.insert().values(row).returning(update_channels.c.id)).scalar_one()
    append(connection, actor, "channel.create", f"channel:{channel_name(row)}", after=dict(values))
    return get_channel(connection, made)


def change_channel(
    connection: sa.Connection, actor: Actor, channel_id: int, changes: Mapping[str, Any]
) -> sa.RowMapping:
    """Change a channel. Raises: NotFound, ChannelExists for another's name, Conflict while a rollout moves it."""
    row = get_channel(connection, channel_id)
    changes = {name: value for name, value in changes.items() if row[name] != value}
    if not changes:
        return row
    _refuse_during_rollout(connection, row)
    new = {**row, **changes}
    other = find_channel(connection, *(new[name] for name in _KEYS))
    if other is not None and other["id"] != channel_id:
        raise ChannelExists("Channel already exists", hint="choose another name")
    move_channel(connection, actor, row, changes)
    return get_channel(connection, channel_id)


def move_channel(connection: sa.Connection, actor: Actor, row: sa.RowMapping, changes: Mapping[str, Any]) -> None:
    """Write and audit a change, without asking whether a rollout runs: for rollouts themselves."""
    statement = update_channels.update().where(update_channels.c.id == row["id"])
    connection.execute(statement.values(**changes, updated_at_ms=now_ms()))
    before = {name: row[name] for name in changes}
    append(connection, actor, "channel.update", f"channel:{channel_name(row)}", before=before, after=dict(changes))


def delete_channel(connection: sa.Connection, actor: Actor, channel_id: int) -> None:
    """Delete a channel. Raises: NotFound, Conflict while a rollout moves it."""
    row = get_channel(connection, channel_id)
    _refuse_during_rollout(connection, row)
    connection.execute(update_channels.delete().where(update_channels.c.id == channel_id))
    before = {name: row[name] for name in ("target_version", "active")}
    append(connection, actor, "channel.delete", f"channel:{channel_name(row)}", before=before)


def _refuse_during_rollout(connection: sa.Connection, row: sa.RowMapping) -> None:
    running = connection.execute(sa.select(rollouts.c.id).where(rollouts.c.live_key == channel_name(row))).scalar()
    if running is not None:
        raise Conflict("A rollout runs on this channel", hint=f"meetingctl fleet rollout abort {running}")
