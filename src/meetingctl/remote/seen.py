"""What a list of devices said of the ways to them, for as long as it is fresh: no question for each once more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

FRESH_S = 30.0
_ABOUT_WAYS = ("ip_lan", "ip_address", "local_ports")


class SeenDevices:
    """Rows of a list by device key, cut to what leads to a device."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[float, dict[str, Any]]] = {}

    def keep(self, row: Mapping[str, Any]) -> None:
        """Keep a row that came just now; one without the fields is left out."""
        if all(name in row for name in _ABOUT_WAYS):
            kept = {name: row[name] for name in _ABOUT_WAYS}
            self._rows[str(row["device_key"])] = (time.monotonic(), kept)

    def find(self, key: str) -> Mapping[str, Any] | None:
        """Return what is known of a device, once: who asks again wants to know whether it has changed."""
        at_s, row = self._rows.pop(key, (0.0, None))
        return row if row is not None and time.monotonic() - at_s <= FRESH_S else None
