"""Webhooks and their deliveries."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, metadata

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("url", sa.String(2048), nullable=False),
    sa.Column("events", sa.JSON(), nullable=False),
    sa.Column("secret_sealed", sa.Text(), nullable=False),  # encrypted with the server's sealing key
    sa.Column("active", sa.Boolean(), nullable=False),
    sa.Column("created_by", sa.String(160), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column(
        "webhook_id", sa.BigInteger(), sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("body", sa.Text(), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # waiting, delivered, dead
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("next_attempt_ms", sa.BigInteger()),
    sa.Column("claimed_until_ms", sa.BigInteger()),
    sa.Column("last_status", sa.Integer()),
    sa.Column("last_error", sa.String(300)),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("finished_at_ms", sa.BigInteger()),
    sa.Index("ix_webhook_deliveries_state_next_attempt_ms", "state", "next_attempt_ms"),
)
