"""Releases, channels, the fleet's update state and rollouts."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, device_id, metadata

# The bytes are in the published tree. A release is there once its row says `published`; it never changes after that.
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("device_type", sa.String(128), nullable=False),
    sa.Column("distribution", sa.String(128), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("archive_name", sa.String(256), nullable=False),
    sa.Column("size_bytes", sa.BigInteger(), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("notes", sa.Text(), nullable=False),
    sa.Column("signature", sa.String(16), nullable=False),  # none, valid, unverified
    sa.Column("author", sa.String(160), nullable=False),
    sa.Column("published_at_ms", sa.BigInteger(), nullable=False),
    sa.UniqueConstraint("device_type", "distribution", "version"),
)

release_history = sa.Table(
    "release_history",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("device_type", sa.String(128), nullable=False),
    sa.Column("distribution", sa.String(128), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),  # publish, commit, duplicate, rollback
    sa.Column("notes", sa.Text(), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger(), nullable=False),
    sa.Column("author", sa.String(160), nullable=False),
    sa.Column("at_ms", sa.BigInteger(), nullable=False),
    sa.Index("ix_release_history_device_type_distribution_id", "device_type", "distribution", "id"),
)

# Which version of a distribution is current; a rollback moves it.
current_releases = sa.Table(
    "current_releases",
    metadata,
    sa.Column("device_type", sa.String(128), primary_key=True),
    sa.Column("distribution", sa.String(128), primary_key=True),
    sa.Column("version", sa.String(64), nullable=False),
)

update_channels = sa.Table(
    "update_channels",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("device_type", sa.String(128), nullable=False),
    sa.Column("distribution", sa.String(128), nullable=False),
    sa.Column("channel", sa.String(128), nullable=False),
    sa.Column("target_version", sa.String(64), nullable=False),
    sa.Column("active", sa.Boolean(), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
    sa.UniqueConstraint("device_type", "distribution", "channel"),
)

# The last attempt of each device, beside the attempts themselves, so that the fleet's state is one join.
device_updates = sa.Table(
    "device_updates",
    metadata,
    device_id(primary_key=True),
    sa.Column("attempt_id", sa.BigInteger(), nullable=False),
    sa.Column("to_version", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("message", sa.Text(), nullable=False),
    sa.Column("at_ms", sa.BigInteger(), nullable=False),
)

update_attempts = sa.Table(
    "update_attempts",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    device_id(),
    sa.Column("rollout_id", sa.BigInteger(), sa.ForeignKey("rollouts.id", ondelete="SET NULL")),
    sa.Column("device_type", sa.String(128), nullable=False),
    sa.Column("distribution", sa.String(128), nullable=False),
    sa.Column("from_version", sa.String(64)),
    sa.Column("to_version", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("message", sa.Text(), nullable=False),
    sa.Column("payload", sa.JSON()),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("started_at_ms", sa.BigInteger()),
    sa.Column("completed_at_ms", sa.BigInteger()),
    sa.Index("ix_update_attempts_device_id_id", "device_id", "id"),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("device_type", sa.String(128), nullable=False),
    sa.Column("distribution", sa.String(128), nullable=False),
    sa.Column("channel", sa.String(128), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("previous_version", sa.String(64)),
    sa.Column("selector", sa.JSON(), nullable=False),
    sa.Column("plan", sa.JSON(), nullable=False),  # waves, soak, delay, threshold
    sa.Column("live_key", sa.String(400), unique=True),  # type/distribution/channel while it runs: one at a time
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("reason", sa.String(500), nullable=False),
    sa.Column("wave", sa.Integer(), nullable=False),
    sa.Column("wave_started_at_ms", sa.BigInteger()),
    sa.Column("created_by", sa.String(160), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("finished_at_ms", sa.BigInteger()),
)

rollout_devices = sa.Table(
    "rollout_devices",
    metadata,
    sa.Column("rollout_id", sa.BigInteger(), sa.ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    device_id(primary_key=True),
    sa.Column("wave", sa.Integer(), nullable=False),
    sa.Column("start_delay_s", sa.Integer(), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # waiting, offered, in_progress, success, failed
    sa.Column("from_version", sa.String(64)),
    sa.Column("offered_at_ms", sa.BigInteger()),
    sa.Column("reported_at_ms", sa.BigInteger()),
    sa.Index("ix_rollout_devices_rollout_id_wave_state", "rollout_id", "wave", "state"),
)
