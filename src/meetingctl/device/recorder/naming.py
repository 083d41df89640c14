"""Names of recordings: `rec_YYYYmmdd_HHMMSS.ts` in local time, `_2`, `_3` .. when a clock repeats itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath

from meetingctl.core.errors import InvalidInput

PREFIX = "rec_"
SEGMENT_SUFFIX = ".ts"
SUFFIXES = (".ts", ".mp4", ".mkv", ".avi")
STRFTIME_NAME = f"{PREFIX}%Y%m%d_%H%M%S{SEGMENT_SUFFIX}"

_START = re.compile(r"rec_(\d{8}_\d{6})(?:_\d+)?\.")


def is_segment_name(name: str) -> bool:
    """Say whether the recorder may have made a file of this name; no other file is ever deleted."""
    return name.startswith(PREFIX) and name.endswith(SEGMENT_SUFFIX) and "/" not in name and "\0" not in name


def is_media_name(name: str) -> bool:
    """Say whether a file in the folder is shown as a recording: any video that is not hidden."""
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in SUFFIXES


def parse_base_name(text: str) -> str:
    """Return the name of a recording that came from outside.

    Raises: InvalidInput for anything that is not the plain name of a video in the folder.
    """
    if "/" in text or "\0" in text or not is_media_name(text) or len(text.encode("utf-8", "surrogateescape")) > 255:
        raise InvalidInput(f"{text[:80]!r} is no recording", hint="meetingctl device record list")
    return text


def started_at(name: str) -> datetime | None:
    """Return the local time in a name, None for a name without one."""
    found = _START.match(name)
    if found is None:
        return None
    try:
        return datetime.strptime(found[1], "%Y%m%d_%H%M%S")
    except ValueError:
        return None


def candidate_names(name: str) -> Iterator[str]:
    """Yield the name itself, then `<stem>_2`, `<stem>_3` .. without end."""
    yield name
    pure = PurePosixPath(name)
    number = 2
    while True:
        yield f"{pure.stem}_{number}{pure.suffix}"
        number += 1
