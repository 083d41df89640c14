"""What the tables hold, by state: read at most every few seconds, however often somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import devices, package_jobs, rollouts, tunnel_ports, webhook_deliveries

if TYPE_CHECKING:
    from meetingctl.server.state import ServerState

KEPT_S = 5.0
KEPT_TIMES = 20  # as many times the reading time too: a large fleet's counting takes 5 % of one reader at most

Counts = dict[str, dict[str, int]]


class TableCounts:
    """Counts by state, kept for a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until_s = 0.0
        self._counts: Counts = {}

    def read(self, state: ServerState) -> Mapping[str, dict[str, int]]:
        """Return figure -> state -> count. For worker threads."""
        with self._lock:
            began_s = time.monotonic()
            if began_s >= self._until_s:
                with state.database.read() as connection:
                    self._counts = _count(connection)
                took_s = time.monotonic() - began_s
                self._until_s = began_s + took_s + max(KEPT_S, KEPT_TIMES * took_s)
            return self._counts


def _count(connection: sa.Connection) -> Counts:
    in_use = sa.or_(tunnel_ports.c.expires_at_ms.is_(None), tunnel_ports.c.expires_at_ms > now_ms())
    return {
        "devices": {"known": _rows(connection, sa.select(sa.func.count()).select_from(devices))},
        "tunnels": {
            "open": _rows(connection, sa.select(sa.func.count()).where(tunnel_ports.c.device_id.is_not(None), in_use))
        },
        "builder_jobs": _by_state(connection, package_jobs.c.state),
        "rollouts": _by_state(connection, rollouts.c.state),
        "webhook_deliveries": _by_state(connection, webhook_deliveries.c.state),
    }


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())


def _by_state(connection: sa.Connection, column: sa.Column[str]) -> dict[str, int]:
    found = connection.execute(sa.select(column, sa.func.count()).group_by(column)).all()
    return {str(state): int(count) for state, count in found}


def database_bytes(connection: sa.Connection) -> int:
    """Return the size of the database."""
    if connection.dialect.name == "sqlite":
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0
        return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar() or 0)
    return int(connection.execute(sa.select(sa.func.pg_database_size(sa.func.current_database()))).scalar() or 0)
