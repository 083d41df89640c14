"""Make room for recordings: harmless things first, then the oldest recordings, and say when neither helps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import DeviceConfig
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.recorder.housekeeping import apply_cleanup, plan_room, read_litter
from meetingctl.device.recorder.locks import read_locks
from meetingctl.device.recorder.retention import (
    MIB,
    Level,
    Limits,
    Pruning,
    Space,
    lacks_free_space,
    plan_pruning,
    space_level,
)
from meetingctl.device.system import System

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """What was done and how it is now; `problem` says why a limit does not hold, empty when both do."""

    space: Space
    level: Level
    deleted: tuple[str, ...] = ()
    freed_bytes: int = 0
    problem: str = ""


def limits_of(config: DeviceConfig) -> Limits:
    """Return the limits of a configuration."""
    return Limits.of(min_free_mb=config.min_free_disk_mb, max_folder_mb=config.max_disk_mb)


def plan_folder(system: System, folder: RecordFolder, limits: Limits, protected: Collection[str] = ()) -> Pruning:
    """Decide which recordings of a folder go now. Raises: Conflict for a damaged list of locks, MeetingctlError."""
    kept = frozenset(protected) | read_locks(system)
    return plan_pruning(folder.recordings(), folder.space(), limits, protected=kept)


def make_room(
    system: System,
    folder: RecordFolder,
    config: DeviceConfig,
    *,
    protected: Collection[str] = (),
    on_deleted: Callable[[str], object] = lambda name: None,
) -> Room:
    """Hold both limits as well as it goes. `on_deleted` is told the name of each deleted recording.

    Raises: MeetingctlError when the folder cannot be read; what cannot be deleted is a `problem` of the result.
    """
    limits = limits_of(config)
    freed_bytes = 0
    if lacks_free_space(folder.space(), limits):
        litter = read_litter(system, config.log_dir)
        freed_bytes = apply_cleanup(system, plan_room(litter, log_max_bytes=config.log_max_size_mb * MIB))
    deleted: list[str] = []
    problem = ""
    try:
        plan = plan_folder(system, folder, limits, protected)
        for recording in plan.delete:
            if folder.delete(recording.name):
                deleted.append(recording.name)
                freed_bytes += recording.size_bytes
                on_deleted(recording.name)
    except MeetingctlError as error:
        problem = error.message
    space = folder.space()
    level = space_level(space, limits)
    if level == "full" and not problem:
        problem = (
            "disk full, nothing may be deleted"
            if lacks_free_space(space, limits)
            else "over the quota, nothing may be deleted"
        )
    return Room(space, level, tuple(deleted), freed_bytes, problem)
