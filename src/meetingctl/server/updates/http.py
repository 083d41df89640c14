"""What the routes of the updates slice share: documentation, limits of keys, and who may read releases."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel

from meetingctl.core.errors import Forbidden, InvalidInput
from meetingctl.server.http import Access, authorize, describe, identify, need, presented, server_of
from meetingctl.server.identity.principal import ANONYMOUS, Principal, Role

Viewer = Annotated[Principal, need(Role.VIEWER, permission="updates:view", limits="both")]
FleetViewer = Annotated[Principal, need(Role.VIEWER, permission="fleet:view", limits="both")]
FleetManager = Annotated[Principal, need(Role.OPERATOR, permission="fleet:manage", limits="both")]
ChannelEditor = Annotated[Principal, need(Role.OPERATOR, permission="channels:edit", limits="types")]
Publisher = Annotated[Principal, need(Role.OPERATOR, permission="updates:publish", limits="types")]


class AdminError(BaseModel):
    """The error shape below `/api/admin`."""

    ok: bool
    error: str
    message: str


class AdminReply(BaseModel):
    """The least that an answer below `/api/admin` holds."""

    ok: bool


def describe_admin(reply: Any, *errors: int, **more: Any) -> dict[str, Any]:
    """Describe a route of the admin family, whose errors have a code."""
    described = describe(reply, *errors, **more)
    for status, response in described["responses"].items():
        if status != 200:
            response["model"] = AdminError
    return described


def query_text(request: Request, name: str) -> str | None:
    """Return a text of the query, None when it is absent or empty; `device_type` may be `devicetype` (D-CASE)."""
    return request.query_params.get(name) or request.query_params.get(name.replace("_", "")) or None


def need_text(request: Request, name: str) -> str:
    """Return a text that the query must hold. Raises: InvalidInput."""
    text = query_text(request, name)
    if text is None:
        raise InvalidInput(f"Missing {name}")
    return text


def check_type(principal: Principal, device_type: str) -> None:
    """Raises: Forbidden when the caller's key is limited to other device types."""
    if principal.device_types is not None and device_type not in principal.device_types:
        raise Forbidden("Device type not allowed")


async def _check_reader(request: Request) -> Principal:
    """Let everybody read published releases, or people and devices only, as `updates_public_read` says.

    A token code counts with the `device_key` of the query; without one there is nothing to check it against, and where
    everybody may read it is left aside. A wrong credential is refused in either case.
    """
    device_key = request.query_params.get("device_key")
    if not server_of(request).settings.updates_public_read:
        return await authorize(request, _READER, device_key)
    given = presented(request)
    return await identify(request, device_key) if given.bearer or (given.token_code and device_key) else ANONYMOUS


class _ReleaseAccess(Access):
    """People from viewer on, and any device."""

    def allows(self, principal: Principal, device_key: str | None, mode: str) -> bool:
        return principal.kind == "device" or super().allows(principal, device_key, mode)


_READER = _ReleaseAccess(Role.VIEWER, permission="updates:view", limits="both")
ReleaseReader = Annotated[Principal, Depends(_check_reader)]
