"""first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=160), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("public_id", name=op.f("uq_api_keys_public_id")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_api_keys_secret_sha256")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.String(length=160), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("object", sa.String(length=256), nullable=False),
        sa.Column("result", sa.String(length=16), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_object"), ["object"], unique=False)

    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device_key", sa.String(length=128), nullable=False),
        sa.Column(
            "key_fold",
            sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("device_name", sa.String(length=128), nullable=True),
        sa.Column("product_serial", sa.String(length=64), nullable=True),
        sa.Column("authorized", sa.Boolean(), nullable=False),
        sa.Column("token_code", sa.String(length=6), nullable=False),
        sa.Column("token_count", sa.BigInteger(), nullable=False),
        sa.Column("device_token_sha256", sa.String(length=64), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("device_type", sa.String(length=128), nullable=True),
        sa.Column("distribution", sa.String(length=128), nullable=True),
        sa.Column("note", sa.String(length=2000), nullable=False),
        sa.Column("services", sa.JSON(), nullable=False),
        sa.Column("local_ports", sa.JSON(), nullable=False),
        sa.Column("bundles", sa.JSON(), nullable=False),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("ghost_candidate_url", sa.String(length=2048), nullable=True),
        sa.Column("ap_ssid", sa.String(length=64), nullable=False),
        sa.Column("ap_password", sa.String(length=64), nullable=False),
        sa.Column("http_pw_low", sa.String(length=64), nullable=False),
        sa.Column("http_pw_medium", sa.String(length=64), nullable=False),
        sa.Column("http_pw_high", sa.String(length=64), nullable=False),
        sa.Column("registered_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["devices.id"], name=op.f("fk_devices_parent_id_devices"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("device_key", name=op.f("uq_devices_device_key")),
        sa.UniqueConstraint("key_fold", name=op.f("uq_devices_key_fold")),
        sa.UniqueConstraint("product_serial", name=op.f("uq_devices_product_serial")),
    )
    op.create_table(
        "connection_logs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("remote", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_connection_logs_device_id_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_connection_logs")),
    )
    with op.batch_alter_table("connection_logs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_connection_logs_at_ms"), ["at_ms"], unique=False)
        batch_op.create_index("ix_connection_logs_device_id_id", ["device_id", "id"], unique=False)

    op.create_table(
        "presence",
        sa.Column("device_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("authenticated", sa.Integer(), nullable=False),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("ip_lan", sa.String(length=45), nullable=True),
        sa.Column("ip_public", sa.String(length=45), nullable=True),
        sa.Column("mac", sa.String(length=17), nullable=True),
        sa.Column("cluster_ip", sa.String(length=255), nullable=True),
        sa.Column("status_note", sa.String(length=2000), nullable=True),
        sa.Column("installed_version", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_presence_device_id_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_presence")),
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "tunnel_agents",
        sa.Column("device_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("proxy", sa.String(length=64), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("connected_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reported_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("streams", sa.BigInteger(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_tunnel_agents_device_id_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_tunnel_agents")),
    )
    op.create_table(
        "tunnel_ports",
        sa.Column("port", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=True),
        sa.Column("service", sa.String(length=16), nullable=True),
        sa.Column("local_port", sa.Integer(), nullable=True),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("freed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("allow_from", sa.JSON(), nullable=True),
        sa.Column("requested_by", sa.String(length=160), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_tunnel_ports_device_id_devices"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("port", name=op.f("pk_tunnel_ports")),
        sa.UniqueConstraint(
            "device_id", "service", "local_port", name=op.f("uq_tunnel_ports_device_id_service_local_port")
        ),
    )
    with op.batch_alter_table("tunnel_ports", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tunnel_ports_device_id"), ["device_id"], unique=False)

    op.create_table(
        "tunnel_status",
        sa.Column("device_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("service", sa.String(length=64), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_tunnel_status_device_id_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "service", name=op.f("pk_tunnel_status")),
    )
    op.create_table(
        "tunnel_visits",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("service", sa.String(length=16), nullable=False),
        sa.Column("local_port", sa.Integer(), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_tunnel_visits_device_id_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tunnel_visits")),
    )
    with op.batch_alter_table("tunnel_visits", schema=None) as batch_op:
        batch_op.create_index("ix_tunnel_visits_device_id_id", ["device_id", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_tunnel_visits_opened_at_ms"), ["opened_at_ms"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("tunnel_visits", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tunnel_visits_opened_at_ms"))
        batch_op.drop_index("ix_tunnel_visits_device_id_id")

    op.drop_table("tunnel_visits")
    op.drop_table("tunnel_status")
    with op.batch_alter_table("tunnel_ports", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tunnel_ports_device_id"))

    op.drop_table("tunnel_ports")
    op.drop_table("tunnel_agents")
    op.drop_table("presence")
    with op.batch_alter_table("connection_logs", schema=None) as batch_op:
        batch_op.drop_index("ix_connection_logs_device_id_id")
        batch_op.drop_index(batch_op.f("ix_connection_logs_at_ms"))

    op.drop_table("connection_logs")
    op.drop_table("devices")
    op.drop_table("audit_head")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_object"))

    op.drop_table("audit")
    op.drop_table("api_keys")
