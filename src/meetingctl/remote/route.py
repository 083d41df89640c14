"""The way to a device, found by trying.

`ways.plan_ways` says what to try in which order; here it is tried. Nothing but an SSH greeting counts as an answer, and
the next way is looked at only when the one before led nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from meetingctl.client import FleetClient
from meetingctl.core.clock import now_ms
from meetingctl.core.errors import HostKeyChanged, MeetingctlError, NotFound, Unreachable
from meetingctl.core.net import join_endpoint
from meetingctl.core.target import AddressTarget
from meetingctl.remote.ways import Direct, Route, Via, has_life, host_of_url, plan_ways

BANNER_CAP_BYTES = 8192
TUNNEL_POLL_S = 0.1

Note = Callable[[str], None]
T = TypeVar("T")


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
            raise failure or NotFound(
                f"{key}: reported no address that can be reached directly", hint=f"meetingctl tunnel open {key} ssh"
            )

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
        raise Unreachable(reasons, hint="leave out --via direct to use the tunnel")

    async def _ask_direct(self, address: Direct) -> Route:
        banner = await read_banner(address.host, address.port, timeout_s=self.direct_s)
        return Route(address.host, address.port, "direct", f"{address.source} answers as {banner}")

    async def _try_tunnel(self, key: str, is_last: bool) -> Route:
        """Open the tunnel and wait until the device answers in it.

        With another way left nobody waits for an agent that is not there; the proxy would hold a visitor for seconds.
        """
        opened = await asyncio.to_thread(self._open_tunnel, key)
        port, host = int(opened["port"]), host_of_url(str(opened.get("url") or ""))
        where, hint = join_endpoint(host, port), f"meetingctl tunnel show {port}"
        if not is_last and not await self._is_agent_online(port):
            raise Unreachable(f"{key}: its agent is not connected", hint=hint)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.connect_s
        while True:
            try:
                banner = await read_banner(host, port, timeout_s=max(TUNNEL_POLL_S, deadline_s - loop.time()))
                return Route(host, port, "tunnel", f"{where} answers as {banner}")
            except Unreachable as exc:
                if loop.time() + TUNNEL_POLL_S >= deadline_s:
                    message = f"{key}: no SSH answer through the tunnel {where} within {self.connect_s:g} s"
                    raise Unreachable(message, hint=hint) from exc
            await asyncio.sleep(TUNNEL_POLL_S)

    def _open_tunnel(self, key: str) -> Mapping[str, Any]:
        """Return the device's tunnel; one that is there keeps its end and its list of visitors where possible."""
        for tunnel in self.client.list_tunnels():
            if tunnel.get("device_key") == key and tunnel.get("service") == "ssh":
                known = self.client.get_tunnel(int(tunnel["port"]))
                if has_life(known, now_ms()):
                    return known
                return self.client.open_tunnel(key, "ssh", allow_from=known.get("allow_from") or ["any"])
        return self.client.open_tunnel(key, "ssh")

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
