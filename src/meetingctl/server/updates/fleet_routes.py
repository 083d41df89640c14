"""The fleet's update state, its export, the history, and what devices ask and report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from meetingctl.core.clock import wire_text
from meetingctl.core.errors import InvalidInput, NotFound
from meetingctl.core.versions import check_version
from meetingctl.server.db.schema import devices, presence, update_attempts
from meetingctl.server.devices.store import get_device
from meetingctl.server.http import Body, Text, body_of, describe, need, query_int, server_of
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.state import ServerState
from meetingctl.server.updates import export
from meetingctl.server.updates.fleet import (
    MESSAGE_MAX,
    STATUSES,
    FleetFilter,
    FleetQuery,
    Report,
    filter_for,
    limits_of,
    parse_state,
    record_report,
    target_of,
)
from meetingctl.server.updates.http import AdminReply, FleetViewer, describe_admin, query_text
from meetingctl.server.updates.releases import MANIFEST, Release, get_release
from meetingctl.server.updates.urls import file_url

router = APIRouter(tags=["updates"])

COUNTS_S = 5.0
_COUNTS_KEPT = 64
_PAGING = {
    "page": {"type": "integer", "minimum": 1, "default": 1},
    "page_size": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
}
_FILTERS = {
    "state": {"type": "string", "enum": ["UP_TO_DATE", "OUTDATED", "IN_PROGRESS", "FAILED", "FAILING", "UNKNOWN"]},
    "device_type": {"type": "string", "maxLength": 128},
    "distribution": {"type": "string", "maxLength": 128},
    "search": {"type": "string", "maxLength": 128},
}


class FleetItem(BaseModel):
    device_key: str
    device_type: str | None
    distribution: str | None
    channel: str
    installed_version: str | None
    target_version: str | None
    state: str
    computed_state: str
    update_status: str
    last_seen: str | None
    last_attempt_at: str | None
    last_attempt_status: str | None
    last_error: str | None


class FleetStats(BaseModel):
    up_to_date: int
    outdated: int
    in_progress: int
    failed: int
    unknown: int


class FleetReply(AdminReply):
    items: list[FleetItem]
    total: int
    page: int
    page_size: int
    stats: FleetStats


def _filter_of(request: Request, principal: Principal) -> FleetFilter:
    state = query_text(request, "state")
    return filter_for(
        principal,
        state=parse_state(state) if state else None,
        device_type=query_text(request, "device_type"),
        distribution=query_text(request, "distribution"),
        search=query_text(request, "search"),
    )


@router.get("/api/admin/device-updates", **describe_admin(FleetReply, query=_PAGING | _FILTERS))
def get_fleet_state(request: Request, principal: FleetViewer) -> dict[str, Any]:
    """Show which version each device has and should have. Counts are a few seconds old at most."""
    server = server_of(request)
    page, size = query_int(request, "page", 1, 1, 10**9), query_int(request, "page_size", 50, 1, 1000)
    wanted = _filter_of(request, principal)
    with server.database.read() as connection:
        query = FleetQuery(connection, wanted)
        counts = _counts(server, query, wanted)
        rows = query.page(limit=size, offset=(page - 1) * size)
    total = counts[wanted.state] if wanted.state else sum(counts.values())
    stats = {state.lower(): count for state, count in counts.items()}
    items = [fleet_item(row) for row in rows]
    return {"ok": True, "items": items, "total": total, "page": page, "page_size": size, "stats": stats}


def _counts(server: ServerState, query: FleetQuery, wanted: FleetFilter) -> dict[str, int]:
    """Return the counts, remembered for some seconds, longer the longer they took."""
    key = (*(getattr(wanted, name) for name in ("device_type", "distribution", "search", "device_types", "tags")),)
    found = server.fleet_counts.get(key)
    began_s = time.monotonic()
    if found is not None and found[0] > began_s:
        return found[1]
    counts = query.count_states()
    took_s = time.monotonic() - began_s
    if len(server.fleet_counts) >= _COUNTS_KEPT:
        server.fleet_counts.clear()
    if took_s > 0.05:
        server.fleet_counts[key] = (began_s + took_s + max(COUNTS_S, 5 * took_s), counts)
    return counts


def fleet_item(row: sa.RowMapping) -> dict[str, Any]:
    """Make the contract's object; `state` and `computed_state` differ in one word (decision D-STATE)."""
    state = row["state"]
    failed = row["status"] == "failed"
    return {
        "device_key": row["device_key"],
        "device_type": row["device_type"],
        "distribution": row["distribution"],
        "channel": row["update_channel"],
        "installed_version": row["installed_version"],
        "target_version": row["target_version"],
        "state": state,
        "computed_state": "FAILING" if state == "FAILED" else state,
        "update_status": row["status"] or "none",
        "last_seen": wire_text(row["last_seen_ms"]),
        "last_attempt_at": wire_text(row["at_ms"]),
        "last_attempt_status": row["status"],
        "last_error": (row["message"] or None) if failed else None,
    }


