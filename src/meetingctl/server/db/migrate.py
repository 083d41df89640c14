"""Bring a database to the newest revision. Alembic is imported only when there is something to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from meetingctl.core.errors import ConfigError
from meetingctl.server.db.engine import Database, name_database, opening_errors, translated_errors
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

    Raises: ConfigError for a database that cannot be opened, is damaged or has a revision that this program does not
    know; the errors of `translated_errors`.
    """
    with translated_errors(), opening_errors(database.writing.url), database.writing.connect() as connection:
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
            raise _refuse_revision(database.writing.url, before)
        command.upgrade(config, "head")
        connection.commit()
        return before, HEAD


def _refuse_revision(url: sa.URL, revision: str) -> ConfigError:
    """Revisions are numbered: one with a higher number than ours is newer, any other was never ours."""
    found = f"{name_database(url)} has revision {revision[:40]}"
    if revision.isascii() and revision.isdigit() and len(revision) == len(HEAD) and revision > HEAD:
        hint = "install the newer meetingctl, or restore a backup"
        return ConfigError(f"{found}, newer than this program knows ({HEAD})", hint=hint)
    return ConfigError(
        f"{found}, which no meetingctl made", hint="restore a backup, or name another database with --data or --db"
    )
