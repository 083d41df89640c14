"""The seam between a proxy and the registry of devices and tunnels.

Two implementations exist: the registry in the same process, and `api_directory` over HTTP. Directions are seen from the
device: `bytes_in` went from visitors to the device, `bytes_out` came from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from meetingctl.core.errors import AuthError

# One text for an unknown device and for a wrong token, or the handshake would tell which devices exist.
DENIED = "unknown device or wrong token"

# The credential is right; the device dials in again and again.
TOO_OFTEN = "too many connections"

# The reason of a visit that the agent turned away because of its setting `agent_ports`.
PORT_NOT_ALLOWED = "port not allowed on the device"

AgentKind = Literal["old", "new"]
Outcome = Literal["ok", "refused", "reset", "failed"]


class Refused(AuthError):
    """The device may not connect; the message goes to the agent."""

    def __init__(self, reason: str = DENIED) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One public port. `allow_from` lists networks, None lets everybody in; `expires_at_ms` None has no end."""

    port: int
    device_key: str
    service: str
    local_port: int
    expires_at_ms: int | None = None
    allow_from: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class AgentLink:
    """One connected agent. Byte counts are payload since it connected."""

    device_key: str
    generation: int
    peer: str
    kind: AgentKind
    connected_at_ms: int
    streams: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Visit:
    """One visitor that came and went, or was turned away."""

    device_key: str
    port: int
    service: str
    local_port: int
    peer: str
    opened_at_ms: int
    duration_ms: int
    bytes_in: int
    bytes_out: int
    outcome: Outcome
    reason: str
    path: str = "mux"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that an operator may want to know of a device's link.

    `device_key` is empty where a refused agent named none.
    """

    at_ms: int
    device_key: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a proxy tells the registry: its present agents, and visits and events since the last report."""

    proxy: str
    agents: tuple[AgentLink, ...] = ()
    visits: tuple[Visit, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """What the registry wants: the tunnels, and agents to end at once as pairs of device key and reason."""

    tunnels: tuple[Tunnel, ...] = ()
    drop: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """An accepted device. `generation` names this connection in the registry."""

    device_key: str
    generation: int


class Directory(Protocol):
    """What a proxy asks of the registry."""

    async def admit(self, device_key: str, token: str, peer: str) -> Admission:
        """Check a credential. Raises: Refused with the reason that the agent is told."""

    async def sync(self, report: Report) -> Desired:
        """Hand over a report and return what should be open now."""

    async def wait_change(self, timeout_s: float) -> None:
        """Return when tunnels or devices changed, at the latest after the timeout."""
