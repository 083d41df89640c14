"""The connection logs of all devices as one stream of events."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import connection_logs, devices
from meetingctl.server.devices.store import Choice

# Rows of several processes on PostgreSQL appear out of order for a moment; a reader that went past would miss them.
_SETTLE_MS = 2000


def read_log_events(
    connection: sa.Connection, choice: Choice, *, limit: int, after: int | None, device_key: str = ""
) -> Sequence[sa.RowMapping]:
    """Return log rows with `device_key`, oldest first: the newest ones, or those beyond row `after`."""
    query = (
        sa.select(connection_logs, devices.c.device_key)
        .join(devices, devices.c.id == connection_logs.c.device_id)
        .where(choice.clause())
        .limit(limit)
    )
    if device_key:
        query = query.where(devices.c.device_key == device_key)
    if connection.dialect.name == "postgresql":
        query = query.where(connection_logs.c.at_ms <= now_ms() - _SETTLE_MS)
    if after is not None:
        newer = query.where(connection_logs.c.id > after).order_by(connection_logs.c.id)
        return connection.execute(newer).mappings().all()
    return connection.execute(query.order_by(connection_logs.c.id.desc())).mappings().all()[::-1]
