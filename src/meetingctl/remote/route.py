"""Which way leads to a device.

`plan_ways` decides from what is known; the rest tries the ways in that order. A direct address is worth something only
once the device's host key is pinned: what a device once reported as 192.168.1.10 may be a stranger in the network where
the operator sits now, and the pin tells them apart. So the very first contact prefers the tunnel, which nobody but the
device can hold, and every later one prefers the direct address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from meetingctl.client import FleetClient
from meetingctl.core.errors import HostKeyChanged, MeetingctlError, NotFound, Unreachable
from meetingctl.core.net import join_endpoint, parse_address
from meetingctl.core.services import DEFAULT_LOCAL_PORTS
from meetingctl.core.target import AddressTarget

SSH_PORT = DEFAULT_LOCAL_PORTS["ssh"]
BANNER_CAP_BYTES = 8192
TUNNEL_POLL_S = 0.1

Way = Literal["direct", "tunnel", "address"]
Via = Literal["auto", "direct", "tunnel"]
Note = Callable[[str], None]
T = TypeVar("T")

_URL_HOST = re.compile(r"@(?P<host>[^\s@]+?):?$")


@dataclass(frozen=True, slots=True)
class Route:
    """Where an SSH server of the target answers, and how that was found."""

    host: str
    port: int
    way: Way
    why: str

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
    """The ways to try in this order, the direct addresses, and a note on each address that was passed over."""

    ways: tuple[Literal["direct", "tunnel"], ...]
    direct: tuple[Direct, ...]
    passed_over: tuple[str, ...]


def plan_ways(device: Mapping[str, Any], *, is_pinned: bool, server_addresses: Collection[str], via: Via) -> Plan:
    """Choose the ways to a device from its record.

    `server_addresses` are those of the fleet server: a device that seems to have one of them sits behind the same NAT
    or proxy, and its port 22 there belongs to another machine.
    """
    direct: list[Direct] = []
    passed_over: list[str] = []
    port = local_ssh_port(device)
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
    return Plan(ways, tuple(direct), tuple(passed_over))


def local_ssh_port(device: Mapping[str, Any]) -> int:
    """Return the port of the device's own SSH server."""
    ports = device.get("local_ports")
    port = ports.get("ssh") if isinstance(ports, Mapping) else None
    return port if isinstance(port, int) else SSH_PORT


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


