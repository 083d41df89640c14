"""What the recorder tells the watchdog, the web page and the command line: one small JSON file.

    state      off, starting, waiting, recording, disk_full, folder_error or stopped
    segment    name of the open segment, null while there is none
    bytes      its size
    updated_at Unix time of this file; `updated_monotonic_s` is the same on the clock that nobody sets
    grew_monotonic_s  when the open segment grew last, null before the first time

The monotonic clock is one for all processes of a boot, so a reader can compare with its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from meetingctl.core.errors import MeetingctlError, NotFound
from meetingctl.core.layout import RECORDER_STATE_JSON
from meetingctl.device.system import System

State = Literal["off", "starting", "waiting", "recording", "disk_full", "folder_error", "stopped"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The facts of one moment. `failures` counts in a row, `restarts` since the start of the daemon."""

    state: State = "starting"
    segment: str | None = None
    bytes: int = 0
    grew_monotonic_s: float | None = None
    failures: int = 0
    restarts: int = 0
    segments_closed: int = 0
    source: str = ""
    reason: str = ""
    hint: str = ""
    pid: int = 0
    ffmpeg_pid: int = 0
    record_dir: str = ""
    space: Mapping[str, Any] = field(default_factory=dict)
    media: Mapping[str, Any] = field(default_factory=dict)


def write_progress(system: System, progress: Progress) -> None:
    """Publish the facts. Raises: Forbidden, StorageFull, MeetingctlError."""
    facts = {
        **asdict(progress),
        "updated_at": int(system.clock.wall_s()),
        "updated_monotonic_s": round(system.clock.monotonic_s(), 3),
    }
    system.write(RECORDER_STATE_JSON, json.dumps(facts, ensure_ascii=False) + "\n", mode=0o644)


def read_progress(system: System) -> dict[str, Any] | None:
    """Return what the recorder published last; None when there is nothing, or nothing readable."""
    try:
        facts = json.loads(system.read(RECORDER_STATE_JSON))
    except NotFound:
        return None
    except (MeetingctlError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
