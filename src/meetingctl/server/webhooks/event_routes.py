"""What happened lately: the connection logs of the devices and, for administrators, the audit log."""

from __future__ import annotations

import heapq
import re
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request
from pydantic import BaseModel

from meetingctl.core.clock import wire_text
from meetingctl.core.errors import InvalidInput
from meetingctl.server.audit.newest import read_audit_events
from meetingctl.server.devices.log_events import read_log_events
from meetingctl.server.devices.store import Choice
from meetingctl.server.http import describe, need, query_int, server_of
from meetingctl.server.identity.principal import Principal, Role

router = APIRouter(tags=["events"])

Viewer = Annotated[Principal, need(Role.VIEWER, limits="both")]
_CURSOR = re.compile(r"(\d{1,18})-(\d{1,18})")
_QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "after": {"type": "string", "pattern": "^[0-9]{1,18}-[0-9]{1,18}$"},
    "device_key": {"type": "string", "maxLength": 128},
}


class EventItem(BaseModel):
    """`source` is `device` (its connection log) or `audit`; `by` is an address or a principal."""

    time: str
    source: str
    event: str
    subject: str
    by: str
    result: str


class EventsReply(BaseModel):
    """Oldest first; `cursor` is the `after` that continues here."""

    events: list[EventItem]
    cursor: str


class Cursor(NamedTuple):
    """How far a reader came in either log."""

    log_id: int
    audit_id: int


class _Entry(NamedTuple):
    at_ms: int
    is_audit: bool
    row: Any


def parse_cursor(text: str | None) -> Cursor | None:
    """Read a cursor of an earlier answer. Raises: InvalidInput."""
    if not text:
        return None
    match = _CURSOR.fullmatch(text) if text.isascii() else None
    if match is None:
        raise InvalidInput("Invalid after")
    return Cursor(int(match[1]), int(match[2]))


def may_see_audit(principal: Principal) -> bool:
    """Say whether the audit log belongs into the answer: for administrators without limits, never without a key."""
    is_limited = principal.device_types is not None or principal.tags is not None
    return (
        principal.kind != "open" and principal.has_role(Role.ADMIN) and principal.may("admin:full") and not is_limited
    )


@router.get("/api/events", **describe(EventsReply, query=_QUERY))
def list_events(request: Request, principal: Viewer) -> dict[str, Any]:
    """List the newest events, or those after a cursor."""
    server, limit = server_of(request), query_int(request, "limit", 100, 1, 1000)
    cursor = parse_cursor(request.query_params.get("after"))
    device_key = request.query_params.get("device_key", "")[:128]
    choice = Choice(allowed_types=principal.device_types, allowed_tags=principal.tags)
    target = f"device:{device_key}" if device_key else ""
    with server.database.read() as connection:
        logged = read_log_events(connection, choice, limit=limit, after=cursor and cursor.log_id, device_key=device_key)
        audited = (
            read_audit_events(connection, limit=limit, after=cursor and cursor.audit_id, target=target)
            if may_see_audit(principal)
            else ()
        )
    entries = merge(logged, audited)
    kept = entries[:limit] if cursor else entries[-limit:]
    after = advance(cursor or Cursor(0, 0), kept if cursor else entries)
    return {"events": [_shown(entry) for entry in kept], "cursor": f"{after.log_id}-{after.audit_id}"}


def merge(logged: Any, audited: Any) -> list[_Entry]:
    """Merge two lists by time; each keeps its own order. Pure."""
    streams = (
        [_Entry(row["at_ms"], is_audit, row) for row in rows] for rows, is_audit in ((logged, False), (audited, True))
    )
    return list(heapq.merge(*streams, key=lambda entry: entry.at_ms))


def advance(cursor: Cursor, entries: list[_Entry]) -> Cursor:
    """Return the cursor behind the entries. Pure."""
    log_id = max((entry.row["id"] for entry in entries if not entry.is_audit), default=cursor.log_id)
    audit_id = max((entry.row["id"] for entry in entries if entry.is_audit), default=cursor.audit_id)
    return Cursor(log_id, audit_id)


def _shown(entry: _Entry) -> dict[str, Any]:
    row, common = entry.row, {"time": wire_text(entry.at_ms)}
    if entry.is_audit:
        facts = {"event": row["action"], "subject": row["object"], "by": row["principal"], "result": row["result"]}
        return common | {"source": "audit"} | facts
    by = row["remote"] or row["host"]
    return common | {"source": "device", "event": row["event"], "subject": row["device_key"], "by": by, "result": "ok"}
