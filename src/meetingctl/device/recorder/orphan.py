"""End the ffmpeg of a recorder that was killed: under systemd it dies with its unit, elsewhere it writes on."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

_GRACE_S = 5.0
_PROC = Path("/proc")

log = logging.getLogger(__name__)


def end_orphan(pid: int, live_folder: Path, *, proc: Path = _PROC) -> bool:
    """Stop a process if it is an ffmpeg that writes into our folder; False when it is gone or somebody else's."""
    if pid <= 1 or not _writes_to(proc, pid, live_folder):
        return False
    log.warning("ended the ffmpeg of an earlier recorder", extra={"ffmpeg_pid": pid})
    with contextlib.suppress(ProcessLookupError):
        for number in (signal.SIGINT, signal.SIGKILL):
            os.kill(pid, number)
            deadline_s = time.monotonic() + _GRACE_S
            while time.monotonic() < deadline_s:
                if not _writes_to(proc, pid, live_folder):
                    return True
                time.sleep(0.05)
    return True


def _writes_to(proc: Path, pid: int, live_folder: Path) -> bool:
    """Say whether the process runs ffmpeg with a target in the folder; its arguments are empty once it is dead."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    prefix = os.fsencode(str(live_folder).replace("%", "%%")) + b"/"
    return words[0].endswith(b"ffmpeg") and any(word.startswith(prefix) for word in words)
