"""Which refusals are worth a line in the log: one for each address and minute, and not too many of all."""

from __future__ import annotations

_MINUTE_S = 60.0
_MOST_LINES = 30


class Sparing:
    """Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._began_s = -_MINUTE_S
        self._told: set[str] = set()

    def should_tell(self, address: str, now_s: float) -> bool:
        """Say whether a refusal of an address is to be logged."""
        if now_s - self._began_s >= _MINUTE_S:
            self._began_s = now_s
            self._told.clear()
        if address in self._told or len(self._told) >= _MOST_LINES:
            return False
        self._told.add(address)
        return True
