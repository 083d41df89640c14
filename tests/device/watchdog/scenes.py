"""Facts that tests are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meetingctl.device.units import Unit
from meetingctl.device.watchdog.facts import Facts, Probe, Progress, StreamStatus
from meetingctl.device.watchdog.rules import Rules

RULES = Rules(is_recording=True, camera_type="usb")
RUNNING = Unit("rpi-av-rtsp-recorder", "loaded", "active", "running", "success", 0, 1.0)
RECORDING = Unit("rtsp-recorder", "loaded", "active", "running", "success", 0, 1.0)
VIEWED = StreamStatus(2, 0.1)
IDLE = StreamStatus(0, None)
STALLED = VIEWED._replace(last_buffer_age_s=60.0)
ANSWERS = Probe("OPTIONS", "ok")
SILENT = Probe("OPTIONS", "unreachable", "no answer")


def facts(at_s: float = 1000.0, **changes: Any) -> Facts:
    """Return the facts of a camera on which all is well, and change some."""
    healthy = Facts(
        at_s=at_s,
        unit=RUNNING,
        status=VIEWED,
        probe=ANSWERS,
        recorder=RECORDING,
        progress=Progress("recording", "rec_20260101_000000.ts", int(at_s * 1000)),
    )
    return replace(healthy, **changes)


def unit(active: str, **changes: Any) -> Unit:
    return replace(RUNNING, active=active, **changes)
