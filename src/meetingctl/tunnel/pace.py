"""How often one device may fill the connection log, without I/O."""

from __future__ import annotations

from collections import OrderedDict

from meetingctl.core.limits import TokenBucket

_SUBJECTS_KEPT = 10_000
_MINUTE_S = 60.0


class EventPace:
    """Let through a few events of each kind per device and minute; the next one says how many were left out."""

    def __init__(self, *, per_min: int) -> None:
        self._bucket = TokenBucket(interval_s=_MINUTE_S / per_min, burst=per_min)
        self._left_out: OrderedDict[tuple[str, str], int] = OrderedDict()

    def pass_on(self, device_key: str, kind: str, detail: str, now_s: float) -> str | None:
        """Return the detail to write, None when the event is left out."""
        subject = (device_key, kind)
        if self._bucket.allow(subject, now_s):
            count = self._left_out.pop(subject, 0)
            return f"{detail} (+{count})" if count else detail
        self._left_out[subject] = self._left_out.get(subject, 0) + 1
        if len(self._left_out) > _SUBJECTS_KEPT:
            self._left_out.popitem(last=False)
        return None
