"""API keys, users and their sessions."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema.base import ROW_ID, metadata

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("public_id", sa.String(32), nullable=False, unique=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("created_by", sa.String(160), nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger()),
    sa.Column("last_used_at_ms", sa.BigInteger()),
    sa.Column("revoked_at_ms", sa.BigInteger()),
    sa.Column("user_id", sa.BigInteger(), sa.ForeignKey("users.id", ondelete="CASCADE"), index=True),
    sa.Column("last_characters", sa.String(4)),  # what a masked token shows
    sa.Column("permissions", sa.JSON()),  # null: all of the role
    sa.Column("device_types", sa.JSON()),  # null: every type
    sa.Column("tags", sa.JSON()),  # null: every tag
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("username", sa.String(64), nullable=False),
    sa.Column("username_fold", sa.String(128), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password_hash", sa.String(256)),
    sa.Column("ssh_pubkey", sa.Text()),
    sa.Column("authorized", sa.Boolean(), nullable=False),
    sa.Column("generation", sa.BigInteger(), nullable=False, default=1),  # grows when sessions must end
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
)

# A family is one login; using a token that was already exchanged ends its family.
refresh_tokens = sa.Table(
    "refresh_tokens",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("user_id", sa.BigInteger(), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("family", sa.String(32), nullable=False, index=True),
    sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("peer", sa.String(64), nullable=False),
    sa.Column("issued_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("used_at_ms", sa.BigInteger()),
    sa.Column("revoked_at_ms", sa.BigInteger()),
)
