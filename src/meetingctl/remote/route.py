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
from typing import TypeVar
from urllib.parse import urlsplit

from meetingctl.client import FleetClient
from meetingctl.core.errors import HostKeyChanged, MeetingctlError, NotFound, Unreachable
from meetingctl.core.target import AddressTarget
from meetingctl.remote.banner import open_greeted
from meetingctl.remote.seen import SeenDevices
from meetingctl.remote.tunnel import TunnelWay
from meetingctl.remote.ways import Direct, Route, Via, Way, chosen_ssh_port, plan_ways

Note = Callable[[str], None]
T = TypeVar("T")


async def resolve_addresses(host: str) -> frozenset[str]:
    """Return the addresses of a host name; none when it cannot be resolved."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(entry[4][0]) for entry in found)


@dataclass(frozen=True, slots=True)
class RouteFinder:
    """Finds the routes to devices of one fleet server. Deadlines are those of the settings."""

    client: FleetClient
    direct_s: float
    connect_s: float
    note: Note
    seen: SeenDevices | None = None

    async def routes(self, key: str, *, is_pinned: bool, via: Via = "auto") -> AsyncGenerator[Route, None]:
        """Yield the routes to a device, best first; the next is looked for only when it is asked for.

        Raises: NotFound, AuthError and their like from the registry; Unreachable when no way leads to the device.
        """
        device = self.seen.find(key) if self.seen else None
        if device is None:
            device = await asyncio.to_thread(self.client.get_device, key)
        server = urlsplit(self.client.base_url).hostname or ""
        if via == "auto" and not self.direct_s:
            self.note(f"{key}: no direct address is tried, because the setting ssh_direct_s is 0")
            via = "tunnel"
        plan = plan_ways(device, is_pinned=is_pinned, server_addresses=await resolve_addresses(server), via=via)
        for reason in plan.passed_over:
            self.note(f"{key}: {reason}")
        if plan.ways:
            self.note(f"{key}: {plan.why}")
        tunnel = TunnelWay(self.client, self.connect_s)
        failures: dict[Way, MeetingctlError] = {}
        for position, way in enumerate(plan.ways):
            is_last = position == len(plan.ways) - 1
            self.note(f"{key}: trying {plan.name(way)}")
            try:
                if way == "direct":
                    route = await self._try_direct(key, plan.direct)
                else:
                    route = await tunnel.find(key, local_port=chosen_ssh_port(device), is_last=is_last)
            except MeetingctlError as error:
                self.note(f"{key}: {way}: {error.message.removeprefix(f'{key}: ')}")
                failures[way] = error
                continue
            try:
                yield route
            finally:
                if route.opened is not None:
                    route.opened.close()
        if len(failures) == len(plan.ways):
            raise choose_failure(key, failures)

    async def _try_direct(self, key: str, direct: tuple[Direct, ...]) -> Route:
        """Ask all addresses at once; of those that answer in time, the first in order wins."""
        asked = [asyncio.create_task(self._ask_direct(address)) for address in direct]
        chosen: Route | None = None
        try:
            results = await asyncio.gather(*asked, return_exceptions=True)
            chosen = next((result for result in results if isinstance(result, Route)), None)
        finally:
            for task in asked:
                task.cancel()
                task.add_done_callback(lambda task: _hang_up(task, chosen))
        if chosen is not None:
            return chosen
        reasons = "; ".join(str(result) for result in results)
        raise Unreachable(f"{key}: {reasons}", hint=f"meetingctl remote ssh {key} --via tunnel")

    async def _ask_direct(self, address: Direct) -> Route:
        banner, opened = await open_greeted(address.host, address.port, timeout_s=self.direct_s)
        return Route(address.host, address.port, "direct", f"{address.source} answers as {banner}", opened)


def _hang_up(task: asyncio.Task[Route], chosen: Route | None) -> None:
    """Close the connection of a route that was not chosen."""
    if task.cancelled() or task.exception() is not None or (route := task.result()) is chosen:
        return
    if route.opened is not None:
        route.opened.close()


def choose_failure(key: str, failures: Mapping[Way, MeetingctlError]) -> MeetingctlError:
    """Choose what to say when no way leads to a device: all reasons, and how to mend the tunnel."""
    match failures.get("direct"), failures.get("tunnel"):
        case Unreachable() as direct, Unreachable() as tunnel:
            return Unreachable(f"{tunnel.message}; {direct.message.removeprefix(f'{key}: ')}", hint=tunnel.hint)
        case (_, MeetingctlError() as only) | (MeetingctlError() as only, _):
            return only
        case _:
            return NotFound(
                f"{key}: reported no address that can be reached directly",
                hint=f"meetingctl remote ssh {key} --via tunnel",
            )


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
