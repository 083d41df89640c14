"""Read and verify the audit log."""

from __future__ import annotations

import json
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from pydantic import BaseModel

from meetingctl.core.clock import wire_text
from meetingctl.server.audit.chain import verify
from meetingctl.server.db.schema import audit
from meetingctl.server.http import describe, need, query_int, server_of
from meetingctl.server.identity.principal import Principal, Role

router = APIRouter(tags=["audit"])

Auditor = Annotated[Principal, need(Role.ADMIN, open_mode=False)]


class AuditRecord(BaseModel):
    id: int
    time: str
    principal: str
    peer: str
    action: str
    object: str
    result: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str


class AuditReply(BaseModel):
    records: list[AuditRecord]
    next: int | None


class VerifyReply(BaseModel):
    ok: bool
    records: int
    first_bad: int | None


_QUERY = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "before": {"type": "integer", "minimum": 0},
    "object": {"type": "string", "maxLength": 256},
}


@router.get("/api/audit", **describe(AuditReply, query=_QUERY))
def list_audit(request: Request, principal: Auditor) -> dict[str, Any]:
    """List records, newest first; `next` is the `before` of the following page."""
    limit = query_int(request, "limit", 100, 1, 1000)
    before = query_int(request, "before", 0, 0, 2**62)
    wanted = request.query_params.get("object", "")
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit + 1)
    if before:
        query = query.where(audit.c.id < before)
    if wanted:
        query = query.where(audit.c.object == wanted)
    with server_of(request).database.read() as connection:
        rows = connection.execute(query).mappings().all()
    return {
        "records": [_shown(row) for row in rows[:limit]],
        "next": rows[limit - 1]["id"] if len(rows) > limit else None,
    }


@router.get("/api/audit/verify", **describe(VerifyReply))
def verify_audit(request: Request, principal: Auditor) -> dict[str, Any]:
    """Check the hash chain from the first record to the last."""
    with server_of(request).database.read() as connection:
        records, first_bad = verify(connection)
    return {"ok": first_bad is None, "records": records, "first_bad": first_bad}


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "time": wire_text(row["at_ms"]),
        "principal": row["principal"],
        "peer": row["peer"],
        "action": row["action"],
        "object": row["object"],
        "result": row["result"],
        "before": json.loads(row["before"]) if row["before"] else None,
        "after": json.loads(row["after"]) if row["after"] else None,
        "request_id": row["request_id"],
    }
