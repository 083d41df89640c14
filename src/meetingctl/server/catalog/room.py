"""How much more may be uploaded: the quota over what is recorded, and what the disk has left."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import sqlalchemy as sa

from meetingctl.server.db.schema import build_files, distribution_files, package_jobs

if TYPE_CHECKING:
    from meetingctl.server.state import ServerState

_MIB = 1024**2


def room_bytes(state: ServerState) -> int:
    """Return how many bytes may still be stored, 0 when nothing more fits."""
    with state.database.read() as connection:
        used_bytes = stored_bytes(connection)
    settings = state.settings
    free_bytes = shutil.disk_usage(state.data_dir).free - settings.storage_reserve_mib * _MIB
    return max(0, min(settings.storage_quota_mib * _MIB - used_bytes, free_bytes))


def stored_bytes(connection: sa.Connection) -> int:
    """Return the recorded size of all distribution files, files of builds, and packages."""
    tables = (distribution_files, build_files, package_jobs)
    return sum(int(connection.execute(sa.select(sa.func.sum(table.c.size_bytes))).scalar() or 0) for table in tables)
