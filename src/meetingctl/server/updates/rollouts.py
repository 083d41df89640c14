"""Rollouts in the database: start, show, pause, resume, abort, and one step at a time.

A step reads, asks `rollout_plan.decide`, and writes in one transaction that takes hold only if the rollout is still as
it was read. So any number of processes may step, and one that dies in between leaves nothing half done.

While a rollout runs its channel keeps the former version until the last wave starts: clients that read only the
channel, or `latest_versions`, follow at the end. Devices that ask `GET /api/devices/{key}/update` follow their wave.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.server.audit.chain import SYSTEM, Actor, append
from meetingctl.server.db.schema import device_tags, devices, presence, rollout_devices, rollouts
from meetingctl.server.updates.channels import channel_name, create_channel, find_channel, move_channel
from meetingctl.server.updates.releases import get_release
from meetingctl.server.updates.rollout_plan import Action, Plan, WaveCounts, decide, draw_waves, plan_of
from meetingctl.server.webhooks.outbox import emit

if TYPE_CHECKING:
    from meetingctl.server.state import ServerState

log = logging.getLogger(__name__)

CHUNK = 5000
LIVE = ("preparing", "running", "paused")
MAX_KEYS = 10_000
_SOURCE = random.SystemRandom()


def start_rollout(
    connection: sa.Connection,
    actor: Actor,
    *,
    device_type: str,
    distribution: str,
    channel: str,
    version: str,
    selector: Mapping[str, Any],
    plan: Plan,
) -> sa.RowMapping:
    """Begin a rollout of a published release. Raises: NotFound, InvalidInput, Conflict while another one runs."""
    get_release(connection, device_type, distribution, version)
    chosen = selector_of(selector)
    about = {"device_type": device_type, "distribution": distribution, "channel": channel}
    name = channel_name(about)
    running = connection.execute(sa.select(rollouts.c.id).where(rollouts.c.live_key == name)).scalar()
    if running is not None:
        raise Conflict("A rollout runs on this channel", hint=f"meetingctl fleet rollout status {running}")
    target = find_channel(connection, device_type, distribution, channel)
    if target is None:  # inactive until the last wave: nobody has had a version of this channel before
        target = create_channel(connection, actor, {**about, "target_version": version, "active": False})
    if ("tag" in chosen or "keys" in chosen) and not connection.execute(
        _selected({**about, "selector": chosen}, 0)
    ).first():
        raise InvalidInput("No device is chosen", hint="meetingctl fleet list --fields device_key,tags")
    at_ms = now_ms()
    values = {
        **about,
        "version": version,
        "previous_version": target["target_version"] if target["active"] else None,
        "selector": chosen,
        "plan": plan.to_json(),
        "live_key": name,
        "state": "preparing",
        "reason": "",
        "wave": -1,
        "created_by": actor.principal[:160],
        "created_at_ms": at_ms,
        "updated_at_ms": at_ms,
    }
    made = connection.execute(rollouts.insert().values(values).returning(rollouts.c.id)).scalar_one()
    after = {"channel": name, "version": version, "selector": chosen, "plan": plan.to_json()}
    append(connection, actor, "rollout.start", f"rollout:{made}", after=after)
    return get_rollout(connection, made)


def selector_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read which devices a rollout is for: `{tag?, keys?, percent?}`; empty for all. Raises: InvalidInput."""
    tag, keys, percent = given.get("tag"), given.get("keys"), given.get("percent", 100)
    if tag is not None and (not isinstance(tag, str) or not 0 < len(tag) <= 64):
        raise InvalidInput("Invalid tag")
    if keys is not None and (
        not isinstance(keys, list) or not 0 < len(keys) <= MAX_KEYS or not all(isinstance(key, str) for key in keys)
    ):
        raise InvalidInput("Invalid keys", hint=f"a list of 1 to {MAX_KEYS} device keys")
    if not isinstance(percent, int) or isinstance(percent, bool) or not 1 <= percent <= 100:
        raise InvalidInput("Invalid percent", hint="a whole number from 1 to 100")
    chosen = {"tag": tag, "keys": keys, "percent": percent if percent < 100 else None}
    return {name: value for name, value in chosen.items() if value is not None}


