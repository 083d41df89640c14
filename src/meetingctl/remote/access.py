"""What an operator may do with one device: run a command, and learn its host key.

Ties the three parts together: the pins say which key to expect, the routes say where, the session does the work.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from meetingctl.core.errors import InvalidInput
from meetingctl.core.sshkey import PublicKey
from meetingctl.core.target import AddressTarget, DeviceTarget, Target
from meetingctl.remote.command import Outcome, Write, join_command
from meetingctl.remote.hosts import HostKeys, name_host
from meetingctl.remote.route import Note, RouteFinder, address_routes, reach
from meetingctl.remote.session import Login, check_host_key, connect, fetch_host_key
from meetingctl.remote.visit import Privilege, Visit
from meetingctl.remote.ways import Route, Via

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Access:
    """How to get at devices. `finder` is None when only addresses are used; `note` is shown, `detail` with -v only."""

    finder: RouteFinder | None
    pins: HostKeys
    login: Login
    connect_s: float
    note: Note
    detail: Note

    def routes(
        self, target: Target, *, via: Via = "auto", is_first_contact: bool = False
    ) -> AsyncGenerator[Route, None]:
        """Return the ways to a target. Raises: InvalidInput for a target of many."""
        match target:
            case AddressTarget():
                return address_routes(target)
            case DeviceTarget() if self.finder is not None:
                is_pinned = bool(self.pins.pinned(name_host(target))) and not is_first_contact
                return self.finder.routes(target.key, is_pinned=is_pinned, via=via)
            case _:
                raise InvalidInput(f"{target}: names more than one device", hint="use a device key or user@host[:port]")

    def login_for(self, target: Target) -> Login:
        """Return who logs in: the user of an address that names one, else the configured one."""
        return replace(self.login, user=target.user) if isinstance(target, AddressTarget) else self.login

    async def run(
        self,
        target: Target,
        command: list[str],
        *,
        stdout: Write,
        stderr: Write,
        with_sudo: bool = False,
        via: Via = "auto",
        began: Callable[[], object] = lambda: None,
    ) -> tuple[Route, Outcome]:
        """Run one command on one device; `began` is called once it is logged in.

        Raises: what `connect` and `run_command` raise.
        """
        privilege = Privilege.needed if with_sudo else Privilege.none

        async def use(visit: Visit) -> tuple[Route, Outcome]:
            return visit.route, await visit.stream(
                join_command(command), stdout=stdout, stderr=stderr, privilege=privilege
            )

        return await self.visit(target, use, via=via, began=began)

    async def visit(
        self,
        target: Target,
        use: Callable[[Visit], Awaitable[T]],
        *,
        via: Via = "auto",
        began: Callable[[], object] = lambda: None,
    ) -> T:
        """Log in to one device and use the connection; `began` is called once it is logged in, and with each output.

        Raises: what `connect` and `use` raise.
        """
        login = self.login_for(target)

        async def use_route(route: Route) -> T:
            async with connect(
                target, route, login=login, pins=self.pins, connect_s=self.connect_s, note=self.note
            ) as connection:
                began()
                return await use(Visit(target, route, login, connection, began))

        return await reach(str(target), self.routes(target, via=via), use_route, self.detail)

    async def verify(self, target: Target, *, via: Via = "auto") -> Route:
        """Find the way to a device whose host key is the pinned one, or becomes it. Raises: HostKeyChanged."""

        async def use(route: Route) -> Route:
            pinned = self.pins.pinned(name_host(target))
            offered = await fetch_host_key(route, prefer=pinned, timeout_s=self.connect_s)
            check_host_key(target, route, offered, self.pins, self.note)
            return route

        return await reach(str(target), self.routes(target, via=via), use, self.detail)

    async def see_host_key(self, target: Target, *, via: Via = "auto") -> tuple[Route, PublicKey]:
        """Return the host key that a device shows now, whatever is pinned."""

        async def use(route: Route) -> tuple[Route, PublicKey]:
            return route, await fetch_host_key(route, timeout_s=self.connect_s)

        return await reach(str(target), self.routes(target, via=via, is_first_contact=True), use, self.detail)
