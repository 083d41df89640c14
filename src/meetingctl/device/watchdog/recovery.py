"""What happens when a video device is plugged in: udev starts the recovery unit, which runs this once."""

from __future__ import annotations

import logging
import threading

from meetingctl.device.system import System
from meetingctl.device.units import Unit, read_unit, restart_unit
from meetingctl.device.watchdog.facts import StreamStatus, read_status
from meetingctl.device.watchdog.rules import STALL_LIMIT_S, Rules

# A camera shows up as a device before it can deliver pictures.
SETTLE_S = 5.0

log = logging.getLogger(__name__)


def refuse_recovery(unit: Unit, status: StreamStatus | None, rules: Rules, *, plugged_at_s: float) -> str | None:
    """Return why no restart is wanted after a video device was plugged in, None when it is."""
    if rules.source_mode != "camera":
        return f"the source is {rules.source_mode}, not a camera"
    if rules.camera_type == "csi":
        return "the camera is a CSI one"
    if unit.is_stopped:
        return f"{unit.name} was stopped"
    if unit.is_changing or (unit.active_since_s is not None and unit.active_since_s > plugged_at_s):
        return f"{unit.name} is starting anyway"
    if status is not None and status.clients > 0 and _is_fresh(status.last_buffer_age_s):
        return "the picture runs"
    return None


def _is_fresh(age_s: float | None) -> bool:
    return age_s is not None and age_s <= STALL_LIMIT_S


def recover(
    system: System, rules: Rules, stop: threading.Event, *, dry_run: bool = False, settle_s: float = SETTLE_S
) -> str | None:
    """Wait until the camera has settled, then restart stream and recorder; return why not, None when it was done.

    Raises: MeetingctlError when systemd cannot restart the stream.
    """
    plugged_at_s = system.clock.monotonic_s()
    if stop.wait(settle_s):
        return "stopped while waiting for the camera"
    unit = read_unit(system, rules.stream_unit)
    refusal = refuse_recovery(unit, read_status(system), rules, plugged_at_s=plugged_at_s)
    if refusal is None and not dry_run:
        log.warning("restarting a unit", extra={"unit": rules.stream_unit, "reason": "camera-plugged"})
        restart_unit(system, rules.stream_unit)
        if rules.is_recording:
            restart_unit(system, rules.recorder_unit, only_running=True)
    return refusal
