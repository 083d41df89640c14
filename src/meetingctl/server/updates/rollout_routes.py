"""Rollouts: start, list, show, pause, resume, abort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import Forbidden, InvalidInput
from meetingctl.core.versions import check_name, check_version
from meetingctl.server.audit.chain import Actor
from meetingctl.server.http import Body, Text, actor_of, body_of, query_int, server_of
from meetingctl.server.identity.principal import Principal
from meetingctl.server.updates import rollouts
from meetingctl.server.updates.channel_routes import RowId, parse_id
from meetingctl.server.updates.http import (
    AdminReply,
    FleetManager,
    FleetViewer,
    check_type,
    describe_admin,
    query_text,
)
from meetingctl.server.updates.rollout_plan import decide, plan_of

router = APIRouter(tags=["rollouts"])

STATES = ("preparing", "running", "paused", "finished", "aborted", "live")
_QUERY = {
    "page": {"type": "integer", "minimum": 1, "default": 1},
    "page_size": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
    "state": {"type": "string", "enum": list(STATES)},
}


class RolloutBody(Body):
    device_type: Text
    distribution: Text
    version: Text
    channel: Text = "default"
    selector: dict[Text, Any] = Field(default_factory=dict)
    plan: dict[Text, Any] = Field(default_factory=dict)


class PauseBody(Body):
    reason: Annotated[Text, Field(max_length=500)] = ""


class RolloutItem(BaseModel):
    id: int
    device_type: str
    distribution: str
    channel: str
    version: str
    previous_version: str | None
    selector: dict[str, Any]
    plan: dict[str, Any]
    state: str
    reason: str
    wave: int
    waves: int
    wave_started_at: str | None
    created_by: str
    created_at: str
    updated_at: str
    finished_at: str | None


class RolloutDetail(RolloutItem):
    devices: int
    success: int
    failed: int
    waits_for: str
    by_wave: list[dict[str, int]]


class RolloutReply(AdminReply):
    item: RolloutDetail


class RolloutsReply(AdminReply):
    items: list[RolloutItem]


@router.post("/api/admin/rollouts", **describe_admin(RolloutReply, 404, 409, body=RolloutBody))
def start(
    request: Request, principal: FleetManager, body: Annotated[RolloutBody, Depends(body_of(RolloutBody))]
) -> dict[str, Any]:
    """Hand a release out wave by wave. `wave` counts from 1; 0 means that the waves are being drawn."""
    check_type(principal, check_name(body.device_type, "device_type"))
    if principal.tags is not None and body.selector.get("tag") not in principal.tags:
        raise Forbidden("Tag not allowed")
    check_name(body.distribution, "distribution")
    check_name(body.channel, "channel")
    check_version(body.version)
    plan, actor = plan_of(body.plan), actor_of(request, principal)

    def change(connection: sa.Connection) -> dict[str, Any]:
        row = rollouts.start_rollout(
            connection,
            actor,
            device_type=body.device_type,
            distribution=body.distribution,
            channel=body.channel,
            version=body.version,
            selector=body.selector,
            plan=plan,
        )
        return _detail(connection, row)

    return {"ok": True, "item": server_of(request).writer.run(change)}


@router.get("/api/admin/rollouts", **describe_admin(RolloutsReply, query=_QUERY))
def list_all(request: Request, principal: FleetViewer) -> dict[str, Any]:
    """List rollouts, newest first; state `live` means preparing, running or paused."""
    page, size = query_int(request, "page", 1, 1, 10**9), query_int(request, "page_size", 50, 1, 1000)
    state = query_text(request, "state")
    if state is not None and state not in STATES:
        raise InvalidInput("Invalid state", hint=f"use {', '.join(STATES)}")
    with server_of(request).database.read() as connection:
        rows = rollouts.list_rollouts(connection, state=state, limit=size, offset=(page - 1) * size)
    allowed = principal.device_types
    return {"ok": True, "items": [_item(row) for row in rows if allowed is None or row["device_type"] in allowed]}


@router.get("/api/admin/rollouts/{id}", **describe_admin(RolloutReply, 404))
def show(request: Request, rollout_id: RowId, principal: FleetViewer) -> dict[str, Any]:
    """Show one rollout with its figures and what it waits for."""
    with server_of(request).database.read() as connection:
        row = rollouts.get_rollout(connection, parse_id(rollout_id))
        check_type(principal, row["device_type"])
        return {"ok": True, "item": _detail(connection, row)}


@router.post("/api/admin/rollouts/{id}/pause", **describe_admin(RolloutReply, 404, 409, body=PauseBody))
def pause(
    request: Request,
    rollout_id: RowId,
    principal: FleetManager,
    body: Annotated[PauseBody, Depends(body_of(PauseBody))],
) -> dict[str, Any]:
    """Stop handing the version out; its channel has the former version again."""
    reason = body.reason or f"by {principal.name}"
    return _change(
        request,
        rollout_id,
        principal,
        lambda connection, actor, row: rollouts.pause_rollout(connection, actor, row, reason),
    )


@router.post("/api/admin/rollouts/{id}/resume", **describe_admin(RolloutReply, 404, 409))
def resume(request: Request, rollout_id: RowId, principal: FleetManager) -> dict[str, Any]:
    """Go on with the wave; devices that failed get another try."""
    return _change(request, rollout_id, principal, rollouts.resume_rollout)


@router.post("/api/admin/rollouts/{id}/abort", **describe_admin(RolloutReply, 404, 409))
def abort(request: Request, rollout_id: RowId, principal: FleetManager) -> dict[str, Any]:
    """End it; every device belongs to the former version again."""
    return _change(request, rollout_id, principal, rollouts.abort_rollout)


def _change(
    request: Request,
    rollout_id: str,
    principal: Principal,
    act: Callable[[sa.Connection, Actor, int], sa.RowMapping],
) -> dict[str, Any]:
    actor, number = actor_of(request, principal), parse_id(rollout_id)

    def change(connection: sa.Connection) -> dict[str, Any]:
        row = rollouts.get_rollout(connection, number)
        check_type(principal, row["device_type"])
        if principal.tags is not None and row["selector"].get("tag") not in principal.tags:
            raise Forbidden("Tag not allowed")
        return _detail(connection, act(connection, actor, number))

    return {"ok": True, "item": server_of(request).writer.run(change)}


def _item(row: sa.RowMapping) -> dict[str, Any]:
    return {
        "id": row["id"],
        "device_type": row["device_type"],
        "distribution": row["distribution"],
        "channel": row["channel"],
        "version": row["version"],
        "previous_version": row["previous_version"],
        "selector": {name: value for name, value in row["selector"].items() if name != "after_id"},
        "plan": row["plan"],
        "state": row["state"],
        "reason": row["reason"],
        "wave": row["wave"] + 1,
        "waves": len(row["plan"]["waves_percent"]),
        "wave_started_at": wire_text(row["wave_started_at_ms"]),
        "created_by": row["created_by"],
        "created_at": wire_text(row["created_at_ms"]),
        "updated_at": wire_text(row["updated_at_ms"]),
        "finished_at": wire_text(row["finished_at_ms"]),
    }


def _detail(connection: sa.Connection, row: sa.RowMapping) -> dict[str, Any]:
    counts = rollouts.count_waves(connection, row)
    following = "preparing: drawing the waves" if row["state"] == "preparing" else ""
    if row["state"] == "running":
        following = decide(plan_of(row["plan"]), row["wave"], row["wave_started_at_ms"], counts, now_ms()).reason
    return {
        **_item(row),
        "devices": sum(count.devices for count in counts),
        "success": sum(count.success for count in counts),
        "failed": sum(count.failed for count in counts),
        "waits_for": following,
        "by_wave": [
            {"wave": wave + 1, "devices": count.devices, "success": count.success, "failed": count.failed}
            for wave, count in enumerate(counts)
        ],
    }
