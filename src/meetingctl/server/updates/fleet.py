"""The update state of the fleet: what each device has, what it should have, and what it reported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import InvalidInput
from meetingctl.server.db.schema import (
    device_tags,
    device_updates,
    devices,
    presence,
    rollout_devices,
    rollouts,
    update_attempts,
    update_channels,
)
from meetingctl.server.updates.rollouts import LIVE, is_partial, note_report
from meetingctl.server.webhooks.outbox import emit

if TYPE_CHECKING:
    from meetingctl.server.identity.principal import Principal

STATES = ("UP_TO_DATE", "OUTDATED", "IN_PROGRESS", "FAILED", "UNKNOWN")
STATUSES = ("success", "failed", "pending", "in_progress")
OPEN = ("pending", "in_progress")
IN_PROGRESS_MS = 86_400_000  # an attempt without news for longer is over
KEEP_ATTEMPTS = 200  # of a device
MESSAGE_MAX = 2000


@dataclass(frozen=True, slots=True)
class FleetFilter:
    """Which devices a list or an export is about; None for no condition."""

    state: str | None = None
    device_type: str | None = None
    distribution: str | None = None
    search: str | None = None
    device_types: frozenset[str] | None = None  # limits of the caller's key
    tags: frozenset[str] | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return all conditions but the state's."""
        found = limits_of(self.device_types, self.tags)
        if self.device_type is not None:
            found.append(devices.c.device_type == self.device_type)
        if self.distribution is not None:
            found.append(devices.c.distribution == self.distribution)
        if self.search:
            found.append(devices.c.key_fold.contains(self.search.lower(), autoescape=True))
        return found


