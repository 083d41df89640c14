"""Which ways may lead to a device, decided from its record alone."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from meetingctl.core.clock import parse_wire
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.net import join_endpoint, parse_address
from meetingctl.core.services import DEFAULT_LOCAL_PORTS

# A tunnel that ends sooner is renewed before a session begins in it.
TUNNEL_LIFE_MS = 10 * 60_000

Way = Literal["direct", "tunnel", "address"]
Via = Literal["auto", "direct", "tunnel"]

_URL_HOST = re.compile(r"@(?P<host>[^\s@]+?):?$")


@dataclass(frozen=True, slots=True)
class Route:
    """Where an SSH server of the target answers, and how that was found.

    `opened` is a connection on which it has greeted already; whoever gave the route closes it.
    """

    host: str
    port: int
    way: Way
    why: str
    opened: socket.socket | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{join_endpoint(self.host, self.port)} ({self.way})"


@dataclass(frozen=True, slots=True)
class Direct:
    """A direct address that is worth a try; `source` is the device's field that it comes from."""

    host: str
    port: int
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The ways to try in this order and why so, the direct addresses, and a note on each address passed over."""

    ways: tuple[Literal["direct", "tunnel"], ...]
    direct: tuple[Direct, ...]
    passed_over: tuple[str, ...]
    why: str

    def name(self, way: Way) -> str:
        """Say what a try of this way asks."""
        if way != "direct":
            return f"the {way}"
        return ", ".join(f"{join_endpoint(found.host, found.port)} ({found.source})" for found in self.direct)


def plan_ways(device: Mapping[str, Any], *, is_pinned: bool, server_addresses: Collection[str], via: Via) -> Plan:
    """Choose the ways to a device from its record.

    The first contact prefers the tunnel, which nobody but the device can hold. Every later one prefers a direct
    address: what a device once reported as 192.168.1.10 may be a stranger in the network where the operator sits now,
    and the pinned host key tells them apart.

    `server_addresses` are those of the fleet server: a device that seems to have one of them sits behind the same NAT
    or proxy, and its port 22 there belongs to another machine.
    """
    direct: list[Direct] = []
    passed_over: list[str] = []
    port = chosen_ssh_port(device) or DEFAULT_LOCAL_PORTS["ssh"]
    for source in ("ip_lan", "ip_address"):
        text = device.get(source)
        if not isinstance(text, str) or any(found.host == text for found in direct):
            continue
        if reason := _why_useless(text, server_addresses):
            passed_over.append(f"{source} {text}: {reason}")
        else:
            direct.append(Direct(text, port, source))
    order: tuple[Literal["direct", "tunnel"], ...] = ("direct", "tunnel") if is_pinned else ("tunnel", "direct")
    ways = tuple(way for way in order if via in ("auto", way) and (way == "tunnel" or direct))
    return Plan(ways, tuple(direct), tuple(passed_over), _explain_order(ways, is_pinned=is_pinned, via=via))


def _explain_order(ways: Collection[Way], *, is_pinned: bool, via: Via) -> str:
    """Say why the ways are tried in this order, or why there is one only."""
    if via != "auto":
        return f"{via} only, as asked for"
    if "direct" not in ways:
        return "the tunnel only: no direct address is worth a try"
    if is_pinned:
        return "a direct address first, because a pinned host key tells whether it is the device's; then the tunnel"
    return "the tunnel first, because no pinned host key vouches for a direct address; then that"


def has_life(tunnel: Mapping[str, Any], at_ms: int) -> bool:
    """Say whether an open tunnel lasts long enough to begin a session in it."""
    return left_ms(tunnel, at_ms) > TUNNEL_LIFE_MS


def left_ms(tunnel: Mapping[str, Any], at_ms: int) -> float:
    """Return how long an open tunnel lasts from a time on, infinity without an end."""
    end = tunnel.get("expires_at")
    return math.inf if end is None else parse_wire(str(end)) - at_ms


def chosen_ssh_port(device: Mapping[str, Any]) -> int | None:
    """Return the port of the device's SSH server when its record names one."""
    ports = device.get("local_ports")
    port = ports.get("ssh") if isinstance(ports, Mapping) else None
    return port if isinstance(port, int) else None


def host_of_url(url: str) -> str:
    """Return the host of a tunnel's `url`, as in `ssh -p 9050 device@gate.example`. Raises: MeetingctlError."""
    found = _URL_HOST.search(url.strip())
    host = found["host"] if found else urlsplit(url).hostname
    if not host:
        raise MeetingctlError(f"the server's tunnel address names no host: {url[:200]!r}")
    return host.strip("[]")


def _why_useless(text: str, server_addresses: Collection[str]) -> str | None:
    try:
        address = parse_address(text)
    except ValueError:
        return "no IP address"
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return "not an address of one machine"
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local:
        return "link-local, and its interface is not known"
    if str(address) in server_addresses:
        return "the address of the fleet server"
    return None
