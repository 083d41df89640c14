"""The pool of public ports: one row per port, reserved by one statement, on both engines.

A statement that first selects a free port and then takes it gives the same port twice under load; here the choice and
the reservation are one UPDATE, whose sub-select skips rows that another transaction holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import iso_text, now_ms
from meetingctl.core.errors import Busy, Forbidden, NotFound
from meetingctl.core.services import DEFAULT_LOCAL_PORTS
from meetingctl.core.settings import Settings
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.schema import devices, tunnel_agents, tunnel_ports
from meetingctl.server.webhooks.outbox import emit

# How long live visits may go on after a tunnel ended; the port goes to nobody else before that.
AFTERLIFE_MS = 60_000
NONE_FREE = "No available port in range"

FREED: dict[str, Any] = {
    "device_id": None,
    "service": None,
    "local_port": None,
    "opened_at_ms": None,
    "expires_at_ms": None,
    "allow_from": None,
    "requested_by": None,
}


@dataclass(frozen=True, slots=True)
class PortRequest:
    """What somebody asks for. `allow_from` None lets everybody in; `ttl_ms` None has no end.

    `is_choice` says that the list was named in the request, and may replace the one of an open tunnel.
    """

    device_key: str
    service: str
    local_port: int
    ttl_ms: int | None
    allow_from: list[str] | None
    is_choice: bool = False


def fill_pool(connection: sa.Connection, ports: range) -> None:
    """Make the table hold the ports of the range; a port outside it leaves once it is free."""
    known = set(connection.execute(sa.select(tunnel_ports.c.port)).scalars())
    missing = [{"port": port} for port in ports if port not in known]
    if missing:
        connection.execute(tunnel_ports.insert(), missing)
    outside = sa.or_(tunnel_ports.c.port < ports.start, tunnel_ports.c.port >= ports.stop)
    connection.execute(tunnel_ports.delete().where(outside, tunnel_ports.c.device_id.is_(None)))


def reserve_port(connection: sa.Connection, actor: Actor, wanted: PortRequest) -> sa.RowMapping:
    """Reserve a port, or renew the tunnel that the device has for the same service; return the row.

    Raises: NotFound, Forbidden as the contract says, Busy when every port is taken.
    """
    device = connection.execute(sa.select(devices).where(devices.c.device_key == wanted.device_key)).mappings().first()
    if device is None:
        raise NotFound("Device not found", hint="meetingctl fleet list")
    if not device["authorized"]:
        raise Forbidden("Device not authorized", hint=f"meetingctl fleet authorize {wanted.device_key}")
    if not device["token_code"]:
        raise Forbidden("Device missing token", hint=f"meetingctl fleet tokens {wanted.device_key}")
    now = now_ms()
    values = {
        "device_id": device["id"],
        "service": wanted.service,
        "local_port": wanted.local_port,
        "expires_at_ms": None if wanted.ttl_ms is None else now + wanted.ttl_ms,
        "allow_from": wanted.allow_from,
        "requested_by": actor.principal[:160],
    }
    former = _find_same(connection, device["id"], wanted)
    row = _take_free(connection, values, now) if former is None else _renew(connection, former, wanted, values)
    if row is None:
        raise Busy(NONE_FREE, retry_after_s=30, hint="meetingctl tunnel list, then close what nobody needs")
    after = {"port": row["port"], "service": wanted.service, "allow_from": wanted.allow_from}
    append(connection, actor, "tunnel.open", f"device:{wanted.device_key}", after=after)
    if former is None or not _is_alive(former, now):
        facts = {"local_port": wanted.local_port, "requested_by": row["requested_by"]}
        expires_at = iso_text(row["expires_at_ms"])
        emit(connection, "tunnel.opened", wanted.device_key, after | facts | {"expires_at": expires_at})
    return row


def _find_same(connection: sa.Connection, device_id: int, wanted: PortRequest) -> sa.RowMapping | None:
    """Return the tunnel that the request would renew; a relay is another tunnel for every local port."""
    same = [tunnel_ports.c.device_id == device_id, tunnel_ports.c.service == wanted.service]
    if wanted.service == "relay":
        same.append(tunnel_ports.c.local_port == wanted.local_port)
    return connection.execute(sa.select(tunnel_ports).where(*same).with_for_update()).mappings().first()


def _is_alive(row: sa.RowMapping, at_ms: int) -> bool:
    return row["expires_at_ms"] is None or row["expires_at_ms"] >= at_ms


def _renew(
    connection: sa.Connection, former: sa.RowMapping, wanted: PortRequest, values: dict[str, Any]
) -> sa.RowMapping | None:
    """Extend the tunnel that exists."""
    if _is_alive(former, now_ms()):
        values = values | {"allow_from": renewed_list(former["allow_from"], wanted)}
    statement = tunnel_ports.update().where(tunnel_ports.c.port == former["port"]).values(**values)
    return connection.execute(statement.returning(*tunnel_ports.c)).mappings().first()


def renewed_list(present: list[str] | None, wanted: PortRequest) -> list[str] | None:
    """Decide who may visit an open tunnel after a renewal.

    Only a list that the request names replaces the present one. A default never opens a tunnel wider than to the
    requester, who joins the list.
    """
    if wanted.is_choice or present is None:
        return wanted.allow_from if wanted.is_choice else None
    return [*present, *(network for network in wanted.allow_from or () if network not in present)]


def _take_free(connection: sa.Connection, values: dict[str, Any], now: int) -> sa.RowMapping | None:
    """Take the port that was free for longest. A port held by a transaction that rolls back looks taken: look twice."""
    free = (
        sa.select(tunnel_ports.c.port)
        .where(sa.or_(tunnel_ports.c.device_id.is_(None), tunnel_ports.c.expires_at_ms <= now - AFTERLIFE_MS))
        .order_by(tunnel_ports.c.freed_at_ms, tunnel_ports.c.port)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        tunnel_ports.update()
        .where(tunnel_ports.c.port == free)
        .values(**values, opened_at_ms=now)
        .returning(*tunnel_ports.c)
    )
    for _ in range(2):
        if row := connection.execute(statement).mappings().first():
            return row
    return None


def close_tunnel(connection: sa.Connection, actor: Actor, port: int) -> None:
    """Free a port. Raises: NotFound when no tunnel uses it."""
    row = find_tunnel(connection, port)
    connection.execute(tunnel_ports.update().where(tunnel_ports.c.port == port).values(**FREED, freed_at_ms=now_ms()))
    before = {"port": port, "service": row["service"]}
    append(connection, actor, "tunnel.close", f"device:{row['device_key']}", before=before)


def close_all_tunnels(connection: sa.Connection, actor: Actor) -> int:
    """Free every port; return how many tunnels were open."""
    statement = tunnel_ports.update().where(tunnel_ports.c.device_id.is_not(None))
    closed = connection.execute(statement.values(**FREED, freed_at_ms=now_ms())).rowcount
    append(connection, actor, "tunnel.close-all", "tunnels", before={"open": closed})
    return closed


def usual_local_port(settings: Settings, overrides: Mapping[str, int], service: str) -> int:
    """Return where a service listens on a device: the device's own override, the setting, or the usual port."""
    return overrides.get(service) or dict(settings.tunnel_local_ports).get(service) or DEFAULT_LOCAL_PORTS[service]


