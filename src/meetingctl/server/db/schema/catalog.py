"""Device types and the files of their distributions."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, metadata

device_types = sa.Table(
    "device_types",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("live_name", sa.String(256), unique=True),  # folded name; null once deleted, so that it may come again
    sa.Column("serial_prefix", sa.String(16), nullable=False),
    sa.Column("platform", sa.String(64)),
    sa.Column("services_default", sa.JSON(), nullable=False, default=list),
    sa.Column("description", sa.String(2000)),
    sa.Column("icon_path", sa.String(256)),
    sa.Column("tags", sa.JSON(), nullable=False, default=list),
    sa.Column("default_distribution", sa.String(128)),
    sa.Column("parent_id", sa.BigInteger(), sa.ForeignKey("device_types.id", ondelete="SET NULL")),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
)

# The bytes are in the storage tree; a row says what they must be.
distribution_files = sa.Table(
    "distribution_files",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("device_type", sa.String(128), nullable=False),
    sa.Column("distribution", sa.String(128), nullable=False),
    sa.Column("filename", sa.String(128), nullable=False),
    sa.Column("size_bytes", sa.BigInteger(), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("uploaded_by", sa.String(160), nullable=False),
    sa.Column("uploaded_at_ms", sa.BigInteger(), nullable=False),
    sa.UniqueConstraint("device_type", "distribution", "filename"),
)
