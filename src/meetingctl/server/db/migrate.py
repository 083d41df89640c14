"""Bring a database to the newest revision. Alembic is imported only when there is something to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from meetingctl.core.errors import ConfigError
from meetingctl.server.db.engine import Database, translated_errors
from meetingctl.server.db.migrations import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x6D656574  # advisory lock of PostgreSQL: two servers that start together migrate one after the other


def current_revision(connection: sa.Connection) -> str | None:
    """Return the revision of the database, None when it is empty."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def alembic_config(connection: sa.Connection) -> Config:
    """Return a configuration that runs our revisions on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def migrate(database: Database) -> tuple[str | None, str]:
    """Upgrade to the newest revision; return the revision before and after.

    Raises: ConfigError when the database is newer than this program, and the errors of `translated_errors`.
    """
    with translated_errors(), database.writing.connect() as connection:
        if database.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = '10min'")  # the other server's migration may take long
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        before = current_revision(connection)
        if before == HEAD:
            return before, before
        from alembic import command
        from alembic.script import ScriptDirectory

        config = alembic_config(connection)
        if before is not None and before not in {
            s.revision for s in ScriptDirectory.from_config(config).walk_revisions()
        }:
            raise ConfigError(
                f"the database has revision {before}, newer than this program knows ({HEAD})",
                hint="install the newer meetingctl, or restore a backup",
            )
        command.upgrade(config, "head")
        connection.commit()
        return before, HEAD
