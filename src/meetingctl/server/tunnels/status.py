"""What is known of tunnels in use: agents' own reports, live figures and visits."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms, wire_text
from meetingctl.core.errors import InvalidInput
from meetingctl.server.db.schema import devices, tunnel_agents, tunnel_status, tunnel_visits
from meetingctl.server.devices.store import get_device

UPNP_CAP_BYTES = 4096


def status_record(given: dict[str, Any]) -> dict[str, Any]:
    """Return the record to store. Raises: InvalidInput for an `upnp` value over 4 KiB."""
    if len(json.dumps(given.get("upnp"))) > UPNP_CAP_BYTES:
        raise InvalidInput("Missing or invalid field: upnp")
    return {name: given.get(name) for name in ("service", "port", "url", "upnp", "error")} | {
        "updated_at": wire_text(now_ms())
    }


def store_status(connection: sa.Connection, device_key: str, record: dict[str, Any]) -> None:
    """Keep the last record of a device and service. Raises: NotFound."""
    device_id = get_device(connection, device_key)["id"]
    same = (tunnel_status.c.device_id == device_id, tunnel_status.c.service == record["service"])
    values = {"record": record, "at_ms": now_ms()}
    if connection.execute(tunnel_status.update().where(*same).values(**values)).rowcount == 0:
        connection.execute(tunnel_status.insert().values(device_id=device_id, service=record["service"], **values))


def live_figures(connection: sa.Connection, device_id: int) -> dict[str, Any]:
    """Return the figures of the device's control connection, zeros when it has none."""
    row = connection.execute(sa.select(tunnel_agents).where(tunnel_agents.c.device_id == device_id)).mappings().first()
    return {
        "online": row is not None,
        "agent": None
        if row is None
        else {"kind": row["kind"], "peer": row["peer"], "since": wire_text(row["connected_at_ms"])},
        "streams": row["streams"] if row else 0,
        "bytes_in": row["bytes_in"] if row else 0,
        "bytes_out": row["bytes_out"] if row else 0,
    }


def stats(connection: sa.Connection, device_key: str, *within: sa.ColumnElement[bool]) -> dict[str, Any]:
    """Return totals of visits per device and service, and the connected agents, of one device or of all.

    `within` are further conditions on devices.
    """
    only = sa.and_(devices.c.device_key == device_key if device_key else sa.true(), *within)
    visits = tunnel_visits.c
    totals = (
        sa.select(
            devices.c.device_key,
            visits.service,
            sa.func.count().label("visits"),
            sa.func.sum(sa.case((visits.outcome == "refused", 1), else_=0)).label("refused"),
            sa.func.sum(visits.bytes_in).label("bytes_in"),
            sa.func.sum(visits.bytes_out).label("bytes_out"),
            sa.func.max(visits.opened_at_ms).label("last_visit"),
        )
        .select_from(tunnel_visits.join(devices))
        .where(only)
        .group_by(devices.c.device_key, visits.service)
        .order_by(devices.c.device_key, visits.service)
        .limit(1000)
    )
    agents = sa.select(tunnel_agents, devices.c.device_key).join(devices).where(only).limit(1000)
    return {
        "stats": [
            {key: int(value) if key in _SUMS else value for key, value in row.items()}
            | {"last_visit": wire_text(row["last_visit"])}
            for row in connection.execute(totals).mappings()
        ],
        "agents": [
            {name: row[name] for name in ("device_key", "kind", "peer", "streams", "bytes_in", "bytes_out")}
            | {"since": wire_text(row["connected_at_ms"])}
            for row in connection.execute(agents.order_by(devices.c.device_key)).mappings()
        ],
    }


_SUMS = frozenset({"visits", "refused", "bytes_in", "bytes_out"})
