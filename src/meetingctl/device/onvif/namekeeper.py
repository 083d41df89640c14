"""The name of this device, kept up while the service runs: asked for in the background, again in another fleet."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable
from functools import partial

from meetingctl.core.errors import MeetingctlError, Unreachable
from meetingctl.device.config import DeviceConfig
from meetingctl.device.onvif import naming
from meetingctl.device.onvif.source import FactSource
from meetingctl.device.system import System

_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


class NameKeeper:
    """Belongs to the event loop."""

    def __init__(self, system: System, source: FactSource) -> None:
        self._system = system
        self._source = source
        self._identity = naming.identity_of(source.now().config)
        self._soon = asyncio.Event()
        self._asker: threading.Thread | None = None

    def follow(self, config: DeviceConfig) -> None:
        """Ask soon when the device has come into a fleet, or into another one."""
        identity = naming.identity_of(config)
        if identity != self._identity:
            self._identity = identity
            self._source.set_name(naming.read_kept(self._system, config))
            self._soon.set()

    async def run(self) -> None:
        """Ask now, hourly, and sooner after a failure."""
        failures = 0
        while True:
            self._soon.clear()
            config = self._source.now().config
            if naming.can_ask(config):
                token = naming.token_of(self._system, config)
                try:
                    await self._take(config, await self._ask_aside(partial(naming.ask_name, config, token)))
                    failures = 0
                except MeetingctlError as error:
                    failures += 1
                    log.warning("device name", extra={"error": error.message})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), naming.pause_s(failures))

    async def _take(self, config: DeviceConfig, name: str) -> None:
        """Use and keep a name, unless the device has become another one meanwhile. Raises: MeetingctlError."""
        if naming.identity_of(config) != self._identity or name == self._source.now().name:
            return
        self._source.set_name(name)
        log.info("device name", extra={"device_name": name})
        await asyncio.to_thread(naming.keep, self._system, config, name)

    async def _ask_aside(self, question: Callable[[], str]) -> str:
        """Ask in a thread that nobody waits for at the end: a server may answer a byte now and then for hours.

        Raises: Unreachable when it takes too long, and while the last question is not over; what the question raises.
        """
        if self._asker is not None and self._asker.is_alive():
            raise Unreachable("the fleet API has not answered the last question yet")
        answer: concurrent.futures.Future[str] = concurrent.futures.Future()

        def ask() -> None:
            try:
                told = question()
            except Exception as error:  # a boundary: it is raised where the answer is awaited
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(error)
            else:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(told)

        self._asker = threading.Thread(target=ask, name="name", daemon=True)
        self._asker.start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), _TIMEOUT_S)
        except TimeoutError:
            raise Unreachable(f"the fleet API told no name within {_TIMEOUT_S:g} s") from None
