"""Everything that one look at a camera should tell: stream, recorder, watchdog, disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import DeviceConfig, read_config
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.recorder.progress import read_progress
from meetingctl.device.recorder.retention import space_level
from meetingctl.device.recorder.room import limits_of
from meetingctl.device.stream.control import ask_daemon
from meetingctl.device.system import System
from meetingctl.device.units import Unit, read_unit
from meetingctl.device.watchdog.state import read_report

Part = dict[str, Any]


def read_overview(system: System) -> dict[str, Part]:
    """Look at every part; a part that cannot be read says why, the others follow all the same.

    Raises: Forbidden when config.env may not be read.
    """
    config = read_config(system).config
    return {
        "stream": describe_stream(read_unit(system, config.rtsp_service), _ask_stream(system), config),
        "recorder": describe_recorder(read_unit(system, config.recorder_service), read_progress(system), config),
        "watchdog": describe_watchdog(read_report(system)),
        "disk": _read_disk(system, config),
    }


def describe_stream(unit: Unit, status: Mapping[str, Any] | None, config: DeviceConfig) -> Part:
    """Put the stream into a state and one line. `status` is None when the daemon does not answer."""
    if status is None:
        detail = f"{unit.name} is {unit.active}" if unit.active else "the stream daemon does not answer"
        return {"state": "down", "unit": unit.active, "detail": detail}
    stalled = status.get("state") == "stalled"
    viewers = int(status.get("clients") or 0)
    picture = f"{status.get('width')}x{status.get('height')} at {status.get('target_fps')} fps"
    detail = f"{status.get('source')}, {picture}, {viewers} viewers, port {config.rtsp_port}"
    return {"state": "failing" if stalled else "ok", "unit": unit.active, "detail": detail, **status_figures(status)}


def status_figures(status: Mapping[str, Any]) -> Part:
    """Pick the figures of the stream that a short look needs."""
    keys = ("clients", "local_clients", "fps", "bitrate_bps", "last_buffer_age_s", "encoder", "restarts", "notes")
    return {"stream": status.get("state"), **{key: status.get(key) for key in keys}}


def describe_recorder(unit: Unit, progress: Mapping[str, Any] | None, config: DeviceConfig) -> Part:
    """Put the recorder into a state and one line."""
    if not config.record_enable:
        return {"state": "off", "unit": unit.active, "detail": "RECORD_ENABLE is no"}
    if progress is None or progress.get("state") in {"stopped", "off"}:
        detail = f"{unit.name} is {unit.active}" if unit.active else "the recorder does not run"
        return {"state": "down", "unit": unit.active, "detail": detail}
    found = str(progress.get("state"))
    state = {"recording": "ok", "starting": "waiting", "waiting": "waiting"}.get(found, "failing")
    detail = str(progress.get("segment") or progress.get("reason") or found)
    keys = ("segment", "bytes", "restarts", "segments_closed", "reason")
    figures = {key: progress.get(key) for key in keys}
    return {"state": state, "unit": unit.active, "detail": detail, "recorder": found, **figures}


def describe_watchdog(report: Mapping[str, Any]) -> Part:
    """Put the report of the last check into a state and one line."""
    if not report["running"]:
        return {"state": "down", "detail": f"start it with systemctl start {layout.WATCHDOG_UNIT}", **report}
    finding = report.get("stream") or {}
    detail = f"{report.get('restart_count', 0)} restarts, last check {report.get('last_check_at') or 'still to come'}"
    if finding.get("state") in {"failing", "urgent"}:
        detail = f"{report.get('failures')} checks failed: {finding.get('reason')}, {detail}"
    return {"state": "ok", "detail": detail, **report}


def _read_disk(system: System, config: DeviceConfig) -> Part:
    folder = config.record_dir
    try:
        space = RecordFolder(system, folder).space()
        total_bytes = shutil.disk_usage(system.path(folder)).total
    except (MeetingctlError, OSError) as exc:
        return {"state": "unknown", "detail": f"{folder}: {exc}", "folder": folder}
    level = space_level(space, limits_of(config))
    free_gb, used_gb = space.free_bytes / 1e9, space.folder_bytes / 1e9
    return {
        "state": {"ok": "ok", "warning": "warning"}.get(level, "full"),
        "detail": f"{free_gb:.1f} GB free, recordings take {used_gb:.1f} GB",
        "folder": folder,
        "free_bytes": space.free_bytes,
        "total_bytes": total_bytes,
        "folder_bytes": space.folder_bytes,
        "min_free_mb": config.min_free_disk_mb,
        "max_folder_mb": config.max_disk_mb,
    }


def _ask_stream(system: System) -> dict[str, Any] | None:
    try:
        return ask_daemon(system, "status")
    except MeetingctlError:
        return None
