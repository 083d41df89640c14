"""The server about itself: status, health and Prometheus figures."""

from __future__ import annotations

import time
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

import meetingctl
from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import AuthError, Busy, Forbidden, InvalidInput, MeetingctlError
from meetingctl.core.secret import same_secret
from meetingctl.server.http import describe, identify, is_local, need, query_int, server_of
from meetingctl.server.identity.credentials import bearer_of
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.metrics.counts import database_bytes
from meetingctl.server.metrics.host import runtime
from meetingctl.server.metrics.prometheus import CONTENT_TYPE
from meetingctl.server.metrics.recent import KEPT_LINES
from meetingctl.server.state import ServerState

router = APIRouter(tags=["server"])


class StatusReply(BaseModel):
    status: str
    version: str


class HealthReply(BaseModel):
    status: str
    version: str
    mode: str
    database: str
    uptime_s: float


class FiguresReply(BaseModel):
    """Of `action=get`; `action=logs` answers `{success, log}`, `action=prometheus` the text of `/metrics`."""

    success: bool
    metrics: dict[str, Any] | None = None
    log: list[str] | None = None


_ACTIONS = ("get", "logs", "prometheus")
_QUERY: dict[str, dict[str, Any]] = {
    "action": {"type": "string", "enum": list(_ACTIONS), "default": "get"},
    "lines": {"type": "integer", "minimum": 1, "maximum": KEPT_LINES, "default": 100},
}


@router.get("/api", **describe(StatusReply))
def get_status() -> dict[str, str]:
    """Say that the API is there."""
    return {"status": "Meeting API ready", "version": meetingctl.__version__}


@router.get("/api/health", **describe(HealthReply))
def get_health(request: Request) -> dict[str, Any]:
    """Say whether the server can do its work; 503 when the database does not answer."""
    server = server_of(request)
    with server.database.read() as connection:
        if connection.execute(sa.select(1)).scalar() != 1:
            raise Busy("Database busy")
    return {
        "status": "ok",
        "version": meetingctl.__version__,
        "mode": server.settings.mode,
        "database": server.database.dialect,
        "uptime_s": round(time.monotonic() - server.started_s, 1),
    }


@router.get("/metrics", **describe(None), response_class=Response)
async def get_metrics(request: Request) -> Response:
    """Give the Prometheus figures: to the metrics key, to viewers, and to loopback."""
    server = server_of(request)
    token = server.settings.metrics_token.reveal()
    presented = bearer_of(request.headers.get("authorization", ""))
    if not (token and presented and same_secret(token, presented)):
        if token or presented or not is_local(request):
            principal = await identify(request, None)
            if principal.kind == "anonymous":
                raise AuthError("Unauthorized")
            if not principal.has_role(Role.VIEWER):
                raise Forbidden("Forbidden")
    return await run_in_threadpool(_exposition, server)


@router.get("/api/metrics", **describe(FiguresReply, 500, query=_QUERY))
def get_figures(request: Request, principal: Annotated[Principal, need(Role.VIEWER)]) -> Any:
    """Give the figures of machine, process and database, the last lines of the log to administrators, or `/metrics`."""
    server = server_of(request)
    action = request.query_params.get("action", "get")
    if action == "get":
        return {"success": True, "metrics": _figures(server)}
    if action == "prometheus":
        return _exposition(server)
    if action != "logs":
        raise InvalidInput("Unknown action", hint=f"one of {', '.join(_ACTIONS)}")
    if not principal.has_role(Role.ADMIN):
        raise Forbidden("Forbidden", needed="admin")
    lines = query_int(request, "lines", 100, 1, KEPT_LINES)
    if not server.metrics.recent.is_attached:
        raise MeetingctlError("Log not found", hint="the server keeps its last lines while `meetingctl serve` runs")
    return {"success": True, "log": server.metrics.recent.lines(lines)}


def _exposition(server: ServerState) -> Response:
    text = server.metrics.text(server.metrics.tables.read(server))
    return Response(text, headers={"content-type": CONTENT_TYPE})


def _figures(server: ServerState) -> dict[str, Any]:
    """Raises: MeetingctlError `Metrics unavailable`."""
    host = server.metrics.host.read(server.data_dir)
    with server.database.read() as connection:
        size_bytes = database_bytes(connection)
    database = {"engine": server.database.dialect, "size_bytes": size_bytes, "waiting_writes": server.writer.pending}
    process = host.pop("process") | {"uptime_sec": int(time.monotonic() - server.started_s)}
    return {
        **host,
        "db_metrics": database | dict(server.metrics.tables.read(server)),
        "process": process,
        "runtime": runtime() | {"meetingctl": meetingctl.__version__},
        "php_version": None,  # readers of the original look for it
        "timestamp": wire_text(now_ms()),
    }
