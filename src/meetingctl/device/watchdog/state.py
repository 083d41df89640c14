"""The state file of the watchdog: its memory, and the report that others show."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from meetingctl.core import layout
from meetingctl.core.clock import iso_text
from meetingctl.core.errors import Busy, MeetingctlError
from meetingctl.device.system import System
from meetingctl.device.watchdog.decide import Decision
from meetingctl.device.watchdog.facts import Facts
from meetingctl.device.watchdog.memory import Memory
from meetingctl.device.watchdog.rules import Rules

LOCK_FOLDER = f"{layout.RUN_DIR}/watchdog.lock"

log = logging.getLogger(__name__)

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """What goes from one check to the next."""

    memory: Memory
    report: Report


def read_kept(system: System) -> Kept:
    """Return what earlier checks left, also those of another process; fresh after a reboot or when it is damaged."""
    state = _read_state(system)
    return Kept(Memory.from_json(state.get("memory")), state.get("report", {}))


def write_kept(system: System, kept: Kept) -> None:
    """Write the state file; a full or read-only disk costs others the report, not the watchdog its work."""
    state = {
        "written_at_s": system.clock.monotonic_s(),
        "memory": kept.memory.to_json(),
        "report": kept.report,
    }
    try:
        system.write(layout.WATCHDOG_STATE_JSON, json.dumps(state, indent=1), mode=0o644)
    except MeetingctlError as error:
        log.warning("cannot keep the state", extra={"error": error.message})


def report_check(system: System, rules: Rules, decision: Decision, facts: Facts, before: Report) -> Report:
    """Put a check into the words of `watchdog status` and of the web page."""
    now = iso_text(int(system.clock.wall_s() * 1000))
    is_healthy = decision.stream.state == "healthy"
    memory = decision.memory
    held_s = None if decision.held_until_s is None else round(max(0.0, decision.held_until_s - facts.at_s), 1)
    return {
        "last_check_at": now,
        "last_healthy_at": now if is_healthy else before.get("last_healthy_at"),
        "last_restart_at": now if "restart-stream" in decision.actions else before.get("last_restart_at"),
        "restart_count": memory.stream.restarts,
        "recorder_restart_count": memory.recorder.restarts,
        "check_interval_s": rules.interval_s,
        "max_failures": rules.max_failures,
        "failures": memory.failures,
        "recorder_failures": memory.recorder_failures,
        "restart_held_for_s": held_s,
        "camera_device": rules.camera_device,
        "camera_present": facts.camera_present,
        "stream": asdict(decision.stream),
        "recorder": asdict(decision.recorder),
        "actions": list(decision.actions),
    }


def read_report(system: System) -> Report:
    """Return what `watchdog status` shows: whether a watchdog runs, and the report of the last check.

    Without a check since the start of the device it is only the first.
    """
    return {"running": is_running(system), **_read_state(system).get("report", {})}


def is_running(system: System) -> bool:
    """Say whether a watchdog holds its lock on this device."""
    try:
        if not system.path(LOCK_FOLDER).is_dir():
            return False
        with system.locked(LOCK_FOLDER, timeout_s=0.0):
            return False
    except Busy:
        return True
    except MeetingctlError:
        return False


def _read_state(system: System) -> dict[str, Any]:
    try:
        state = json.loads(system.read(layout.WATCHDOG_STATE_JSON))
    except (MeetingctlError, ValueError, RecursionError):
        return {}
    if not isinstance(state, dict) or not isinstance(state.get("report"), dict):
        return {}
    written_at_s = state.get("written_at_s")
    # The monotonic clock starts anew with each boot, so a time that is still to come is one of an earlier boot.
    is_of_this_boot = isinstance(written_at_s, int | float) and written_at_s <= system.clock.monotonic_s()
    return state if is_of_this_boot else {}
