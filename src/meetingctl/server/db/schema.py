"""Every table. Times are integer milliseconds since the epoch; text on the wire is made at the edge.

The migrations under `migrations/versions` build the same tables; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives out row ids only for INTEGER primary keys.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Byte order, so that a prefix is a range on both engines.
_FOLDED = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def _device_id(*, primary_key: bool = False) -> sa.Column[int]:
    """A reference to a device that goes away with it."""
    return sa.Column(
        "device_id",
        sa.BigInteger(),
        sa.ForeignKey("devices.id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=False,
        autoincrement=False,
    )


devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("device_key", sa.String(128), nullable=False, unique=True),
    sa.Column("key_fold", _FOLDED, nullable=False, unique=True),  # lower case: prefix search, no look-alike keys
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
    _device_id(primary_key=True),
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
    sa.Column("id", _ID, primary_key=True),
    _device_id(),
    sa.Column("at_ms", sa.BigInteger(), nullable=False, index=True),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("remote", sa.String(64), nullable=False),
    sa.Index("ix_connection_logs_device_id_id", "device_id", "id"),
)

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
    _device_id(primary_key=True),
    sa.Column("service", sa.String(64), primary_key=True),
    sa.Column("record", sa.JSON(), nullable=False),
    sa.Column("at_ms", sa.BigInteger(), nullable=False),
)

# Which proxy holds a device's control connection now.
tunnel_agents = sa.Table(
    "tunnel_agents",
    metadata,
    _device_id(primary_key=True),
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
    sa.Column("id", _ID, primary_key=True),
    _device_id(),
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

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("public_id", sa.String(32), nullable=False, unique=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    sa.Column("created_by", sa.String(160), nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger()),
    sa.Column("last_used_at_ms", sa.BigInteger()),
    sa.Column("revoked_at_ms", sa.BigInteger()),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=False),
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
