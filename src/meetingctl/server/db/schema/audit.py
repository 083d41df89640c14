"""The audit log."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, metadata

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger(), nullable=False),
    sa.Column("principal", sa.String(160), nullable=False),
    sa.Column("peer", sa.String(64), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("object", sa.String(256), nullable=False, index=True),
    sa.Column("result", sa.String(16), nullable=False),
    sa.Column("before", sa.Text()),
    sa.Column("after", sa.Text()),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# The newest record of the audit log, so that a removed end is noticed. One row.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("record_id", sa.BigInteger(), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
