"""Builds and the jobs that package them."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, metadata

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),  # 128 random bits in hexadecimal
    sa.Column("owner", sa.String(160), nullable=False),
    sa.Column("device_type", sa.String(128), nullable=False),
    sa.Column("distribution", sa.String(128), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("manifest", sa.JSON(), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
)

build_files = sa.Table(
    "build_files",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("build_id", sa.String(32), sa.ForeignKey("builds.id", ondelete="CASCADE"), nullable=False),
    sa.Column("filename", sa.String(128), nullable=False),
    sa.Column("filetype", sa.String(32), nullable=False),
    sa.Column("size_bytes", sa.BigInteger(), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("uploaded_at_ms", sa.BigInteger(), nullable=False),
    sa.UniqueConstraint("build_id", "filename"),
)

# A running job belongs to one process while its lease lasts; after that any process may start it again.
package_jobs = sa.Table(
    "package_jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("build_id", sa.String(32), sa.ForeignKey("builds.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("owner", sa.String(160), nullable=False),
    sa.Column("format", sa.String(8), nullable=False),
    sa.Column("manifest", sa.JSON(), nullable=False),  # as it was when the job was asked for
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("progress", sa.Integer(), nullable=False),
    sa.Column("log", sa.JSON(), nullable=False, default=list),
    sa.Column("archive_name", sa.String(256)),
    sa.Column("size_bytes", sa.BigInteger()),
    sa.Column("sha256", sa.String(64)),
    sa.Column("attempts", sa.Integer(), nullable=False, default=0),
    sa.Column("cancel_requested", sa.Boolean(), nullable=False, default=False),
    sa.Column("claimed_by", sa.String(64)),
    sa.Column("lease_until_ms", sa.BigInteger()),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("started_at_ms", sa.BigInteger()),
    sa.Column("finished_at_ms", sa.BigInteger()),
)
