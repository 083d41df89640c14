"""The link of a recipe: opened when it is needed, and again when it was lost, until the whole run is out of time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from meetingctl.core.errors import AuthError, HostKeyChanged, Unreachable
from meetingctl.core.target import Target
from meetingctl.remote.access import Access
from meetingctl.remote.hosts import name_host
from meetingctl.remote.recipes.connection import open_connection
from meetingctl.remote.recipes.link import Link
from meetingctl.remote.route import reach
from meetingctl.remote.ways import Route, Via

PAUSE_S = (1.0, 15.0)
REFUSES_S = 120.0

Opener = Callable[[], Link]


def opener_of(access: Access, target: Target, *, via: Via = "auto") -> Opener:
    """Return what opens a link: the first way that leads to the device. Raises, when called: as `Access.visit`."""
    login = access.login_for(target)
    name_host(target)  # refuses a target of many before anything is asked

    async def use(route: Route) -> Link:
        connection = await asyncio.to_thread(
            open_connection,
            target,
            route,
            login=login,
            pins=access.pins,
            connect_s=access.connect_s,
            note=access.note,
        )
        return Link(target, route, login, connection)

    return lambda: asyncio.run(reach(str(target), access.routes(target, via=via), use, access.detail))


@dataclass(slots=True)
class Session:
    """One link at a time. `until_s` is a time of `time.monotonic`; `note` is told of losses."""

    opener: Opener
    until_s: float
    note: Callable[[str], object]
    _link: Link | None = field(default=None, repr=False)
    _was_open: bool = False

    def link(self) -> Link:
        """Return the link; a first one is opened at once or not at all, a later one is tried for until the deadline.

        Raises: Unreachable, AuthError, HostKeyChanged.
        """
        if self._link is None:
            self._link = self._open_again() if self._was_open else self.opener()
            self._was_open = True
        return self._link

    def drop(self) -> None:
        """Leave the device; the next `link` opens another."""
        if self._link is not None:
            link, self._link = self._link, None
            link.close()

    def _open_again(self) -> Link:
        pause_s, failure = PAUSE_S[0], ""
        refuses_until_s = 0.0
        while True:
            try:
                return self.opener()
            except HostKeyChanged:
                raise
            except (Unreachable, AuthError) as error:
                # A system that comes up refuses logins for a while; the same ones were good before.
                if isinstance(error, AuthError):
                    refuses_until_s = refuses_until_s or time.monotonic() + REFUSES_S
                    if time.monotonic() > refuses_until_s:
                        raise
                if failure != error.message:
                    failure = error.message
                    self.note(failure)
            if time.monotonic() + pause_s > self.until_s:
                raise Unreachable(f"not back in time: {failure}")
            time.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, hides nothing
            pause_s = min(2 * pause_s, PAUSE_S[1])
