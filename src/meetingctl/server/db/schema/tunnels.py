"""Public ports, agents and visits of the reverse tunnel."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, device_id, metadata

# One row per public port of the pool; a free port has no device.
tunnel_ports = sa.Table(
    "tunnel_ports",
    metadata,
    sa.Column("port", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("device_id", sa.BigInteger(), sa.ForeignKey("devices.id", ondelete="SET NULL"), index=True),
    sa.Column("service", sa.String(16)),
    sa.Column("local_port", sa.Integer()),
    sa.Column("opened_at_ms", sa.BigInteger()),
    sa.Column("expires_at_ms", sa.BigInteger()),
    sa.Column("freed_at_ms", sa.BigInteger(), nullable=False, default=0),
    sa.Column("allow_from", sa.JSON()),
    sa.Column("requested_by", sa.String(160)),
    sa.UniqueConstraint("device_id", "service", "local_port"),
)

tunnel_status = sa.Table(
    "tunnel_status",
    metadata,
    device_id(primary_key=True),
    sa.Column("service", sa.String(64), primary_key=True),
    sa.Column("record", sa.JSON(), nullable=False),
    sa.Column("at_ms", sa.BigInteger(), nullable=False),
)

# Which proxy holds a device's control connection now.
tunnel_agents = sa.Table(
    "tunnel_agents",
    metadata,
    device_id(primary_key=True),
    sa.Column("proxy", sa.String(64), nullable=False),
    sa.Column("peer", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("connected_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("reported_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("streams", sa.BigInteger(), nullable=False, default=0),
    sa.Column("bytes_in", sa.BigInteger(), nullable=False, default=0),
    sa.Column("bytes_out", sa.BigInteger(), nullable=False, default=0),
)

tunnel_visits = sa.Table(
    "tunnel_visits",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    device_id(),
    sa.Column("port", sa.Integer(), nullable=False),
    sa.Column("service", sa.String(16), nullable=False),
    sa.Column("local_port", sa.Integer(), nullable=False),
    sa.Column("peer", sa.String(64), nullable=False),
    sa.Column("opened_at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("duration_ms", sa.BigInteger(), nullable=False),
    sa.Column("bytes_in", sa.BigInteger(), nullable=False),
    sa.Column("bytes_out", sa.BigInteger(), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("path", sa.String(16), nullable=False),
    sa.Index("ix_tunnel_visits_device_id_id", "device_id", "id"),
)
