"""One small picture of each recording."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from meetingctl.core.layout import THUMBNAILS_DIR, thumbnail_path
from meetingctl.device.media.quiet import run_quietly
from meetingctl.device.system import System

WIDTH_PX = 320
TIMEOUT_S = 30.0
_MOMENTS_S = (2, 0)


def thumbnail_argv(recording: Path, target: Path, at_s: int) -> list[str]:
    """Return the arguments of ffmpeg for one frame at a moment of a recording."""
    return [
        *("ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-threads", "1", "-ss", str(at_s)),
        *("-i", f"file:{recording}", "-an", "-frames:v", "1", "-vf", f"scale={WIDTH_PX}:-2", "-q:v", "3"),
        *("-f", "mjpeg", "-y", f"file:{target}"),
    ]


def is_fresh(system: System, recording: str) -> bool:
    """Say whether the thumbnail of a recording (a device path) exists and is not older than the recording."""
    try:
        made = system.path(thumbnail_of(recording)).stat()
        return made.st_size > 0 and made.st_mtime >= system.path(recording).stat().st_mtime
    except OSError:
        return False


def thumbnail_of(recording: str) -> str:
    """Return the device path of the thumbnail of a recording (a device path)."""
    return thumbnail_path(PurePosixPath(recording).stem)


def make_thumbnail(system: System, recording: str, *, should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Make the thumbnail of a recording (a device path) in one step; False when no picture comes out.

    Raises: OSError when the folder of the thumbnails cannot be written.
    """
    target = system.path(thumbnail_of(recording))
    system.path(THUMBNAILS_DIR).mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        for at_s in _MOMENTS_S:
            argv = thumbnail_argv(system.path(recording), part, at_s)
            ran = run_quietly(system, *argv, timeout_s=TIMEOUT_S, should_stop=should_stop)
            if ran.ok and part.exists() and part.stat().st_size:
                part.replace(target)
                return True
            if should_stop():
                break
        return False
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def drop_thumbnail(system: System, recording: str) -> None:
    """Delete the thumbnail of a recording (a device path), if there is one."""
    with contextlib.suppress(OSError):
        system.path(thumbnail_of(recording)).unlink(missing_ok=True)