def limits_of(types: frozenset[str] | None, tags: frozenset[str] | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a limited key puts on devices."""
    found: list[sa.ColumnElement[bool]] = []
    if types is not None:
        found.append(devices.c.device_type.in_(sorted(types)))
    if tags is not None:
        tagged = sa.select(device_tags.c.device_id).where(device_tags.c.tag.in_(sorted(tags)))
        found.append(devices.c.id.in_(tagged))
    return found


def parse_state(text: str) -> str:
    """Read the name of a state in any case; FAILING stands for FAILED (decision D-STATE). Raises: InvalidInput."""
    name = text.upper()
    name = "FAILED" if name == "FAILING" else name
    if name not in STATES:
        raise InvalidInput("Invalid state", hint=f"use {', '.join(STATES)}")
    return name


def filter_for(principal: Principal, **conditions: str | None) -> FleetFilter:
    """Join what was asked for and what the caller's key is limited to."""
    return FleetFilter(**conditions, device_types=principal.device_types, tags=principal.tags)


class FleetQuery:
    """The joined tables and the computed columns, for the rollouts that matter at this moment."""

    def __init__(self, connection: sa.Connection, wanted: FleetFilter) -> None:
        self._connection = connection
        self._wanted = wanted
        self._target = _target_column(connection)
        installed = presence.c.installed_version
        is_about_target = device_updates.c.to_version == self._target
        self._state = sa.case(
            (self._target.is_(None), "UNKNOWN"),
            (installed == self._target, "UP_TO_DATE"),
            (
                sa.and_(
                    is_about_target,
                    device_updates.c.status.in_(OPEN),
                    device_updates.c.at_ms > now_ms() - IN_PROGRESS_MS,
                ),
                "IN_PROGRESS",
            ),
            (sa.and_(is_about_target, device_updates.c.status == "failed"), "FAILED"),
            (installed.is_(None), "UNKNOWN"),
            else_="OUTDATED",
        )
        self._source = (
            devices.outerjoin(presence, presence.c.device_id == devices.c.id)
            .outerjoin(device_updates, device_updates.c.device_id == devices.c.id)
            .outerjoin(
                update_channels,
                sa.and_(
                    update_channels.c.device_type == devices.c.device_type,
                    update_channels.c.distribution == devices.c.distribution,
                    update_channels.c.channel == devices.c.update_channel,
                    update_channels.c.active,
                ),
            )
        )

    def count_states(self) -> dict[str, int]:
        """Count the devices in each state: one pass over the fleet."""
        query = (
            sa.select(self._state.label("state"), sa.func.count())
            .select_from(self._source)
            .where(*self._wanted.conditions())
            .group_by(sa.text("1"))
        )
        found = {str(state): int(count) for state, count in self._connection.execute(query)}
        return {state: found.get(state, 0) for state in STATES}

    def page(self, *, limit: int, offset: int = 0, after: str = "") -> list[sa.RowMapping]:
        """Return devices in the order of their folded keys."""
        query = self._select().order_by(devices.c.key_fold).limit(limit).offset(offset)
        if after:
            query = query.where(devices.c.key_fold > after)
        return list(self._connection.execute(query).mappings())

    def walk(self, rows: int = 1000) -> Iterator[list[sa.RowMapping]]:
        """Yield the whole list in pieces."""
        after = ""
        while page := self.page(limit=rows, after=after):
            yield page
            after = str(page[-1]["key_fold"])

    def _select(self) -> sa.Select[Any]:
        query = (
            sa.select(
                devices.c.device_key,
                devices.c.key_fold,
                devices.c.device_type,
                devices.c.distribution,
                devices.c.update_channel,
                presence.c.installed_version,
                presence.c.last_seen_ms,
                self._target.label("target_version"),
                self._state.label("state"),
                device_updates.c.status,
                device_updates.c.message,
                device_updates.c.at_ms,
            )
            .select_from(self._source)
            .where(*self._wanted.conditions())
        )
        return query if self._wanted.state is None else query.where(self._state == self._wanted.state)


def _target_column(connection: sa.Connection) -> sa.ColumnElement[Any]:
    """Return the version that a device should have: its rollout's where one has reached it, else its channel's.

    Only rollouts that differ from their channel matter: those that run, and finished ones for some devices only.
    """
    matter = _rollouts_that_matter(connection)
    channel_target: sa.ColumnElement[Any] = update_channels.c.target_version
    if not matter:
        return channel_target
    reached = (
        sa.select(rollouts.c.version)
        .join(rollout_devices, rollout_devices.c.rollout_id == rollouts.c.id)
        .where(
            rollouts.c.id.in_(matter),
            rollout_devices.c.device_id == devices.c.id,
            rollouts.c.device_type == devices.c.device_type,
            rollouts.c.distribution == devices.c.distribution,
            rollouts.c.channel == devices.c.update_channel,
            rollout_devices.c.wave <= rollouts.c.wave,
            sa.or_(rollouts.c.state != "paused", rollout_devices.c.state == "success"),
        )
        .order_by(rollouts.c.id.desc())
        .limit(1)
        .correlate(devices)
        .scalar_subquery()
    )
    return sa.func.coalesce(reached, channel_target)


def _rollouts_that_matter(connection: sa.Connection) -> list[int]:
    live = sa.select(rollouts.c.id).where(rollouts.c.state.in_(LIVE))
    found = list(connection.execute(live).scalars())
    finished = (
        sa.select(rollouts)
        .join(
            update_channels,
            sa.and_(
                update_channels.c.device_type == rollouts.c.device_type,
                update_channels.c.distribution == rollouts.c.distribution,
                update_channels.c.channel == rollouts.c.channel,
            ),
        )
        .where(rollouts.c.state == "finished", rollouts.c.finished_at_ms >= update_channels.c.updated_at_ms)
        .order_by(rollouts.c.id.desc())
        .limit(100)
    )
    return found + [row["id"] for row in connection.execute(finished).mappings() if is_partial(row)]


@dataclass(frozen=True, slots=True)
class Target:
    """What one device should have. `version` None: nothing; `start_after_s` is how long it is to wait."""

    version: str | None
    start_after_s: int = 0
    rollout_id: int | None = None


def target_of(connection: sa.Connection, device: Mapping[str, Any] | sa.RowMapping) -> Target:
    """Say what a device should have now. A device that reported a failure is not sent to the version again."""
    matter = _rollouts_that_matter(connection)
    row = connection.execute(_reached_query(matter, device["id"])).mappings().first() if matter else None
    if row is not None and row["live_key"] in (None, _channel_name(device)):
        is_reached = row["device_wave"] <= row["wave"] and row["device_state"] != "failed"
        if is_reached and (row["state"] != "paused" or row["device_state"] == "success"):
            return Target(row["version"], _wait_s(row), row["id"])
        if row["live_key"] is not None:
            return Target(row["previous_version"], 0, row["id"])
    query = sa.select(update_channels.c.target_version).where(
        update_channels.c.device_type == device["device_type"],
        update_channels.c.distribution == device["distribution"],
        update_channels.c.channel == device["update_channel"],
        update_channels.c.active,
    )
    return Target(connection.execute(query).scalar())


def _reached_query(matter: list[int], device_id: int) -> sa.Select[Any]:
    return (
        sa.select(
            rollouts,
            rollout_devices.c.wave.label("device_wave"),
            rollout_devices.c.state.label("device_state"),
            rollout_devices.c.start_delay_s,
        )
        .join(rollout_devices, rollout_devices.c.rollout_id == rollouts.c.id)
        .where(rollouts.c.id.in_(matter), rollout_devices.c.device_id == device_id)
        .order_by(rollouts.c.id.desc())
        .limit(1)
    )


def _wait_s(row: sa.RowMapping) -> int:
    if row["device_wave"] < row["wave"] or row["wave_started_at_ms"] is None or row["state"] == "finished":
        return 0
    start_ms = row["wave_started_at_ms"] + row["start_delay_s"] * 1000
    return max(0, math.ceil((int(start_ms) - now_ms()) / 1000))


def _channel_name(device: Mapping[str, Any] | sa.RowMapping) -> str:
    return f"{device['device_type']}/{device['distribution']}/{device['update_channel']}"


# What devices report.


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a device about an update; `status` is one of STATUSES."""

    to_version: str
    status: str
    from_version: str | None = None
    message: str = ""
    payload: dict[str, Any] | None = None


def record_report(connection: sa.Connection, device: sa.RowMapping, report: Report) -> int:
    """Store a report: it goes on with the open attempt for the version, or begins one. Return the attempt's id.

    The same outcome again changes nothing, because devices repeat what they are not sure of.
    """
    at_ms = now_ms()
    rollout_id = note_report(connection, device["id"], _channel_name(device), report.to_version, report.status)
    last = _last_attempt(connection, device["id"])
    is_same = last is not None and last["to_version"] == report.to_version
    if last is not None and is_same and (last["status"] in OPEN or last["status"] == report.status):
        attempt_id = int(last["id"])
        connection.execute(
            update_attempts.update()
            .where(update_attempts.c.id == attempt_id)
            .values(**_progress(last, report, at_ms), status=report.status, message=report.message or last["message"])
        )
        is_news = last["status"] != report.status
    else:
        attempt_id = _begin_attempt(connection, device, report, rollout_id, at_ms)
        is_news = True
    _keep_last(connection, device["id"], attempt_id, report, at_ms)
    if report.status == "success":
        arrived = presence.update().where(presence.c.device_id == device["id"])
        connection.execute(arrived.values(installed_version=report.to_version))
    if report.status == "failed" and is_news:
        facts = {"to_version": report.to_version, "from_version": report.from_version, "message": report.message}
        emit(connection, "update.failed", device["device_key"], facts)
    return attempt_id


def _last_attempt(connection: sa.Connection, device_id: int) -> sa.RowMapping | None:
    query = (
        sa.select(update_attempts)
        .where(update_attempts.c.device_id == device_id)
        .order_by(update_attempts.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().first()


def _progress(last: sa.RowMapping, report: Report, at_ms: int) -> dict[str, Any]:
    """Return the times that a report adds to an attempt."""
    started = last["started_at_ms"] if last["started_at_ms"] or report.status == "pending" else at_ms
    ended = None if report.status in OPEN else last["completed_at_ms"] or at_ms
    return {"started_at_ms": started, "completed_at_ms": ended}


def _begin_attempt(
    connection: sa.Connection, device: sa.RowMapping, report: Report, rollout_id: int | None, at_ms: int
) -> int:
    values = {
        "device_id": device["id"],
        "rollout_id": rollout_id,
        "device_type": device["device_type"] or "",
        "distribution": device["distribution"] or "",
        "from_version": report.from_version or device["installed_version"],
        "to_version": report.to_version,
        "status": report.status,
        "message": report.message,
        "payload": report.payload,
        "created_at_ms": at_ms,
        "started_at_ms": None if report.status == "pending" else at_ms,
        "completed_at_ms": None if report.status in OPEN else at_ms,
    }
    made = connection.execute(update_attempts.insert().values(values).returning(update_attempts.c.id)).scalar_one()
    of_device = update_attempts.c.device_id == device["id"]
    oldest = (
        sa.select(update_attempts.c.id)
        .where(of_device)
        .order_by(update_attempts.c.id.desc())
        .limit(1)
        .offset(KEEP_ATTEMPTS)
        .scalar_subquery()
    )
    connection.execute(update_attempts.delete().where(of_device, update_attempts.c.id <= oldest))
    return int(made)


def _keep_last(connection: sa.Connection, device_id: int, attempt_id: int, report: Report, at_ms: int) -> None:
    values = {
        "attempt_id": attempt_id,
        "to_version": report.to_version,
        "status": report.status,
        "message": report.message,
        "at_ms": at_ms,
    }
    change = device_updates.update().where(device_updates.c.device_id == device_id)
    if connection.execute(change.values(values)).rowcount == 0:
        connection.execute(device_updates.insert().values(device_id=device_id, **values))
