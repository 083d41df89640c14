from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core import layout
from meetingctl.device.config import DeviceConfig, change_config
from meetingctl.device.overview import describe_recorder, describe_stream, describe_watchdog, read_overview
from meetingctl.device.recorder.progress import Progress, write_progress
from meetingctl.device.stream.control import ControlSocket
from meetingctl.device.system import System
from meetingctl.device.units import Unit

UNIT = Unit("x", "loaded", "active")
STATUS = {"state": "live", "source": "usb", "width": 640, "height": 480, "target_fps": 15.0, "clients": 2, "fps": 14.9}


def test_a_stream_that_serves_stalls_or_is_gone() -> None:
    config = DeviceConfig()
    assert describe_stream(UNIT, STATUS, config)["state"] == "ok"
    assert describe_stream(UNIT, STATUS, config)["detail"] == "usb, 640x480 at 15.0 fps, 2 viewers, port 8554"
    assert describe_stream(UNIT, {**STATUS, "state": "stalled"}, config)["state"] == "failing"
    assert describe_stream(Unit("x"), None, config)["state"] == "down"


@pytest.mark.parametrize(
    ("progress", "state"),
    [
        ({"state": "recording", "segment": "rec_1.ts"}, "ok"),
        ({"state": "waiting", "reason": "no source"}, "waiting"),
        ({"state": "disk_full", "reason": "full"}, "failing"),
        ({"state": "stopped"}, "down"),
        (None, "down"),
    ],
)
def test_states_of_the_recorder(progress: dict[str, Any] | None, state: str) -> None:
    assert describe_recorder(UNIT, progress, DeviceConfig(record_enable=True))["state"] == state
    assert describe_recorder(UNIT, progress, DeviceConfig())["state"] == "off"


def test_the_watchdog_tells_what_it_found() -> None:
    assert describe_watchdog({"running": False})["state"] == "down"
    assert "still to come" in describe_watchdog({"running": True})["detail"]
    found = {"running": True, "failures": 2, "max_failures": 3, "stream": {"state": "failing", "reason": "stalled"}}
    assert describe_watchdog(found)["detail"].startswith("2 checks failed: stalled")


def test_one_look_at_a_device_with_daemons(tmp_path: Path) -> None:
    system = System(tmp_path, env={"PATH": str(tmp_path)})
    change_config(system, {"RECORD_ENABLE": "yes", "MIN_FREE_DISK_MB": "0"})
    system.path(layout.RECORDINGS_DIR).mkdir(parents=True)
    write_progress(system, Progress(state="recording", segment="rec_1.ts", bytes=5))
    control = ControlSocket(system.path(layout.STREAM_STATE_SOCKET), lambda line: dict(STATUS))
    try:
        overview = read_overview(system)
    finally:
        control.close()
    assert {name: part["state"] for name, part in overview.items()} == {
        "stream": "ok",
        "recorder": "ok",
        "watchdog": "down",
        "disk": "ok",
    }
    assert overview["disk"]["free_bytes"] <= overview["disk"]["total_bytes"]


def test_a_device_on_which_nothing_runs_is_shown_too(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MEETINGCTL_ROOT": str(tmp_path)}
    argv = [sys.executable, "-m", "meetingctl", "device", "status"]
    shown = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=100)
    assert shown.returncode == 0, shown.stderr
    assert [line.split("\t")[:2] for line in shown.stdout.splitlines()] == [
        ["stream", "down"],
        ["recorder", "off"],
        ["watchdog", "down"],
        ["disk", "unknown"],
    ]
    told = subprocess.run([*argv, "--json"], env=env, capture_output=True, text=True, timeout=100)
    assert set(json.loads(told.stdout)) == {"stream", "recorder", "watchdog", "disk"}
