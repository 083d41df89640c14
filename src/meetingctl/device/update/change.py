"""Change from one release to another and back: the part that must survive a power cut at any point.

The order is: keep what will be replaced, note the change, move the link, write programs and units, restart, look,
forget the note. Each step may be done twice.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError, NotFound
from meetingctl.core.paths import sync_folder
from meetingctl.device.system import System
from meetingctl.device.update import health, journal, releases, replaced
from meetingctl.device.update.journal import Change
from meetingctl.device.update.status import Report

_REPAIR_TIMEOUT_S = 1500.0
_RELOAD_TIMEOUT_S = 60.0


def activate(system: System, change: Change, report: Report, *, restart: bool, health_s: float) -> str:
    """Make the new release the current one and watch it; returns the fault when it is not well.

    The note of the change stays until somebody calls `finish` or `revert`.
    """
    target = releases.folder_of(system, change.target)
    if change.origin:
        origin = _web_folder(system) if releases.is_original(system) else releases.folder_of(system, change.origin)
        replaced.keep_replaced(system, replaced.outside_files(target), origin)
        journal.note_health(origin, change.health)
    journal.note_change(system, change)
    releases.point_to(system, change.target)
    return complete(system, change, report, restart=restart, health_s=health_s)


def complete(system: System, change: Change, report: Report, *, restart: bool, health_s: float) -> str:
    """Do what comes after the link was moved; also after an interruption."""
    target = releases.folder_of(system, change.target)
    for path in replaced.install_programs(system, target):
        report.say(f"wrote {path}")
    if change.settings_backup:
        _move_settings(system, change.settings_backup)
    repair_setup(system, report, start=restart and not change.origin)
    if not restart or not system.is_booted:
        return ""
    for line in health.restart_units(system, change.restart):
        report.say(line)
    if change.origin:
        health.start_enabled(system, replaced.added_units(releases.folder_of(system, change.origin)))
    expected = change.health.expected_of(replaced.brought_units(target), is_reset=bool(change.settings_backup))
    report.say(f"watching {', '.join(expected.active_units) or 'no unit'}")
    return health.wait_healthy(system, expected, timeout_s=health_s, steady_s=min(health.STEADY_S, health_s / 2))


def finish(system: System, change: Change, report: Report) -> None:
    """Accept the new release, and remove those that are too old."""
    journal.forget_change(system)
    for name in releases.prune_releases(system):
        report.say(f"removed the old release {name}")


def revert(system: System, change: Change, report: Report, *, restart: bool, health_s: float) -> str:
    """Go back to the release that ran before, with its programs, units and settings; returns a fault that stays."""
    if not change.origin:
        raise NotFound("there is no former version to return to", hint="meetingctl device update list")
    folder = releases.folder_of(system, change.origin)
    if releases.read_info(folder) is None:
        raise NotFound(f"{change.origin}: not a whole release", hint="meetingctl device update list")
    back = replace(change, origin=change.target, target=change.origin, is_rollback=True)
    journal.note_change(system, back)
    releases.point_to(system, change.origin)
    return return_to(system, back, report, restart=restart, health_s=health_s)


def return_to(system: System, back: Change, report: Report, *, restart: bool, health_s: float) -> str:
    """Do what comes after the link was moved back; also after an interruption."""
    folder = releases.folder_of(system, back.target)
    if system.is_booted:
        health.remove_units(system, replaced.added_units(folder))
    for path in replaced.put_back(system, folder) or replaced.install_programs(system, folder):
        report.say(f"put back {path}")
    if back.settings_backup:
        _return_settings(system, back.settings_backup)
    fault = ""
    if system.is_booted:
        system.run("systemctl", "daemon-reload", timeout_s=_RELOAD_TIMEOUT_S)
        system.run("udevadm", "control", "--reload", timeout_s=_RELOAD_TIMEOUT_S)
        health.enable_units(system, back.health.enabled_units)
        if restart:
            stopped = health.find_stopped(system, back.health)
            for line in health.restart_units(system, dict.fromkeys((*back.restart, *stopped))):
                report.say(line)
            steady_s = min(health.STEADY_S, health_s / 2)
            fault = health.wait_healthy(system, back.health, timeout_s=health_s, steady_s=steady_s)
    journal.forget_change(system)
    return fault


def repair_setup(system: System, report: Report, *, start: bool) -> None:
    """Let the new release put its units, rules and folders in place: it knows its own.

    What cannot be repaired does not stop an update: whether the device works is looked at afterwards.
    """
    program = system.path(layout.PROGRAM)
    if not program.is_file():
        return
    words = ["device", "check", "--repair", "--start" if start else "--no-start", "--json", "--root", str(system.root)]
    ran = system.run(str(program), *words, timeout_s=_REPAIR_TIMEOUT_S)
    for line in _setup_lines(ran.out):
        report.say(line)
    if ran.code not in {0, 1}:
        report.say(f"device check --repair ended with code {ran.code}: {' '.join(ran.err.split())[-200:]}")


def _setup_lines(text: str) -> list[str]:
    try:
        answer: dict[str, Any] = json.loads(text)
        done = [f"{row['do']} {row['on']}" for row in answer.get("done", [])]
        failed = [f"failed: {row['do']} {row['on']}: {row.get('error', '')}" for row in answer.get("failed", [])]
        missing = [f"still missing: {row['on']}: {row['why']}" for row in answer.get("missing", [])]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    return [*done, *failed, *missing]


def _web_folder(system: System) -> Path:
    return system.path(layout.WEB_DIR)


def _move_settings(system: System, backup: str) -> None:
    """Move the configuration away and leave an empty folder with the same owner; a second time does nothing."""
    folder, target = system.path(layout.CONFIG_DIR), system.path(backup)
    if target.exists() or not folder.is_dir():
        return
    found = folder.stat()
    folder.rename(target)
    folder.mkdir(mode=found.st_mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(folder, found.st_uid, found.st_gid)
    folder.chmod(found.st_mode & 0o7777)
    sync_folder(folder.parent)


def _return_settings(system: System, backup: str) -> None:
    folder, source = system.path(layout.CONFIG_DIR), system.path(backup)
    if not source.is_dir():
        return
    if folder.exists():
        reset = folder.with_name(f"{folder.name}.reset_{backup.rpartition('_')[2]}")
        if reset.exists():
            raise MeetingctlError(f"{reset}: is in the way of the former settings", hint=f"ls -l {reset}")
        folder.rename(reset)
    source.rename(folder)
    sync_folder(folder.parent)