def get_rollout(connection: sa.Connection, rollout_id: int) -> sa.RowMapping:
    """Return a rollout. Raises: NotFound."""
    row = connection.execute(sa.select(rollouts).where(rollouts.c.id == rollout_id)).mappings().first()
    if row is None:
        raise NotFound("Rollout not found", hint="meetingctl fleet rollout list")
    return row


def list_rollouts(connection: sa.Connection, *, state: str | None, limit: int, offset: int) -> list[sa.RowMapping]:
    """Return rollouts, newest first; `live` stands for all states that are not an end."""
    query = sa.select(rollouts).order_by(rollouts.c.id.desc()).limit(limit).offset(offset)
    if state is not None:
        query = query.where(rollouts.c.state.in_(LIVE if state == "live" else (state,)))
    return list(connection.execute(query).mappings())


def count_waves(connection: sa.Connection, row: sa.RowMapping) -> list[WaveCounts]:
    """Return the devices of each wave."""
    query = (
        sa.select(rollout_devices.c.wave, rollout_devices.c.state, sa.func.count())
        .where(rollout_devices.c.rollout_id == row["id"])
        .group_by(rollout_devices.c.wave, rollout_devices.c.state)
    )
    found: list[dict[str, int]] = [{} for _ in plan_of(row["plan"]).waves_percent]
    for wave, state, count in connection.execute(query):
        found[wave][state] = count
    return [WaveCounts(sum(one.values()), one.get("success", 0), one.get("failed", 0)) for one in found]


def pause_rollout(connection: sa.Connection, actor: Actor, rollout_id: int, reason: str) -> sa.RowMapping:
    """Stop handing out the version, and return the channel to the former one. Raises: NotFound, Conflict."""
    row = _in_state(connection, rollout_id, "preparing", "running")
    _return_channel(connection, actor, row)
    _set(connection, row, state="paused", reason=reason[:500])
    append(connection, actor, "rollout.pause", f"rollout:{rollout_id}", after={"reason": reason[:500]})
    facts = {name: row[name] for name in ("device_type", "distribution", "channel", "version")}
    emit(connection, "rollout.paused", str(rollout_id), {**facts, "reason": reason[:500]})
    return get_rollout(connection, rollout_id)


def resume_rollout(connection: sa.Connection, actor: Actor, rollout_id: int) -> sa.RowMapping:
    """Go on with the wave; devices that failed get another try. Raises: NotFound, Conflict."""
    row = _in_state(connection, rollout_id, "paused")
    again = rollout_devices.update().where(
        rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.state.in_(("failed", "in_progress"))
    )
    connection.execute(again.values(state="waiting", reported_at_ms=None))
    if _is_last_wave(row):
        _advance_channel(connection, actor, row)
    if row["wave"] < 0:  # the waves may not all be drawn
        _set(connection, row, state="preparing", reason="")
    else:
        _set(connection, row, state="running", reason="", wave_started_at_ms=now_ms())
    append(connection, actor, "rollout.resume", f"rollout:{rollout_id}")
    return get_rollout(connection, rollout_id)


def abort_rollout(connection: sa.Connection, actor: Actor, rollout_id: int) -> sa.RowMapping:
    """End a rollout; every device of it belongs to the former version again. Raises: NotFound, Conflict."""
    row = _in_state(connection, rollout_id, *LIVE)
    _return_channel(connection, actor, row)
    _set(connection, row, state="aborted", reason=f"by {actor.principal}"[:500], live_key=None, finished_at_ms=now_ms())
    append(connection, actor, "rollout.abort", f"rollout:{rollout_id}")
    return get_rollout(connection, rollout_id)


def note_report(connection: sa.Connection, device_id: int, name: str, version: str, status: str) -> int | None:
    """Take a device's report of an update into the rollout that runs on its channel; return that rollout's id."""
    query = sa.select(rollouts.c.id).where(rollouts.c.live_key == name, rollouts.c.version == version)
    rollout_id: int | None = connection.execute(query).scalar()
    if rollout_id is None:
        return None
    state = {"pending": "waiting"}.get(status, status)
    change = rollout_devices.update().where(
        rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.device_id == device_id
    )
    changed = connection.execute(change.values(state=state, reported_at_ms=now_ms())).rowcount
    return rollout_id if changed else None


