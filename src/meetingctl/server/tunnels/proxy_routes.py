"""What a tunnel proxy in a process of its own calls; needs a service key of role `proxy`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from meetingctl.core.errors import InvalidInput
from meetingctl.server.http import Body, Text, body_of, describe, need, read_json
from meetingctl.server.identity.principal import Principal, Role
from meetingctl.server.tunnels.directory import RegistryDirectory
from meetingctl.tunnel.directory import Report

router = APIRouter(tags=["proxy"])

Proxy = Annotated[Principal, need(Role.ADMIN, services=("proxy",), open_mode=False)]


class AdmitBody(Body):
    device_key: Text
    token: Text
    peer: Text


class AdmitReply(BaseModel):
    device_key: str
    generation: int


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
    admission = await _directory(request).admit(body.device_key[:128], body.token[:64], body.peer[:64])
    return {"device_key": admission.device_key, "generation": admission.generation}


@router.post("/api/proxy/sync", **describe(SyncReply, body=SyncBody))
async def sync(request: Request, principal: Proxy) -> Response:
    """Take a proxy's report; answer with the tunnels to open and the agents to drop."""
    try:
        report = msgspec.convert(await read_json(request), Report)
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"Invalid report: {exc}") from exc
    desired = await _directory(request).sync(report)
    return Response(msgspec.json.encode(desired), media_type="application/json")
