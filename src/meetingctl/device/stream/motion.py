"""Motion as a detector on this device reports it: the stream has no eyes of its own, it passes the news on.

Source: POST /motion of the loopback HTTP. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meetingctl.core.errors import InvalidInput

# Longer than any reader of the status pauses, so that a short movement is seen by all of them.
SHOWN_S = 6.0
# A detector that died while something moved must not leave the alarm on for ever.
BELIEVED_S = 30.0


class Motion:
    """What was reported last. One thread at a time may report; every thread may look."""

    def __init__(self) -> None:
        self._last: tuple[bool, float, float] | None = None  # what was said, when, and when it last moved

    def report(self, is_moving: bool, now_s: float) -> None:
        """Take note of a report; movement that lasts is reported again before 30 s are over."""
        moved_s = now_s if is_moving else self._last[2] if self._last else now_s - SHOWN_S
        self._last = (is_moving, now_s, moved_s)

    def state(self, now_s: float) -> bool | None:
        """Say whether something moves; None while nobody has ever reported."""
        if self._last is None:
            return None
        is_moving, said_s, moved_s = self._last
        return (is_moving and now_s - said_s < BELIEVED_S) or now_s - moved_s < SHOWN_S


def read_report(body: Mapping[str, Any]) -> bool:
    """Return what `{"motion": true}` says. Raises: InvalidInput."""
    is_moving = body.get("motion")
    if not isinstance(is_moving, bool):
        raise InvalidInput("motion is neither true nor false", hint='send {"motion": true}')
    return is_moving
