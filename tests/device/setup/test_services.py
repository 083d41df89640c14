"""`device services` through `main()`, on a device in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.runner import Cli
from meetingctl.core import layout

from .conftest import Device

STREAM, RECORDER = layout.STREAM_UNIT, layout.RECORDER_UNIT


@pytest.fixture
def cli(tmp_path: Path, device: Device) -> Cli:
    for unit in layout.UNITS:
        device.set_unit(unit, "loaded", "enabled", "active")
    process = device.root / "proc/123"
    (process / "fd").mkdir(parents=True)
    (process / "fd/4").symlink_to("/dev/video0")
    (process / "fd/5").symlink_to("/dev/video0")
    (process / "fd/6").symlink_to("/dev/null")
    (process / "comm").write_text("rpicam-vid\n")
    return Cli(tmp_path, device.environment())


def changes(device: Device) -> list[str]:
    calls = [line.removeprefix("systemctl ") for line in device.calls("systemctl")]
    return [line for line in calls if not line.startswith(("show", "reset-failed"))]


def test_status_says_who_holds_the_camera(cli: Cli, device: Device) -> None:
    shown = cli("device", "services", "status", "--json").json
    assert [unit["unit"] for unit in shown["units"]] == list(layout.UNITS)
    assert shown["camera"] == [{"device": "/dev/video0", "pid": 123, "command": "rpicam-vid"}]
    text = cli("device", "services", "status", f"{STREAM}.service")
    assert text.out == f"{STREAM}\tactive\t\tenabled\t0\n"
    assert "/dev/video0 is open in rpicam-vid (pid 123)" in text.err


def test_stop_frees_the_camera_and_keeps_the_way_in(cli: Cli, device: Device) -> None:
    shown = cli("device", "services", "stop", "--dry-run", "--json").json
    order = [step["unit"] for step in shown["steps"]]
    assert order == [layout.WEB_UNIT, layout.ONVIF_UNIT, layout.WATCHDOG_UNIT, RECORDER, STREAM]
    assert changes(device) == []
    stopped = cli("device", "services", "stop")
    assert stopped.code == 0
    assert changes(device) == [f"stop -- {unit}.service" for unit in order]
    assert "still open in rpicam-vid" in stopped.err
    again = cli("device", "services", "stop", "--json").json
    assert (again["changed"], {step["step"] for step in again["steps"]}) == (False, {None})


def test_start_begins_only_what_is_enabled(cli: Cli, device: Device) -> None:
    for unit in layout.UNITS:
        device.set_unit(unit, "loaded", "enabled", "inactive")
    device.set_unit(RECORDER, "loaded", "disabled", "inactive")
    assert cli("device", "services", "start").code == 0
    assert [line.split()[-1] for line in changes(device)] == [
        f"{unit}.service" for unit in (STREAM, layout.WATCHDOG_UNIT, layout.ONVIF_UNIT, layout.WEB_UNIT)
    ]
    assert cli("device", "services", "start", RECORDER).code == 0
    assert changes(device)[-1] == f"start -- {RECORDER}.service"


def test_what_fails_is_named(cli: Cli, device: Device) -> None:
    device.refuse(f"restart -- {STREAM}")
    failed = cli("device", "services", "restart", STREAM, RECORDER)
    assert (failed.code, f"restart {STREAM}: Job failed" in failed.err) == (1, True)
    assert changes(device)[-1] == f"restart -- {RECORDER}.service"
    unknown = cli("device", "services", "stop", "sshd")
    assert (unknown.code, "no unit 'sshd' of ours" in unknown.err) == (1, True)
