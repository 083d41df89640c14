"""The audit log as a stream of events."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from meetingctl.server.db.schema import audit


def read_audit_events(
    connection: sa.Connection, *, limit: int, after: int | None, target: str = ""
) -> Sequence[sa.RowMapping]:
    """Return records without what they changed, oldest first: the newest ones, or those beyond record `after`."""
    query = sa.select(audit.c.id, audit.c.at_ms, audit.c.action, audit.c.object, audit.c.principal, audit.c.result)
    query = query.limit(limit)
    if target:
        query = query.where(audit.c.object == target)
    if after is not None:
        return connection.execute(query.where(audit.c.id > after).order_by(audit.c.id)).mappings().all()
    return connection.execute(query.order_by(audit.c.id.desc())).mappings().all()[::-1]
