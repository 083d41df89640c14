"""Which recordings make room: a pure decision over the sizes of files and of the disk."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20
WARNING_SHARE = 0.9

# ok: both limits hold. warning: the folder is over 90 % of its quota. full: a limit cannot be held.
Level = Literal["ok", "warning", "full"]


@dataclass(frozen=True, slots=True)
class Recording:
    """A closed recording in the folder. `mtime_s` is Unix time, `size_bytes` what it occupies."""

    name: str
    size_bytes: int
    mtime_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What must hold; 0 switches a limit off."""

    min_free_bytes: int = 0
    max_folder_bytes: int = 0

    @classmethod
    def of(cls, *, min_free_mb: int, max_folder_mb: int) -> Limits:
        """Take the limits from config.env, where they are MiB."""
        return cls(min_free_mb * MIB, max_folder_mb * MIB)


@dataclass(frozen=True, slots=True)
class Space:
    """How full it is: free bytes of the disk, bytes of the whole folder with the segment being written."""

    free_bytes: int
    folder_bytes: int

    def without(self, size_bytes: int) -> Space:
        """Return the space after a file of that size is gone."""
        return Space(self.free_bytes + size_bytes, self.folder_bytes - size_bytes)


@dataclass(frozen=True, slots=True)
class Pruning:
    """What to delete, oldest first, and the space expected after it; `is_stuck` when nothing more may be deleted."""

    delete: tuple[Recording, ...]
    after: Space
    is_stuck: bool

    @property
    def freed_bytes(self) -> int:
        return sum(recording.size_bytes for recording in self.delete)


def lacks_free_space(space: Space, limits: Limits) -> bool:
    """Say whether the disk has less free space than it must have."""
    return 0 < limits.min_free_bytes > space.free_bytes


def is_over_quota(space: Space, limits: Limits) -> bool:
    """Say whether the folder is larger than it may be."""
    return 0 < limits.max_folder_bytes < space.folder_bytes


def plan_pruning(
    recordings: Sequence[Recording], space: Space, limits: Limits, *, protected: Collection[str] = ()
) -> Pruning:
    """Choose the oldest recordings (by time, then by name) until both limits hold.

    Never chosen: a protected name (locked, or still needed) and the newest recording.
    """
    ordered = sorted(recordings, key=_age)
    doomed: list[Recording] = []
    for recording in ordered[:-1]:
        if not lacks_free_space(space, limits) and not is_over_quota(space, limits):
            break
        if recording.name not in protected:
            doomed.append(recording)
            space = space.without(recording.size_bytes)
    is_stuck = lacks_free_space(space, limits) or is_over_quota(space, limits)
    return Pruning(tuple(doomed), space, is_stuck)


def space_level(space: Space, limits: Limits) -> Level:
    """Rate the space for people: the web page shows a warning in orange and a full folder in red."""
    if lacks_free_space(space, limits) or is_over_quota(space, limits):
        return "full"
    if limits.max_folder_bytes and space.folder_bytes >= WARNING_SHARE * limits.max_folder_bytes:
        return "warning"
    return "ok"


def _age(recording: Recording) -> tuple[float, str]:
    return recording.mtime_s, recording.name