_EXPORT = {"format": {"type": "string", "enum": ["csv", "json"]}, **_FILTERS}


@router.get("/api/admin/device-updates/export", **describe_admin(None, query=_EXPORT))
def export_fleet_state(request: Request, principal: FleetViewer) -> Response:
    """Stream the whole list: JSON, or CSV as text/csv or inside JSON, as `Accept` says (decision D-CSV)."""
    kind = query_text(request, "format")
    if kind not in ("csv", "json"):
        raise InvalidInput("Invalid format", hint="use csv or json")
    pages = _pages(server_of(request), _filter_of(request, principal))
    if kind == "csv" and "text/csv" in request.headers.get("accept", ""):
        headers = {"content-disposition": 'attachment; filename="device-updates.csv"'}
        return StreamingResponse(export.csv_pieces(pages), media_type="text/csv; charset=utf-8", headers=headers)
    pieces = export.json_csv_pieces(pages) if kind == "csv" else export.json_pieces(pages)
    return StreamingResponse(pieces, media_type="application/json")


def _pages(server: ServerState, wanted: FleetFilter) -> Iterator[list[dict[str, Any]]]:
    with server.database.read() as connection:
        for rows in FleetQuery(connection, wanted).walk():
            yield [fleet_item(row) for row in rows]


# History.

_HISTORY = _PAGING | {
    "device_key": {"type": "string", "maxLength": 128},
    "device_type": {"type": "string", "maxLength": 128},
    "status": {"type": "string", "enum": list(STATUSES)},
    "version": {"type": "string", "maxLength": 64},
    "date_from": {"type": "string", "format": "date"},
    "date_to": {"type": "string", "format": "date"},
}


class AttemptItem(BaseModel):
    id: int
    device_key: str
    device_type: str
    device_distribution: str
    from_version: str | None
    to_version: str
    target_version: str
    installed_version: str | None
    status: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    duration_seconds: int | None
    duration: int | None
    message: str
    payload: dict[str, Any] | None


class HistoryReply(AdminReply):
    items: list[AttemptItem]
    total: int
    page: int
    page_size: int


@router.get("/api/admin/device-update-history", **describe_admin(HistoryReply, query=_HISTORY))
def get_history(request: Request, principal: FleetViewer) -> dict[str, Any]:
    """List update attempts, newest first."""
    page, size = query_int(request, "page", 1, 1, 10**9), query_int(request, "page_size", 50, 1, 1000)
    where = _history_conditions(request) + limits_of(principal.device_types, principal.tags)
    source = update_attempts.join(devices, devices.c.id == update_attempts.c.device_id)
    query = (
        sa.select(update_attempts, devices.c.device_key, presence.c.installed_version)
        .select_from(source.outerjoin(presence, presence.c.device_id == devices.c.id))
        .where(*where)
        .order_by(update_attempts.c.id.desc())
        .limit(size)
        .offset((page - 1) * size)
    )
    with server_of(request).database.read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(source).where(*where)).scalar_one()
        rows = connection.execute(query).mappings().all()
    return {"ok": True, "items": [attempt_item(row) for row in rows], "total": total, "page": page, "page_size": size}


