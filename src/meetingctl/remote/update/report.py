"""What the fleet server hears of an update that an operator does: the same reports that a device's agent sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from meetingctl.client import FleetClient
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.target import DeviceTarget, Target

MESSAGE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Reporter:
    """Reports for one device; an address, or no server, gets none. `warn` hears of a report that was refused."""

    client: FleetClient | None
    target: Target
    to_version: str
    warn: Callable[[str], object]

    async def send(self, status: str, from_version: str, message: str = "") -> bool:
        """Send one report; return whether it arrived. A report that is refused never stops the update."""
        if self.client is None or not isinstance(self.target, DeviceTarget):
            return False
        try:
            await asyncio.to_thread(
                self.client.releases.report,
                self.target.key,
                to_version=self.to_version,
                from_version=from_version,
                status=status,
                message=message[:MESSAGE_CHARACTERS],
            )
        except MeetingctlError as error:
            self.warn(f"{self.target}: the server does not take the report {status}: {error.message}")
            return False
        return True
