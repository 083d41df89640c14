"""What the tables share. Times are integer milliseconds since the epoch; text on the wire is made at the edge."""

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
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Byte order, so that a prefix is a range on both engines.
FOLDED = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def device_id(*, primary_key: bool = False) -> sa.Column[int]:
    """A reference to a device that goes away with it."""
    return sa.Column(
        "device_id",
        sa.BigInteger(),
        sa.ForeignKey("devices.id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=False,
        autoincrement=False,
    )