# One step at a time.


def step_rollouts(state: ServerState, at_ms: int | None = None) -> int:
    """Do the next step of each rollout that runs; return how many steps changed something. For worker threads."""
    with state.database.read() as connection:
        rows = connection.execute(sa.select(rollouts).where(rollouts.c.state.in_(("preparing", "running")))).mappings()
        live = list(rows)
    return sum(_step(state, row, now_ms() if at_ms is None else at_ms) for row in live)


def _step(state: ServerState, row: sa.RowMapping, at_ms: int) -> bool:
    if row["state"] == "preparing":
        return state.writer.run(lambda connection: _prepare_chunk(connection, row["id"]))
    with state.database.read() as connection:
        arrived = _find_arrived(connection, row)
        counts = count_waves(connection, row)
    if arrived:
        return state.writer.run(lambda connection: _note_arrived(connection, row["id"], arrived))
    action = decide(plan_of(row["plan"]), row["wave"], row["wave_started_at_ms"], counts, at_ms)
    if action.kind == "wait":
        return False
    changed = state.writer.run(lambda connection: _act(connection, row, action, at_ms))
    if changed:
        log.info("rollout", extra={"rollout": row["id"], "action": action.kind, "reason": action.reason})
    return changed


def _prepare_chunk(connection: sa.Connection, rollout_id: int) -> bool:
    """Give the next devices their waves; the last chunk lets the rollout run."""
    row = get_rollout(connection, rollout_id)
    if row["state"] != "preparing":
        return False
    plan = plan_of(row["plan"])
    begin = sa.select(sa.func.max(rollout_devices.c.device_id)).where(rollout_devices.c.rollout_id == rollout_id)
    after_id = max(connection.execute(begin).scalar() or 0, row["selector"].get("after_id", 0))
    found = connection.execute(_selected(row, after_id)).all()
    if not found:
        _set(connection, row, state="running")
        return True
    percent = row["selector"].get("percent", 100)
    if percent < 100:  # what was looked at and not drawn must not be looked at again
        _set(connection, row, selector={**row["selector"], "after_id": found[-1].id})
        count = -(-len(found) * percent // 100)
        found = sorted(_SOURCE.sample(found, count), key=lambda device: int(device.id))
    drawn = draw_waves(len(found), plan, _SOURCE)
    values = [
        {
            "rollout_id": rollout_id,
            "device_id": device.id,
            "wave": wave,
            "start_delay_s": delay_s,
            "state": "waiting",
            "from_version": device.installed_version,
        }
        for device, (wave, delay_s) in zip(found, drawn, strict=True)
    ]
    connection.execute(rollout_devices.insert(), values)
    return True


def _selected(row: Mapping[str, Any] | sa.RowMapping, after_id: int) -> sa.Select[Any]:
    selector = row["selector"]
    query = (
        sa.select(devices.c.id, presence.c.installed_version)
        .select_from(devices.outerjoin(presence, presence.c.device_id == devices.c.id))
        .where(
            devices.c.id > after_id,
            devices.c.device_type == row["device_type"],
            devices.c.distribution == row["distribution"],
            devices.c.update_channel == row["channel"],
        )
        .order_by(devices.c.id)
        .limit(CHUNK)
    )
    if "tag" in selector:
        tagged = sa.select(device_tags.c.device_id).where(device_tags.c.tag == selector["tag"])
        query = query.where(devices.c.id.in_(tagged))
    if "keys" in selector:
        query = query.where(devices.c.device_key.in_(selector["keys"]))
    return query


def _find_arrived(connection: sa.Connection, row: sa.RowMapping) -> list[int]:
    """Return devices that were told to update and whose heartbeat names the version."""
    query = (
        sa.select(rollout_devices.c.device_id)
        .join(presence, presence.c.device_id == rollout_devices.c.device_id)
        .where(
            rollout_devices.c.rollout_id == row["id"],
            rollout_devices.c.wave <= row["wave"],
            rollout_devices.c.state != "success",
            presence.c.installed_version == row["version"],
        )
        .limit(CHUNK)
    )
    return list(connection.execute(query).scalars())


def _note_arrived(connection: sa.Connection, rollout_id: int, device_ids: list[int]) -> bool:
    change = rollout_devices.update().where(
        rollout_devices.c.rollout_id == rollout_id,
        rollout_devices.c.device_id.in_(device_ids),
        rollout_devices.c.state != "success",
    )
    return connection.execute(change.values(state="success", reported_at_ms=now_ms())).rowcount > 0


def _act(connection: sa.Connection, read: sa.RowMapping, action: Action, at_ms: int) -> bool:
    """Write a decision, unless the rollout has changed since it was read."""
    row = get_rollout(connection, read["id"])
    if any(row[name] != read[name] for name in ("state", "wave", "wave_started_at_ms", "updated_at_ms")):
        return False
    if action.kind == "pause":
        pause_rollout(connection, SYSTEM, row["id"], action.reason)
    elif action.kind == "finish":
        _finish(connection, row, action.reason)
    else:
        wave = row["wave"] + 1
        _set(connection, row, wave=wave, wave_started_at_ms=at_ms, reason=action.reason)
        moved = get_rollout(connection, row["id"])
        if _is_last_wave(moved):
            _advance_channel(connection, SYSTEM, moved)
        append(connection, SYSTEM, "rollout.wave", f"rollout:{row['id']}", after={"wave": wave + 1})
    return True


def _finish(connection: sa.Connection, row: sa.RowMapping, reason: str) -> None:
    _set(connection, row, state="finished", reason=reason, live_key=None, finished_at_ms=now_ms())
    append(connection, SYSTEM, "rollout.finish", f"rollout:{row['id']}", after={"reason": reason})
    facts = {name: row[name] for name in ("device_type", "distribution", "channel", "version")}
    emit(connection, "rollout.finished", str(row["id"]), {**facts, "reason": reason})


def _in_state(connection: sa.Connection, rollout_id: int, *states: str) -> sa.RowMapping:
    row = get_rollout(connection, rollout_id)
    if row["state"] not in states:
        hint = f"meetingctl fleet rollout status {rollout_id}"
        raise Conflict(f"The rollout is {row['state']}", hint=hint)
    return row


def _set(connection: sa.Connection, row: sa.RowMapping, **values: Any) -> None:
    at_ms = max(now_ms(), row["updated_at_ms"] + 1)  # grows with each change, so that a step sees one
    connection.execute(rollouts.update().where(rollouts.c.id == row["id"]).values(**values, updated_at_ms=at_ms))


def _is_last_wave(row: sa.RowMapping) -> bool:
    return int(row["wave"]) + 1 >= len(row["plan"]["waves_percent"])


def is_partial(row: sa.RowMapping) -> bool:
    """Say whether a rollout is for some devices of its channel only; such a one never moves the channel."""
    return any(name in row["selector"] for name in ("tag", "keys", "percent"))


def _advance_channel(connection: sa.Connection, actor: Actor, row: sa.RowMapping) -> None:
    """Let the channel name the new version, so that the clients that read only the channel follow."""
    _set_channel(connection, actor, row, {"target_version": row["version"], "active": True})


def _return_channel(connection: sa.Connection, actor: Actor, row: sa.RowMapping) -> None:
    """Let the channel name the former version again, or none when there was none."""
    if row["previous_version"] is None:
        _set_channel(connection, actor, row, {"active": False})
    else:
        _set_channel(connection, actor, row, {"target_version": row["previous_version"]})


def _set_channel(connection: sa.Connection, actor: Actor, row: sa.RowMapping, values: dict[str, Any]) -> None:
    target = find_channel(connection, row["device_type"], row["distribution"], row["channel"])
    if is_partial(row) or target is None:
        return
    changes = {name: value for name, value in values.items() if target[name] != value}
    if changes:
        move_channel(connection, actor, target, changes)
