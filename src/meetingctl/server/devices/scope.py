"""Which devices a key that is limited to types or tags may touch."""

from __future__ import annotations

import sqlalchemy as sa

from meetingctl.server.db.schema import device_tags, devices
from meetingctl.server.identity.principal import Principal


def is_covered(connection: sa.Connection, principal: Principal, device_key: str) -> bool:
    """Say whether a device is within the limits of the caller; False when there is no such device. Takes one query.

    It is not cached: keys with limits are few, and a device that just changed its type or tags must count at once.
    """
    tagged = devices.outerjoin(device_tags, device_tags.c.device_id == devices.c.id)
    query = sa.select(devices.c.device_type, device_tags.c.tag).select_from(tagged)
    rows = connection.execute(query.where(devices.c.device_key == device_key)).all()
    return bool(rows) and principal.covers(rows[0][0], {row[1] for row in rows if row[1] is not None})
