"""What a tunnel proxy in a process of its own calls; needs a service key of role `proxy`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from meetingctl.core.errors import InvalidInput
from meetingctl.server.http import MAX_INT, Body, Text, body_of, describe, need, read_json
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.tunnels.directory import RegistryDirectory
from meetingctl.tunnel.directory import AgentLink, Event, Refused, Report, Visit

router = APIRouter(tags=["proxy"])

Proxy = Annotated[Principal, need(Role.ADMIN, services=("proxy",), open_mode=False)]


class AdmitBody(Body):
    device_key: Text
    token: Text
    peer: Text


class AdmitReply(BaseModel):
    """A refusal is an answer like another: 401 means that the proxy's own key is wrong."""

    admitted: bool
    device_key: str
    generation: int
    reason: str


class SyncBody(Body):
    proxy: Text
    agents: list[dict[str, Any]] = Field(default_factory=list)
    visits: list[dict[str, Any]] = Field(default_factory=list)
    events: list[dict[str, Any]] = Field(default_factory=list)


class SyncReply(BaseModel):
    tunnels: list[dict[str, Any]]
    drop: list[list[str]]


def _directory(request: Request) -> RegistryDirectory:
    directory: RegistryDirectory = request.app.state.directory
    return directory


@router.post("/api/proxy/admit", **describe(AdmitReply, body=AdmitBody))
async def admit(
    request: Request, principal: Proxy, body: Annotated[AdmitBody, Depends(body_of(AdmitBody))]
) -> dict[str, Any]:
    """Check the credential of an agent that dialled in."""
    device_key = body.device_key[:128]
    try:
        admission = await _directory(request).admit(device_key, body.token[:64], body.peer[:64])
    except Refused as exc:
        return {"admitted": False, "device_key": device_key, "generation": 0, "reason": exc.reason}
    return {"admitted": True, "device_key": device_key, "generation": admission.generation, "reason": ""}


@router.post("/api/proxy/sync", **describe(SyncReply, body=SyncBody))
async def sync(request: Request, principal: Proxy) -> Response:
    """Take a proxy's report; answer with the tunnels to open and the agents to drop."""
    try:
        report = msgspec.convert(await read_json(request), Report)
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"Invalid report: {exc}") from exc
    _check_numbers(report)
    desired = await _directory(request).sync(report)
    return Response(msgspec.json.encode(desired), media_type="application/json")


def _check_numbers(report: Report) -> None:
    """Raises: InvalidInput for a number that the database has no room for."""
    items: tuple[AgentLink | Visit | Event, ...] = (*report.agents, *report.visits, *report.events)
    for item in items:
        for field in dataclasses.fields(item):
            value = getattr(item, field.name)
            most = 65535 if field.name in ("port", "local_port") else MAX_INT
            if isinstance(value, int) and not 0 <= value <= most:
                raise InvalidInput(f"Invalid report: {field.name} out of range")
