"""What an update tells while it runs: the status file in the original's form, and a log that stays."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from meetingctl.core import layout
from meetingctl.core.clock import iso_text
from meetingctl.core.errors import Busy, MeetingctlError, NotFound
from meetingctl.device.system import System

MOST_LINES = 200
RUNNING_STATES = ("starting", "validating", "dependencies", "applying")
_WHOLE_PROGRESS = 100
log = logging.getLogger(__name__)

State = Literal["idle", "starting", "validating", "dependencies", "applying", "success", "rebooting", "error"]


class Report:
    """The status of one job: each change is in the file before the work goes on."""

    def __init__(self, system: System, tell: Callable[[str], None]) -> None:
        """`tell` gets each line as it comes."""
        self._system = system
        self._tell = tell
        self._lines: list[str] = []
        self.state: State = "idle"
        self.message = ""
        self.progress = 0
        self.details: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Add a line to the log."""
        stamp = iso_text(int(self._system.clock.wall_s() * 1000))
        self._lines = [*self._lines, f"{stamp} {text}"][-MOST_LINES:]
        with suppress(MeetingctlError, OSError):  # a full disk ends the work elsewhere
            path = self._system.path(layout.UPDATE_LOG)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{stamp} {text}\n")
        self._tell(text)
        self._save()

    def go(self, state: State, progress: int, message: str) -> None:
        """Enter the next stage; `progress` is 0 to 100."""
        self.state, self.progress, self.message = state, progress, message
        self.say(message)

    def fail(self, message: str) -> None:
        """End with an error."""
        self.go("error", 0, message)

    def _save(self) -> None:
        facts = {
            "state": self.state,
            "message": self.message,
            "progress": self.progress,
            "log": self._lines,
            "details": self.details,
            "updated_at": iso_text(int(self._system.clock.wall_s() * 1000)),
        }
        try:
            self._system.write(layout.UPDATE_STATUS_JSON, json.dumps(facts, indent=1) + "\n", mode=0o644)
        except (MeetingctlError, OSError) as error:
            log.warning("the status of the update cannot be written", extra={"error": str(error)})


def read_status(system: System) -> dict[str, Any]:
    """Return the last status; `idle` before the first, and an error when the job that wrote it is gone."""
    try:
        facts = json.loads(system.read(layout.UPDATE_STATUS_JSON))
    except (NotFound, ValueError):
        facts = None
    if not isinstance(facts, dict):
        return {"state": "idle", "message": "", "progress": 0, "log": [], "details": {}, "updated_at": None}
    if facts.get("state") in RUNNING_STATES and not is_job_running(system):
        facts |= {"state": "error", "progress": 0, "message": f"interrupted while {facts.get('state')}"}
    return facts


def is_job_running(system: System) -> bool:
    """Say whether somebody holds the lock of the releases."""
    if not system.path(layout.WEB_RELEASES_DIR).is_dir():
        return False
    try:
        with system.locked(layout.WEB_RELEASES_DIR, timeout_s=0):
            return False
    except Busy:
        return True
