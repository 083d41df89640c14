"""The addresses that a device reported, and which of them answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from meetingctl.core.errors import InvalidInput, Unreachable
from meetingctl.core.target import AddressTarget, DeviceTarget, Target
from meetingctl.remote.banner import read_banner
from meetingctl.remote.route import RouteFinder, resolve_addresses
from meetingctl.remote.ways import plan_ways


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a device; `answers` is None until it was tried."""

    host: str
    port: int
    source: str
    answers: bool | None = None
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the address as the command shows it."""
        return {
            "host": self.host,
            "port": self.port,
            "source": self.source,
            "answers": self.answers,
            "detail": self.detail or None,
        }


async def list_addresses(finder: RouteFinder | None, target: Target) -> list[Address]:
    """Return the addresses that the fleet knows of a device, the one in its own network first.

    Raises: what the fleet API raises; InvalidInput for a target of many.
    """
    match target:
        case AddressTarget():
            return [Address(target.host, target.port, "command line")]
        case DeviceTarget() if finder is not None:
            device = await asyncio.to_thread(finder.client.get_device, target.key)
            server = await resolve_addresses(urlsplit(finder.client.base_url).hostname or "")
            plan = plan_ways(device, is_pinned=True, server_addresses=server, via="direct")
            for reason in plan.passed_over:
                finder.note(f"{target}: {reason}")
            return [Address(found.host, found.port, found.source) for found in plan.direct]
    raise InvalidInput(f"{target}: names more than one device", hint="use a device key or user@host[:port]")


async def probe_addresses(addresses: Sequence[Address], *, timeout_s: float) -> list[Address]:
    """Ask all at once whether an SSH server answers; those that do come first."""
    probed = await asyncio.gather(*(_probe(address, timeout_s) for address in addresses))
    return sorted(probed, key=lambda address: not address.answers)


async def _probe(address: Address, timeout_s: float) -> Address:
    try:
        banner = await read_banner(address.host, address.port, timeout_s=timeout_s)
    except Unreachable as error:
        return replace(address, answers=False, detail=error.message)
    return replace(address, answers=True, detail=banner)
