"""Devices, their presence and their connection log."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import FOLDED, ROW_ID, device_id, metadata

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("device_key", sa.String(128), nullable=False, unique=True),
    sa.Column("key_fold", FOLDED, nullable=False, unique=True),  # lower case: prefix search, no look-alike keys
    sa.Column("device_name", sa.String(128)),
    sa.Column("product_serial", sa.String(64), unique=True),
    sa.Column("authorized", sa.Boolean(), nullable=False, default=False),
    sa.Column("token_code", sa.String(6), nullable=False),
    sa.Column("token_count", sa.BigInteger(), nullable=False, default=0),
    sa.Column("device_token_sha256", sa.String(64)),
    sa.Column("generation", sa.BigInteger(), nullable=False, default=1),  # grows when a credential stops working
    sa.Column("device_type", sa.String(128)),
    sa.Column("distribution", sa.String(128)),
    sa.Column("note", sa.String(2000), nullable=False, default=""),
    sa.Column("services", sa.JSON(), nullable=False, default=list),
    sa.Column("local_ports", sa.JSON(), nullable=False, default=dict),
    sa.Column("bundles", sa.JSON(), nullable=False, default=list),
    sa.Column("parent_id", sa.BigInteger(), sa.ForeignKey("devices.id", ondelete="SET NULL")),
    sa.Column("ghost_candidate_url", sa.String(2048)),
    sa.Column("provision", sa.JSON()),  # what the device stored about itself, opaque
    sa.Column("update_channel", sa.String(128), nullable=False, server_default="default"),
    sa.Column("ap_ssid", sa.String(64), nullable=False),
    sa.Column("ap_password", sa.String(64), nullable=False),
    sa.Column("http_pw_low", sa.String(64), nullable=False),
    sa.Column("http_pw_medium", sa.String(64), nullable=False),
    sa.Column("http_pw_high", sa.String(64), nullable=False),
    sa.Column("registered_at_ms", sa.BigInteger()),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
)

# Apart from `devices` and without an index, so that a heartbeat rewrites one narrow row.
presence = sa.Table(
    "presence",
    metadata,
    device_id(primary_key=True),
    sa.Column("last_seen_ms", sa.BigInteger(), nullable=False),
    sa.Column("authenticated", sa.Integer(), nullable=False),  # 1 once a heartbeat with a credential wrote the row
    sa.Column("ip_address", sa.String(45)),
    sa.Column("ip_lan", sa.String(45)),
    sa.Column("ip_public", sa.String(45)),
    sa.Column("mac", sa.String(17)),
    sa.Column("cluster_ip", sa.String(255)),
    sa.Column("status_note", sa.String(2000)),
    sa.Column("installed_version", sa.String(64)),
    postgresql_with={"fillfactor": 80},
)

connection_logs = sa.Table(
    "connection_logs",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    device_id(),
    sa.Column("at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("remote", sa.String(64), nullable=False),
    sa.Index("ix_connection_logs_device_id_id", "device_id", "id"),
)

device_tags = sa.Table(
    "device_tags",
    metadata,
    device_id(primary_key=True),
    sa.Column("tag", sa.String(64), primary_key=True, index=True),
)

# Whether a device was last reported online or offline, so that a change is told once.
presence_reports = sa.Table(
    "presence_reports",
    metadata,
    device_id(primary_key=True),
    sa.Column("online", sa.Boolean(), nullable=False),
    sa.Column("since_ms", sa.BigInteger(), nullable=False),
)