async def resolve_addresses(host: str) -> frozenset[str]:
    """Return the addresses of a host name; none when it cannot be resolved."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(entry[4][0]) for entry in found)


async def read_banner(host: str, port: int, *, timeout_s: float) -> str:
    """Connect, and return the server's identification line (RFC 4253, section 4.2).

    Raises: Unreachable when nothing answers in time, when what answers is no SSH server, or when it is this machine.
    """
    where = join_endpoint(host, port)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=BANNER_CAP_BYTES)
            try:
                return await _read_banner(reader, where)
            finally:
                writer.transport.abort()
    except TimeoutError as exc:
        raise Unreachable(f"no SSH answer from {where} within {timeout_s:g} s") from exc
    except (OSError, ValueError) as exc:
        raise Unreachable(f"no SSH answer from {where}: {exc}") from exc


async def _read_banner(reader: asyncio.StreamReader, where: str) -> str:
    seen_bytes = 0
    while seen_bytes < BANNER_CAP_BYTES and (line := await reader.readline()):
        if line.startswith(b"SSH-"):
            return line.decode("ascii", "replace").strip()
        seen_bytes += len(line)
    raise Unreachable(f"no SSH server at {where}" if seen_bytes else f"no SSH answer from {where}: it hung up")


@dataclass(frozen=True, slots=True)
class RouteFinder:
    """Finds the routes to devices of one fleet server. Deadlines are those of the settings."""

    client: FleetClient
    direct_s: float
    connect_s: float
    note: Note

    async def routes(self, key: str, *, is_pinned: bool, via: Via = "auto") -> AsyncGenerator[Route, None]:
        """Yield the routes to a device, best first; the next is looked for only when it is asked for.

        Raises: NotFound, AuthError and their like from the registry; Unreachable when no way leads to the device.
        """
        device = await asyncio.to_thread(self.client.get_device, key)
        server = urlsplit(self.client.base_url).hostname or ""
        via = "tunnel" if via == "auto" and not self.direct_s else via
        plan = plan_ways(device, is_pinned=is_pinned, server_addresses=await resolve_addresses(server), via=via)
        for reason in plan.passed_over:
            self.note(f"{key}: {reason}")
        failure: MeetingctlError | None = None
        found = False
        for position, way in enumerate(plan.ways):
            is_last = position == len(plan.ways) - 1
            try:
                route = await (self._try_direct(plan.direct) if way == "direct" else self._try_tunnel(key, is_last))
            except MeetingctlError as error:
                self.note(f"{key}: {way}: {error}")
                failure = error
                continue
            found = True
            yield route
        if not found:
            raise failure or NotFound(f"{key}: reported no address that can be reached directly", hint="--via tunnel")

    async def _try_direct(self, direct: tuple[Direct, ...]) -> Route:
        """Ask all addresses at once; of those that answer in time, the first in order wins."""
        asked = [asyncio.create_task(self._ask_direct(address)) for address in direct]
        try:
            results = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            for task in asked:
                task.cancel()
        for result in results:
            if isinstance(result, Route):
                return result
        reasons = "; ".join(str(result) for result in results)
        raise Unreachable(reasons, hint="--via tunnel")

    async def _ask_direct(self, address: Direct) -> Route:
        banner = await read_banner(address.host, address.port, timeout_s=self.direct_s)
        return Route(address.host, address.port, "direct", f"{address.source} answers as {banner}")

    async def _try_tunnel(self, key: str, is_last: bool) -> Route:
        """Open the tunnel and wait until the device answers in it; with another way left, do not wait for an agent."""
        opened = await asyncio.to_thread(self.client.open_tunnel, key, "ssh")
        port, host = int(opened["port"]), host_of_url(str(opened.get("url") or ""))
        where = join_endpoint(host, port)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.connect_s
        while True:
            try:
                banner = await read_banner(host, port, timeout_s=max(0.1, deadline_s - loop.time()))
                return Route(host, port, "tunnel", f"{where} answers as {banner}")
            except Unreachable as exc:
                is_late = loop.time() + TUNNEL_POLL_S >= deadline_s
                if is_late or (not is_last and not await self._is_agent_online(port)):
                    raise Unreachable(
                        f"{key}: no SSH answer through the tunnel {where} within {self.connect_s:g} s",
                        hint=f"meetingctl tunnel show {port}",
                    ) from exc
            await asyncio.sleep(TUNNEL_POLL_S)

    async def _is_agent_online(self, port: int) -> bool:
        with contextlib.suppress(MeetingctlError):
            return (await asyncio.to_thread(self.client.get_tunnel, port)).get("online") is not False
        return True


async def address_routes(target: AddressTarget) -> AsyncGenerator[Route, None]:
    """Yield the one route of an address that the operator gave."""
    yield Route(target.host, target.port, "address", "given on the command line")


async def reach(name: str, routes: AsyncGenerator[Route, None], use: Callable[[Route], Awaitable[T]], note: Note) -> T:
    """Use the first route that leads to the device itself.

    A direct address that shows another host key, or fails before the login, is passed over for the next route; when
    there is no next one, its error stands. Raises: what `routes` and the last `use` raise.
    """
    failure: MeetingctlError | None = None
    async with contextlib.aclosing(routes) as found:
        async for route in found:
            note(f"{name}: {route.way}, {route.why}")
            try:
                return await use(route)
            except (HostKeyChanged, Unreachable) as error:
                if route.way != "direct":
                    raise
                note(f"{name}: passed over {route}: {error}")
                failure = failure or error
    raise failure or Unreachable(f"{name}: no way leads to it")
