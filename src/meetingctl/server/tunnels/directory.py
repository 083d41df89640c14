"""The registry as a tunnel proxy sees it: who may connect, what should be open, and where reports go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.events import AGENT_REFUSED
from meetingctl.core.secret import same_secret
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import connection_logs, devices, tunnel_agents, tunnel_visits
from meetingctl.server.state import ServerState
from meetingctl.server.tunnels.ports import list_tunnels_and_afterlife
from meetingctl.tunnel.directory import Admission, AgentLink, Desired, Event, Refused, Report, Tunnel, Visit

log = logging.getLogger(__name__)

# A proxy that says nothing for so long has lost its agents.
SILENT_MS = 60_000
_REFRESH_MS = 15_000
_CHUNK = 500


class RegistryDirectory:
    """Answer proxies from the database. One instance serves the proxy of this process and those that call the API."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._known: dict[str, dict[str, AgentLink]] = {}
        self._refreshed_ms: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        state.changes.listen(self._announce)

    def _announce(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closed between the question and the call
                self._loop.call_soon_threadsafe(self._changed.set)

    async def admit(self, device_key: str, token: str, peer: str) -> Admission:
        """Check an agent's credential. The proxy limits failures. Raises: Refused."""
        device = await self._state.credentials.find_device(device_key)
        if device is None or not same_secret(device.token_code, token.upper()):
            raise Refused()
        if not device.authorized:
            raise Refused("device not authorized")
        return Admission(device.device_key, device.generation)

    async def sync(self, report: Report) -> Desired:
        """Store a report and return what should be open, and which agents must go."""
        self._loop = asyncio.get_running_loop()
        known = self._known.get(report.proxy, {})
        now_known = {agent.device_key: agent for agent in report.agents}
        changed = [agent for key, agent in now_known.items() if known.get(key) != agent]
        gone = [key for key in known if key not in now_known]
        first = report.proxy not in self._known
        now = now_ms()
        refresh = now - self._refreshed_ms.get(report.proxy, 0) > _REFRESH_MS
        if first or changed or gone or refresh or report.visits or report.events:
            await self._state.writer.run_async(
                lambda connection: _store_report(connection, report, changed, gone, first=first)
            )
            self._known[report.proxy] = now_known
            self._refreshed_ms[report.proxy] = now
        return await asyncio.to_thread(self._desired, report.agents)

    async def wait_change(self, timeout_s: float) -> None:
        """Return at the next change since the last `sync` began, or after the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    def _desired(self, agents: Sequence[AgentLink]) -> Desired:
        with self._state.database.read() as connection:
            tunnels = tuple(_tunnel(row) for row in list_tunnels_and_afterlife(connection))
            return Desired(tunnels, tuple(_agents_to_drop(connection, agents)))


def _tunnel(row: Any) -> Tunnel:
    allowed = row["allow_from"]
    return Tunnel(
        port=row["port"],
        device_key=row["device_key"],
        service=row["service"],
        local_port=row["local_port"],
        expires_at_ms=row["expires_at_ms"],
        allow_from=None if allowed is None else tuple(allowed),
    )


def _agents_to_drop(connection: sa.Connection, agents: Sequence[AgentLink]) -> list[tuple[str, str]]:
    """Name the agents whose device is gone, not authorized, or has another token by now."""
    drop: list[tuple[str, str]] = []
    for start in range(0, len(agents), _CHUNK):
        chunk = agents[start : start + _CHUNK]
        query = sa.select(devices.c.device_key, devices.c.authorized, devices.c.generation).where(
            devices.c.device_key.in_([agent.device_key for agent in chunk])
        )
        rows = {row.device_key: row for row in connection.execute(query)}
        for agent in chunk:
            row = rows.get(agent.device_key)
            if row is None:
                drop.append((agent.device_key, "device deleted"))
            elif not row.authorized:
                drop.append((agent.device_key, "device not authorized"))
            elif row.generation != agent.generation:
                drop.append((agent.device_key, "token changed"))
    return drop


def _store_report(
    connection: sa.Connection, report: Report, changed: Sequence[AgentLink], gone: Sequence[str], *, first: bool
) -> None:
    """Write what is new in a report."""
    keys = {agent.device_key for agent in changed}
    keys |= {visit.device_key for visit in report.visits} | {event.device_key for event in report.events}
    ids = _device_ids(connection, sorted(keys | set(gone)))
    mine = tunnel_agents.c.proxy == report.proxy
    if first:
        connection.execute(tunnel_agents.delete().where(mine))
    connection.execute(tunnel_agents.update().where(mine).values(reported_at_ms=now_ms()))
    for key in gone:
        connection.execute(tunnel_agents.delete().where(mine, tunnel_agents.c.device_id == ids.get(key)))
    for agent in changed:
        if (device_id := ids.get(agent.device_key)) is not None:
            _store_agent(connection, report.proxy, device_id, agent)
    _insert(connection, tunnel_visits, [_visit_row(ids[v.device_key], v) for v in report.visits if v.device_key in ids])
    for event in report.events:
        if event.kind == AGENT_REFUSED:
            actor = Actor("anonymous", event.detail, "")
            subject = f"device:{event.device_key}" if event.device_key else "credential"
            append(connection, actor, "credential.refuse", subject, result="refused")
    _insert(connection, connection_logs, [_log_row(ids[e.device_key], e) for e in report.events if e.device_key in ids])


def _device_ids(connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for start in range(0, len(keys), _CHUNK):
        query = sa.select(devices.c.device_key, devices.c.id).where(
            devices.c.device_key.in_(keys[start : start + _CHUNK])
        )
        ids.update((row.device_key, row.id) for row in connection.execute(query))
    return ids


def _store_agent(connection: sa.Connection, proxy: str, device_id: int, agent: AgentLink) -> None:
    values = {
        "proxy": proxy[:64],
        "peer": agent.peer[:64],
        "kind": agent.kind,
        "connected_at_ms": agent.connected_at_ms,
        "reported_at_ms": now_ms(),
        "streams": agent.streams,
        "bytes_in": agent.bytes_in,
        "bytes_out": agent.bytes_out,
    }
    updated = connection.execute(tunnel_agents.update().where(tunnel_agents.c.device_id == device_id).values(values))
    if updated.rowcount == 0:
        connection.execute(tunnel_agents.insert().values(device_id=device_id, **values))


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _visit_row(device_id: int, visit: Visit) -> dict[str, Any]:
    return {
        "device_id": device_id,
        "port": visit.port,
        "service": visit.service[:16],
        "local_port": visit.local_port,
        "peer": visit.peer[:64],
        "opened_at_ms": visit.opened_at_ms,
        "duration_ms": visit.duration_ms,
        "bytes_in": visit.bytes_in,
        "bytes_out": visit.bytes_out,
        "outcome": visit.outcome,
        "reason": visit.reason[:64],
        "path": visit.path[:16],
    }


def _log_row(device_id: int, event: Event) -> dict[str, Any]:
    return {
        "device_id": device_id,
        "at_ms": event.at_ms,
        "event": event.kind[:64],
        "host": "tunnel",
        "remote": event.detail[:64],
    }


def forget_silent_proxies(connection: sa.Connection) -> None:
    """Drop the agents of proxies that stopped reporting."""
    connection.execute(tunnel_agents.delete().where(tunnel_agents.c.reported_at_ms < now_ms() - SILENT_MS))
