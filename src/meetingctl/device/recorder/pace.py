"""When the recorder tries again, gives a run up, or starts a new one: pure decisions over times."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 10.0
RESET_AFTER_S = 60.0
STALL_AFTER_S = 15.0
CLOCK_JUMP_S = 5.0
_JITTER_SHARE = 0.1


def retry_delay_s(failures: int, chance: float) -> float:
    """Return how long to wait after that many failures in a row: 1, 2, 4, 8, 10 s, up to a tenth less by chance.

    `chance` is a random number from 0 to 1.
    """
    whole = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(max(failures - 1, 0), 10))
    return whole * (1 - _JITTER_SHARE * chance)


def failures_after(failures: int, recorded_s: float) -> int:
    """Count a run that ended: one that recorded for a minute starts the count anew."""
    return 1 if recorded_s >= RESET_AFTER_S else failures + 1


@dataclass(frozen=True, slots=True)
class Growth:
    """The open segment as seen last, and when it last grew (monotonic seconds)."""

    grew_at_s: float
    name: str = ""
    size_bytes: int = 0

    def seen(self, name: str, size_bytes: int, now_s: float) -> Growth:
        """Take a new look at the open segment; another name or size is growth."""
        if (name, size_bytes) == (self.name, self.size_bytes):
            return self
        return replace(self, grew_at_s=now_s, name=name, size_bytes=size_bytes)

    def is_stalled(self, now_s: float) -> bool:
        """Say whether nothing was written for so long that ffmpeg must be started again."""
        return now_s - self.grew_at_s >= STALL_AFTER_S


@dataclass(frozen=True, slots=True)
class ClockWatch:
    """How far the wall clock is ahead of the monotonic one; it changes when somebody sets the clock."""

    ahead_s: float

    @classmethod
    def start(cls, wall_s: float, monotonic_s: float) -> ClockWatch:
        return cls(wall_s - monotonic_s)

    def jump_s(self, wall_s: float, monotonic_s: float) -> float:
        """Return by how much the clock was set since the start, 0 for less than 5 s."""
        moved_s = wall_s - monotonic_s - self.ahead_s
        return moved_s if abs(moved_s) >= CLOCK_JUMP_S else 0.0
