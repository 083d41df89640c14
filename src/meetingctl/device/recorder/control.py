"""The recorder seen from another process: does it run, and make it read config.env again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from meetingctl.core.errors import Forbidden, NotFound
from meetingctl.core.layout import RECORDER_UNIT
from meetingctl.device.recorder.progress import read_progress
from meetingctl.device.system import System

_MODULE = b"meetingctl.device.recorder"


def running_pid(progress: dict[str, Any] | None, *, proc: Path = Path("/proc")) -> int | None:
    """Return the process of the recorder that published the progress, None when it has ended."""
    pid = (progress or {}).get("pid")
    if type(pid) is not int or pid <= 1:
        return None
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return pid if _MODULE in words else None


def ask_reload(system: System) -> int:
    """Make the running recorder read config.env again; returns its process id. Raises: NotFound, Forbidden."""
    pid = running_pid(read_progress(system))
    try:
        if pid is None:
            raise ProcessLookupError
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise NotFound("the recorder does not run", hint=f"systemctl start {RECORDER_UNIT}") from None
    except PermissionError:
        raise Forbidden("the recorder belongs to another user", hint=f"sudo systemctl reload {RECORDER_UNIT}") from None
    return pid
