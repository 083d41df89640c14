"""What is kept of an error that nobody foresaw."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from pathlib import Path

from meetingctl import __version__
from meetingctl.core.paths import write_atomic


def write_crash_report(cache_dir: Path, error: BaseException, argv: tuple[str, ...]) -> Path | None:
    """Write a traceback without values to a new file, readable by its owner; None when the folder refuses it.

    Of the command line only the words before the first option are kept, because options may hold secrets.
    """
    words = []
    for word in argv:
        if word.startswith("-"):
            break
        words.append(word)
    versions = f"meetingctl {__version__}, Python {platform.python_version()}, {sys.platform}"
    head = f"{versions}\ncommand: {' '.join(words[:2])}\n"
    path = cache_dir / "crash" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 1_000_000:06d}.txt"
    try:
        write_atomic(path, head + "\n" + "".join(traceback.format_exception(error)), mode=0o600)
    except OSError:
        return None
    return path
