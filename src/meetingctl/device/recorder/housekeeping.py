"""Harmless things that make room before any recording does: long logs, rotated logs, the journal, old packages.

The decision is pure (`plan_*` over facts about files), the rest reads the facts and carries the plan out.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from meetingctl.core import layout
from meetingctl.device.recorder.retention import MIB
from meetingctl.device.system import System

KEPT_LINES = 1000
MAIN_LOG_BYTES = 10 * MIB
OLD_AFTER_S = 7 * 86400
TEMPORARY_AFTER_S = 86400
PACKAGES_BYTES = 100 * MIB
JOURNAL_SIZE = "50M"
PACKAGES_DIR = "/var/cache/apt/archives"
TEMPORARY_DIR = "/tmp"  # noqa: S108 - the system's folder is looked through, nothing is made there
TEMPORARY_PREFIX = "meetingctl-"

_JOURNAL_DEADLINE_S = 15.0
_TAIL_BYTES = 4 * MIB
_ROTATED = ("*.gz", "*.1", "*.old")
_DEBUG_LOGS = ("gstreamer*.log", "gst_*.log")
_DAEMON_LOGS = frozenset({layout.STREAM_LOG_NAME, layout.RECORDER_LOG_NAME, layout.WATCHDOG_LOG_NAME})
_OUR_STEMS = (
    *(name.removesuffix(".log") for name in sorted(_DAEMON_LOGS)),
    "dnsmasq",
    "update_from_file",
    "apt-autoupdate",
    "gstreamer",
    "gst_",
    "rpi-cam",
    "meetingctl",
)


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file: where the device sees it, its size, and its age in seconds."""

    path: str
    size_bytes: int
    age_s: float

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Litter:
    """What lies around: our logs (rotated ones too), downloaded packages, our temporary files."""

    logs: tuple[Found, ...] = ()
    packages: tuple[Found, ...] = ()
    temporaries: tuple[Found, ...] = ()


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What to do: cut these logs to their last lines, delete these files. The journal is always shortened."""

    cut: tuple[Found, ...]
    delete: tuple[Found, ...]


def plan_room(litter: Litter, *, log_max_bytes: int) -> Cleanup:
    """Decide what goes when the disk is short of space."""
    rotated = [log for log in litter.logs if _matches(log.name, _ROTATED)]
    cut = [log for log in litter.logs if log.name.endswith(".log") and log.size_bytes > log_max_bytes]
    packages = litter.packages if sum(package.size_bytes for package in litter.packages) > PACKAGES_BYTES else ()
    return Cleanup(tuple(cut), (*rotated, *packages, *_old_temporaries(litter)))


def plan_start(litter: Litter) -> Cleanup:
    """Decide what goes when the recorder starts: debug logs, logs that nobody wrote for a week, long daemon logs."""
    doomed = [
        log
        for log in litter.logs
        if _matches(log.name, _DEBUG_LOGS)
        or (log.name.endswith(".log") and log.name not in _DAEMON_LOGS and log.age_s > OLD_AFTER_S)
    ]
    cut = [log for log in litter.logs if log.name in _DAEMON_LOGS and log.size_bytes > MAIN_LOG_BYTES]
    return Cleanup(tuple(cut), (*doomed, *_old_temporaries(litter)))


def read_litter(system: System, log_dir: str) -> Litter:
    """Look for files that may be cleaned. In a log folder that is not ours alone, only logs of our names count."""
    logs = _regular_files(system, log_dir)
    if log_dir.rstrip("/") != layout.LOG_DIR:
        logs = [log for log in logs if log.name.startswith(_OUR_STEMS)]
    packages = [file for file in _regular_files(system, PACKAGES_DIR) if file.name.endswith(".deb")]
    ours = [file for file in _regular_files(system, TEMPORARY_DIR) if file.name.startswith(TEMPORARY_PREFIX)]
    return Litter(tuple(logs), tuple(packages), tuple(ours))


def apply_cleanup(system: System, plan: Cleanup, *, kept_lines: int = KEPT_LINES) -> int:
    """Carry a plan out and shorten the journal; returns the bytes freed in files. What cannot be cleaned is left."""
    freed_bytes = 0
    for log in plan.cut:
        with contextlib.suppress(OSError):
            freed_bytes += cut_log(system, log.path, kept_lines)
    for file in plan.delete:
        with contextlib.suppress(OSError):
            system.path(file.path).unlink()
            freed_bytes += file.size_bytes
    system.run("journalctl", "--quiet", f"--vacuum-size={JOURNAL_SIZE}", timeout_s=_JOURNAL_DEADLINE_S)
    return freed_bytes


def cut_log(system: System, device_path: str, kept_lines: int) -> int:
    """Keep the last lines of a log, in place: the program that appends to it keeps its open file.

    Returns the bytes freed. Raises: OSError.
    """
    descriptor = os.open(system.path(device_path), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - _TAIL_BYTES))
        kept = b"".join(file.read().splitlines(keepends=True)[-kept_lines:])
        if len(kept) >= size_bytes:
            return 0
        file.seek(0)
        file.truncate()
        file.write(kept)
    return size_bytes - len(kept)


def _old_temporaries(litter: Litter) -> tuple[Found, ...]:
    return tuple(file for file in litter.temporaries if file.age_s > TEMPORARY_AFTER_S)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _regular_files(system: System, device_folder: str) -> Sequence[Found]:
    """List the regular files of a folder that have one name only; none when it cannot be read."""
    files: list[Found] = []
    now_s = system.clock.wall_s()
    with contextlib.suppress(OSError), os.scandir(system.path(device_folder)) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                    path = f"{device_folder.rstrip('/')}/{entry.name}"
                    files.append(Found(path, found.st_size, now_s - found.st_mtime))
    return files