def follow_local_ports(
    connection: sa.Connection, settings: Settings, device_key: str, overrides: Mapping[str, int]
) -> None:
    """Point the open tunnels of a device to where its services listen from now on."""
    device_id = sa.select(devices.c.id).where(devices.c.device_key == device_key).scalar_subquery()
    for service in DEFAULT_LOCAL_PORTS:
        connection.execute(
            tunnel_ports.update()
            .where(tunnel_ports.c.device_id == device_id, tunnel_ports.c.service == service)
            .values(local_port=usual_local_port(settings, overrides, service))
        )


def close_tunnels_of(connection: sa.Connection, device_key: str) -> None:
    """Free every port of a device."""
    device_id = sa.select(devices.c.id).where(devices.c.device_key == device_key).scalar_subquery()
    statement = tunnel_ports.update().where(tunnel_ports.c.device_id == device_id)
    connection.execute(statement.values(**FREED, freed_at_ms=now_ms()))


def free_expired(connection: sa.Connection) -> int:
    """Free ports whose tunnels ended long enough ago; return how many."""
    statement = tunnel_ports.update().where(tunnel_ports.c.expires_at_ms <= now_ms() - AFTERLIFE_MS)
    return connection.execute(statement.values(**FREED, freed_at_ms=now_ms())).rowcount


_ACTIVE = (
    sa.select(tunnel_ports, devices.c.device_key)
    .join(devices, devices.c.id == tunnel_ports.c.device_id)
    .order_by(tunnel_ports.c.port)
)


def _alive() -> sa.ColumnElement[bool]:
    return sa.or_(tunnel_ports.c.expires_at_ms.is_(None), tunnel_ports.c.expires_at_ms > now_ms())


def list_tunnels(connection: sa.Connection, *within: sa.ColumnElement[bool]) -> Sequence[sa.RowMapping]:
    """Return the tunnels that have not expired, in the order of their ports. `within` are conditions on devices."""
    return connection.execute(_ACTIVE.where(_alive(), *within)).mappings().all()


def list_tunnels_and_afterlife(connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """Return also the tunnels that expired within the last minute, whose live visits are still going on."""
    recent = sa.or_(tunnel_ports.c.expires_at_ms.is_(None), tunnel_ports.c.expires_at_ms > now_ms() - AFTERLIFE_MS)
    return connection.execute(_ACTIVE.where(recent)).mappings().all()


def find_tunnel(connection: sa.Connection, port: int, *within: sa.ColumnElement[bool]) -> sa.RowMapping:
    """Return the tunnel at a public port. `within` are conditions on devices. Raises: NotFound."""
    row = connection.execute(_ACTIVE.where(tunnel_ports.c.port == port, _alive(), *within)).mappings().first()
    if row is None:
        raise NotFound("Tunnel not found", hint="meetingctl tunnel list")
    return row


def pending_tunnel(connection: sa.Connection, device_id: int) -> sa.RowMapping | None:
    """Return the newest reservation that waits for the device: it has one, and no agent is connected."""
    connected = sa.select(tunnel_agents.c.device_id).where(tunnel_agents.c.device_id == device_id).exists()
    query = (
        sa.select(tunnel_ports)
        .where(tunnel_ports.c.device_id == device_id, _alive(), ~connected)
        .order_by(tunnel_ports.c.opened_at_ms.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().first()
