"""The registry over HTTP, for a proxy that runs apart from the API."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from meetingctl.client import FleetClient
from meetingctl.core.errors import MeetingctlError
from meetingctl.tunnel.directory import Admission, Desired, Refused, Report, Tunnel


class ApiDirectory:
    """Ask the fleet API. The client's key needs the role `proxy`."""

    def __init__(self, client: FleetClient) -> None:
        self._client = client

    async def admit(self, device_key: str, token: str, peer: str) -> Admission:
        """Check a credential. Raises: Refused; MeetingctlError when the API gives no usable answer."""
        question = {"device_key": device_key, "token": token, "peer": peer}
        answer = await asyncio.to_thread(self._client.request, "POST", "/api/proxy/admit", json=question)
        return parse_admission(answer)

    async def sync(self, report: Report) -> Desired:
        """Hand over a report. Raises: MeetingctlError when the API gives no usable answer."""
        answer = await asyncio.to_thread(self._client.request, "POST", "/api/proxy/sync", json=asdict(report))
        return parse_desired(answer)

    async def wait_change(self, timeout_s: float) -> None:
        """Wait for one poll interval: the API has no other way to tell."""
        await asyncio.sleep(timeout_s)


def parse_admission(answer: Any) -> Admission:
    """Read the answer to an admission. Raises: Refused, MeetingctlError for an answer of another shape."""
    try:
        if not answer["admitted"]:
            raise Refused(str(answer["reason"]))
        return Admission(str(answer["device_key"]), int(answer["generation"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise MeetingctlError("the API answered an admission with something else") from exc


def parse_desired(answer: Any) -> Desired:
    """Read the wanted state. Raises: MeetingctlError."""
    try:
        return Desired(
            tunnels=tuple(_parse_tunnel(entry) for entry in answer["tunnels"]),
            drop=tuple((str(device_key), str(reason)) for device_key, reason in answer["drop"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise MeetingctlError("the API answered a report with something else") from exc


def _parse_tunnel(entry: Any) -> Tunnel:
    expires_at_ms, allow_from = entry["expires_at_ms"], entry["allow_from"]
    return Tunnel(
        port=int(entry["port"]),
        device_key=str(entry["device_key"]),
        service=str(entry["service"]),
        local_port=int(entry["local_port"]),
        expires_at_ms=None if expires_at_ms is None else int(expires_at_ms),
        allow_from=None if allow_from is None else tuple(map(str, allow_from)),
    )
