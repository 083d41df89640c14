"""The folder of the recordings: the open segment in `.live`, closed ones beside it, never one over another."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from meetingctl.core.errors import Busy, Conflict, Forbidden, InvalidInput, MeetingctlError, NotFound, StorageFull
from meetingctl.core.layout import LIVE_SEGMENTS_NAME
from meetingctl.device.recorder.naming import candidate_names, is_segment_name
from meetingctl.device.recorder.retention import Recording, Space
from meetingctl.device.system import System

_LARGEST_FOLDER = 100_000


class RecordFolder:
    """RECORD_DIR of one device. `device_path` is the path as the device sees it."""

    def __init__(self, system: System, device_path: str) -> None:
        self.device_path = device_path
        self.live_device_path = f"{device_path.rstrip('/')}/{LIVE_SEGMENTS_NAME}"
        self._system = system
        self.path = system.path(device_path)
        self.live_path = self.path / LIVE_SEGMENTS_NAME
        self._held: tuple[int, int] | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folders and keep other recorders out while the block runs.

        Raises: Conflict when another recorder holds the folder; Forbidden or MeetingctlError when it cannot be written.
        """
        self.prepare()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._system.locked(self.live_device_path, timeout_s=0))
            except Busy:
                raise Conflict(
                    f"{self.device_path}: another recorder writes here", hint="meetingctl device record status"
                ) from None
            self._held = self._identity()
            yield

    def is_still_held(self) -> bool:
        """Say whether the folder is the one that was locked; it may have been removed, renamed or mounted over."""
        return self._held == self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.live_path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def prepare(self) -> None:
        """Make the folders and prove that a file can be made. Raises: Forbidden, StorageFull, MeetingctlError."""
        probe = self.live_path / ".probe"
        try:
            self.live_path.mkdir(parents=True, exist_ok=True)
            if not stat.S_ISDIR(self.live_path.lstat().st_mode):
                raise InvalidInput(f"{self.live_device_path} is no folder", hint=f"rm {self.live_device_path}")
            os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            probe.unlink()
        except OSError as exc:
            raise _folder_error(exc, self.device_path) from exc

    def open_segment(self) -> tuple[str, int] | None:
        """Return name and size of the segment being written, None when there is none."""
        files = [file for file in _regular_files(self.live_path) if is_segment_name(file.name)]
        if not files:
            return None
        newest = max(files, key=lambda file: (file.stat.st_mtime_ns, file.name))
        return newest.name, newest.stat.st_size

    def settle(self, live_name: str) -> str | None:
        """Move a closed segment beside the others under a name that is free, and return that name.

        None when there is nothing to keep: the file is gone or empty. Raises: MeetingctlError.
        """
        if not is_segment_name(live_name):
            return None
        source = self.live_path / live_name
        try:
            found = source.lstat()
            if not stat.S_ISREG(found.st_mode):
                return None
            if found.st_size == 0:
                source.unlink()
                return None
            return next(name for name in candidate_names(live_name) if _move_to_free(source, self.path / name))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _folder_error(exc, self.device_path) from exc

    def settle_all(self) -> list[str]:
        """Move everything that an ended ffmpeg left behind, oldest first; returns the names."""
        names = sorted(file.name for file in _regular_files(self.live_path))
        return [settled for name in names if (settled := self.settle(name)) is not None]

    def recordings(self) -> list[Recording]:
        """Return the closed segments that are ours: regular files, no links, named by us."""
        return [
            Recording(file.name, _occupied(file.stat), file.stat.st_mtime)
            for file in _regular_files(self.path)
            if is_segment_name(file.name)
        ]

    def space(self) -> Space:
        """Measure the disk and everything in the folder. Raises: NotFound, MeetingctlError."""
        try:
            disk = os.statvfs(self.path)
        except OSError as exc:
            raise _folder_error(exc, self.device_path) from exc
        files = [*_regular_files(self.path), *_regular_files(self.live_path)]
        return Space(disk.f_bavail * disk.f_frsize, sum(_occupied(file.stat) for file in files))

    def delete(self, name: str) -> bool:
        """Delete one closed recording of ours; False when it is gone already.

        Raises: InvalidInput for a name that is not ours or no regular file, Forbidden.
        """
        if not is_segment_name(name):
            raise InvalidInput(f"{name[:80]!r} was not made by the recorder", hint="meetingctl device record list")
        path = self.path / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise InvalidInput(f"{name[:80]!r} is no regular file", hint="meetingctl device record list")
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise _folder_error(exc, f"{self.device_path}/{name}") from exc
        return True


class _File:
    __slots__ = ("name", "stat")

    def __init__(self, name: str, found: os.stat_result) -> None:
        self.name = name
        self.stat = found


def _regular_files(folder: Path) -> list[_File]:
    """List the regular files of a folder; none when it is missing. A link is no regular file.

    Raises: Forbidden, MeetingctlError when it cannot be read.
    """
    files: list[_File] = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _LARGEST_FOLDER):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        files.append(_File(entry.name, found))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise _folder_error(exc, str(folder)) from exc
    return files


def _occupied(found: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk; some file systems do not tell before they wrote it."""
    return max(found.st_blocks * 512, found.st_size)


def _move_to_free(source: Path, target: Path) -> bool:
    """Move a file unless the name is taken. A hard link never replaces a file; FAT has none, there we look first."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        if not _is_same_file(source, target):
            return False  # the name is taken by another recording; the same one was moved half-way before a crash
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise
        if target.is_symlink() or target.exists():
            return False
        source.rename(target)
        return True
    source.unlink()
    return True


def _is_same_file(one: Path, other: Path) -> bool:
    left, right = one.lstat(), other.lstat()
    return (left.st_dev, left.st_ino) == (right.st_dev, right.st_ino)


def _folder_error(exc: OSError, name: str) -> MeetingctlError:
    text = f"{name}: {(exc.strerror or str(exc)).lower()}"
    match exc.errno:
        case errno.ENOENT:
            return NotFound(text)
        case errno.EROFS:
            mount = PurePosixPath(name)
            return Forbidden(text, hint=f"mount -o remount,rw {mount}")
        case errno.EACCES | errno.EPERM:
            return Forbidden(text, hint=f"ls -ld {name}")
        case errno.ENOSPC | errno.EDQUOT:
            return StorageFull(text, hint="meetingctl device record prune --min-free-mb 500")
    return MeetingctlError(text, hint="meetingctl device config get RECORD_DIR")
