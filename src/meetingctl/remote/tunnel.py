"""The tunnel as a way to a device: opened or reused, and waited for until the device answers in it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meetingctl.client import FleetClient
from meetingctl.core.clock import now_ms
from meetingctl.core.errors import MeetingctlError, Unreachable
from meetingctl.core.events import AGENT_UP, PORT_REFUSED
from meetingctl.core.net import join_endpoint
from meetingctl.remote.banner import HungUp, read_banner
from meetingctl.remote.ways import TUNNEL_LIFE_MS, Route, has_life, host_of_url, left_ms

PAUSE_FIRST_S = 0.2
PAUSE_MOST_S = 1.6
# Five tries in about 3 s: a separate proxy may take its poll interval of 2 s until it follows a change.
HANG_UPS_ENOUGH = 5
LOG_ROWS = 100


@dataclass(frozen=True, slots=True)
class TunnelWay:
    """The tunnels of one fleet server to the SSH servers of its devices."""

    client: FleetClient
    connect_s: float

    async def find(self, key: str, *, local_port: int | None, is_last: bool) -> Route:
        """Open the device's tunnel and wait until an SSH server answers in it.

        `local_port` None leaves the port on the device to the server. With another way left nobody waits for an agent
        that is not there. Raises: Unreachable with the cause as far as the server knows it; what the client raises.
        """
        opened = await asyncio.to_thread(self._open, key, local_port)
        port = int(opened["port"])
        if not is_last and await asyncio.to_thread(self._is_offline, port):
            raise _offline(key)
        return await self._wait(key, host_of_url(str(opened.get("url") or "")), port)

    def _open(self, key: str, local_port: int | None) -> Mapping[str, Any]:
        """Return the device's tunnel; one that is there and leads to the right port is left as it is."""
        for tunnel in self.client.list_tunnels():
            if tunnel.get("device_key") == key and tunnel.get("service") == "ssh":
                known = self.client.get_tunnel(int(tunnel["port"]))
                leads_there = local_port in (None, known.get("local_port"))
                if leads_there and has_life(known, now_ms()):
                    return known
                return self._renew(key, known)
        return self.client.open_tunnel(key, "ssh")

    def _renew(self, key: str, known: Mapping[str, Any]) -> Mapping[str, Any]:
        """Request the tunnel again, with its list of visitors and its end, unless that is near."""
        left_s = left_ms(known, now_ms()) / 1000
        ttl_s = round(left_s) if TUNNEL_LIFE_MS / 1000 < left_s < math.inf else None
        return self.client.open_tunnel(key, "ssh", ttl_s=ttl_s, allow_from=known.get("allow_from") or ["any"])

    async def _wait(self, key: str, host: str, port: int) -> Route:
        """Try with growing pauses until the deadline, or until the tunnel has hung up often enough to believe it."""
        where, loop = join_endpoint(host, port), asyncio.get_running_loop()
        started_s, pause_s, hang_ups = loop.time(), PAUSE_FIRST_S, 0
        while True:
            left_s = started_s + self.connect_s - loop.time()
            try:
                banner = await read_banner(host, port, timeout_s=max(PAUSE_FIRST_S, left_s))
                return Route(host, port, "tunnel", f"{where} answers as {banner}")
            except Unreachable as exc:
                failure = exc
            hang_ups = hang_ups + 1 if isinstance(failure, HungUp) else 0
            if hang_ups and (refused := await asyncio.to_thread(self._find_refused_port, key, port)):
                raise _port_refused(key, refused) from failure
            waited_s = loop.time() - started_s
            if hang_ups >= HANG_UPS_ENOUGH or waited_s + pause_s >= self.connect_s:
                raise await asyncio.to_thread(self._explain, key, port, where, hang_ups, waited_s) from failure
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, hides nothing
            pause_s = min(2 * pause_s, PAUSE_MOST_S)

    def _explain(self, key: str, port: int, where: str, hang_ups: int, waited_s: float) -> Unreachable:
        """Say why the wait was in vain."""
        if self._is_offline(port):
            return _offline(key)
        hint = f"meetingctl tunnel show {port}"
        if hang_ups < HANG_UPS_ENOUGH:
            return Unreachable(f"{key}: no SSH answer through the tunnel {where} within {waited_s:.0f} s", hint=hint)
        local_port = self._read_tunnel(port).get("local_port", "unknown")
        return Unreachable(
            f"{key}: the tunnel {where} hung up {hang_ups} times within {waited_s:.0f} s: no SSH server answers at "
            f"port {local_port} of the device, or your address may not visit the tunnel",
            hint=hint,
        )

    def _is_offline(self, port: int) -> bool:
        return self._read_tunnel(port).get("online") is False

    def _read_tunnel(self, port: int) -> Mapping[str, Any]:
        """Return what the server says of a tunnel, nothing when it says nothing: it is asked for reasons only."""
        try:
            return self.client.get_tunnel(port)
        except MeetingctlError:
            return {}

    def _find_refused_port(self, key: str, port: int) -> int | None:
        """Return the tunnel's port on the device when the agent refuses visits to it."""
        local_port = self._read_tunnel(port).get("local_port")
        try:
            entries = self.client.list_logs(key, limit=LOG_ROWS)
        except MeetingctlError:
            return None
        return local_port if local_port in refused_ports(entries) else None


def refused_ports(entries: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """Return the ports that the agent has refused since it connected, from the connection log, newest entry first."""
    ports = set()
    for entry in entries:
        if entry.get("event") == AGENT_UP:
            break
        fact = str(entry.get("remote"))
        if entry.get("event") == PORT_REFUSED and fact.isascii() and fact.isdigit():
            ports.add(int(fact))
    return frozenset(ports)


def _offline(key: str) -> Unreachable:
    return Unreachable(f"{key}: its agent is not connected", hint=f"meetingctl tunnel stats {key}")


def _port_refused(key: str, port: int) -> Unreachable:
    return Unreachable(
        f"{key}: its agent lets nobody in to port {port}: the agent's setting agent_ports does not list it",
        hint=f"on the device, add {port} to MEETINGCTL_AGENT_PORTS and restart the agent",
    )