def _history_conditions(request: Request) -> list[sa.ColumnElement[bool]]:
    """Raises: InvalidInput for a status or a date that is none."""
    found: list[sa.ColumnElement[bool]] = []
    columns = {
        "device_key": devices.c.device_key,
        "device_type": update_attempts.c.device_type,
        "version": update_attempts.c.to_version,
    }
    for name, column in columns.items():
        if (text := query_text(request, name)) is not None:
            found.append(column == text)
    if (status := query_text(request, "status")) is not None:
        if status.lower() not in STATUSES:
            raise InvalidInput("Invalid status", hint=f"use {', '.join(STATUSES)}")
        found.append(update_attempts.c.status == status.lower())
    if (begin := query_text(request, "date_from")) is not None:
        found.append(update_attempts.c.created_at_ms >= _day_ms(begin, "date_from"))
    if (end := query_text(request, "date_to")) is not None:
        found.append(update_attempts.c.created_at_ms < _day_ms(end, "date_to") + 86_400_000)
    return found


def _day_ms(text: str, name: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise InvalidInput(f"Invalid {name}", hint="write a day as YYYY-MM-DD") from None


def attempt_item(row: sa.RowMapping) -> dict[str, Any]:
    """Make the contract's object of an attempt."""
    begin, end = row["started_at_ms"] or row["created_at_ms"], row["completed_at_ms"]
    seconds = None if end is None else max(0, (end - begin) // 1000)
    return {
        "id": row["id"],
        "device_key": row["device_key"],
        "device_type": row["device_type"],
        "device_distribution": row["distribution"],
        "from_version": row["from_version"],
        "to_version": row["to_version"],
        "target_version": row["to_version"],
        "installed_version": row["installed_version"],
        "status": row["status"],
        "created_at": wire_text(row["created_at_ms"]),
        "started_at": wire_text(row["started_at_ms"]),
        "completed_at": wire_text(end),
        "duration_seconds": seconds,
        "duration": seconds,
        "message": row["message"],
        "payload": row["payload"],
    }


# Devices.


class ReportBody(Body):
    to_version: Text
    from_version: Text | None = None
    status: Text
    message: Annotated[Text, Field(max_length=MESSAGE_MAX)] = ""


class ReportReply(BaseModel):
    ok: Literal[True]
    attempt_id: int


@router.post("/api/devices/{device_key}/update-status", **describe(ReportReply, 404, body=ReportBody))
def report_update(
    request: Request,
    device_key: str,
    principal: Annotated[Principal, need(Role.OPERATOR, device=True)],
    body: Annotated[ReportBody, Depends(body_of(ReportBody))],
) -> dict[str, Any]:
    """Take a device's word about an update: pending, in_progress, success or failed."""
    status = body.status.lower()
    if status not in STATUSES:
        raise InvalidInput("Invalid status", hint=f"use {', '.join(STATUSES)}")
    before = check_version(body.from_version) if body.from_version else None
    report = Report(check_version(body.to_version), status, before, body.message)

    def change(connection: sa.Connection) -> int:
        return record_report(connection, get_device(connection, device_key), report)

    return {"ok": True, "attempt_id": server_of(request).writer.run(change)}


class TargetReply(BaseModel):
    device_key: str
    installed_version: str | None
    target_version: str | None
    update_available: bool
    start_after_s: int
    rollout: int | None
    manifest_url: str | None
    archive_url: str | None
    sha256: str | None
    size_bytes: int | None


@router.get("/api/devices/{device_key}/update", **describe(TargetReply, 404))
def get_update(
    request: Request, device_key: str, principal: Annotated[Principal, need(Role.VIEWER, device=True)]
) -> dict[str, Any]:
    """Say which version a device should have, after how many seconds it is to start, and where the files are."""
    server = server_of(request)
    with server.database.read() as connection:
        device = get_device(connection, device_key)
        target = target_of(connection, device)
        release = _release_of(connection, device, target.version)
    installed = device["installed_version"]
    return {
        "device_key": device["device_key"],
        "installed_version": installed,
        "target_version": target.version,
        "update_available": release is not None and installed != target.version,
        "start_after_s": target.start_after_s,
        "rollout": target.rollout_id,
        "manifest_url": file_url(request, server, release.name, MANIFEST) if release else None,
        "archive_url": file_url(request, server, release.name, release.archive_name) if release else None,
        "sha256": release.sha256 if release else None,
        "size_bytes": release.size_bytes if release else None,
    }


def _release_of(connection: sa.Connection, device: sa.RowMapping, version: str | None) -> Release | None:
    if version is None:
        return None
    try:
        return get_release(connection, device["device_type"], device["distribution"], version)
    except NotFound:
        return None
