"""The videos in the folder of the recordings."""

from __future__ import annotations

import os
import stat

from meetingctl.device.recorder.naming import is_media_name
from meetingctl.device.system import System


def media_files(system: System, record_dir: str) -> list[str]:
    """Return the device paths of the closed videos in a folder, newest first; links and hidden files do not count."""
    found: list[tuple[float, str]] = []
    try:
        with os.scandir(system.path(record_dir)) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if is_media_name(entry.name) and stat.S_ISREG(facts.st_mode):
                    found.append((facts.st_mtime, f"{record_dir.rstrip('/')}/{entry.name}"))
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]
