"""SSH keys of devices and of the server."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, device_id, metadata

device_keys = sa.Table(
    "device_keys",
    metadata,
    device_id(primary_key=True),
    sa.Column("ssh_user", sa.String(32), nullable=False, index=True),
    sa.Column("pubkey", sa.Text(), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False, index=True),  # SHA256:..., of the key without its comment
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("added_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("modified_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("last_ssh_ms", sa.BigInteger()),
)

device_key_log = sa.Table(
    "device_key_log",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    device_id(),
    sa.Column("at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("actor", sa.String(160), nullable=False),
    sa.Column("remote", sa.String(64), nullable=False),
    sa.Index("ix_device_key_log_device_id_id", "device_id", "id"),
)

# The newest row without retired_at_ms counts; the one before it is kept until the new one is confirmed.
server_keys = sa.Table(
    "server_keys",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("pubkey", sa.Text(), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("confirmed_at_ms", sa.BigInteger()),
    sa.Column("retired_at_ms", sa.BigInteger()),
)
