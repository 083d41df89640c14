"""The server about itself: status, health and Prometheus figures."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

import meetingctl
from meetingctl.core.errors import AuthError, Busy, Forbidden
from meetingctl.core.secret import same_secret
from meetingctl.server.http import describe, identify, is_local, server_of
from meetingctl.server.identity.credentials import bearer_of
from meetingctl.server.identity.principal import Role
from meetingctl.server.metrics.prometheus import CONTENT_TYPE

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
    return Response(server.metrics.text(), headers={"content-type": CONTENT_TYPE})
