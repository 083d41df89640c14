"""Take a recording off the device: a copy, or the same pictures in an MP4 that every player opens."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from meetingctl.core.errors import Conflict, MeetingctlError, NotFound, StorageFull
from meetingctl.device.system import CODE_MISSING, System

_REMUX_TIMEOUT_S = 600.0


def target_of(recording: str, out: Path, *, as_mp4: bool) -> Path:
    """Return the file that an export writes: `out` itself, or a name of ours in the folder `out`."""
    if not out.is_dir():
        return out
    name = Path(recording).name
    return out / (f"{Path(name).stem}.mp4" if as_mp4 else name)


def export_recording(system: System, recording: str, target: Path, *, as_mp4: bool, replace: bool = False) -> int:
    """Write a recording (a device path) to a file outside of the device's root, and return the bytes written.

    The target appears only when it is complete. Raises: Conflict when it exists, NotFound for a missing folder,
    StorageFull, MeetingctlError when ffmpeg fails.
    """
    if target.exists() and not replace:
        raise Conflict(f"{target} exists", hint="choose another --out, or add --force")
    if not target.parent.is_dir():
        raise NotFound(f"{target.parent}: no such folder", hint=f"mkdir -p {target.parent}")
    source = system.path(recording)
    needed_bytes = source.stat().st_size
    if shutil.disk_usage(target.parent).free < needed_bytes:
        raise StorageFull(f"{target.parent}: {needed_bytes} bytes do not fit", hint="df -h")
    with _part(target) as part:
        if as_mp4:
            _remux(system, source, part)
        else:
            shutil.copyfile(source, part)
        size_bytes = part.stat().st_size
        part.chmod(0o644)
        part.replace(target)
    return size_bytes


def _remux(system: System, source: Path, part: Path) -> None:
    argv = ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-i", f"file:{source}", "-map", "0", "-c", "copy"]
    ran = system.run(*argv, "-movflags", "+faststart", "-f", "mp4", "-y", f"file:{part}", timeout_s=_REMUX_TIMEOUT_S)
    if ran.code == CODE_MISSING:
        raise MeetingctlError(ran.err, hint="sudo apt-get install -y ffmpeg")
    if not ran.ok:
        said = ran.err.strip().splitlines()
        raise MeetingctlError(f"{source.name}: ffmpeg could not convert it: {said[-1] if said else ran.code}")


@contextlib.contextmanager
def _part(target: Path) -> Iterator[Path]:
    """Yield a file beside the target that is gone afterwards, unless it was renamed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
