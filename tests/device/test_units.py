from __future__ import annotations

from pathlib import Path

import pytest

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.system import System
from meetingctl.device.units import Unit, parse_unit, read_unit, restart_unit

RUNNING = """\
Type=notify
Result=success
ExecMainStatus=0
LoadState=loaded
ActiveState=active
SubState=running
ActiveEnterTimestampMonotonic=8213345678
"""


def test_a_running_unit() -> None:
    unit = parse_unit("x", RUNNING)
    assert unit == Unit("x", "loaded", "active", "running", "success", 0, 8213.345678)
    assert unit.is_known
    assert not unit.is_stopped
    assert not unit.is_changing


@pytest.mark.parametrize(
    ("active", "sub", "stopped", "changing"),
    [
        ("inactive", "dead", True, False),
        ("failed", "failed", False, False),
        ("activating", "auto-restart", False, True),
        ("activating", "start", False, True),
        ("deactivating", "stop-sigterm", False, True),
    ],
)
def test_states(active: str, sub: str, stopped: bool, changing: bool) -> None:
    unit = parse_unit("x", f"LoadState=loaded\nActiveState={active}\nSubState={sub}\nActiveEnterTimestampMonotonic=0\n")
    assert (unit.is_stopped, unit.is_changing, unit.active_since_s) == (stopped, changing, None)


def test_a_unit_that_does_not_exist_is_not_one_that_was_stopped() -> None:
    unit = parse_unit("x", "LoadState=not-found\nActiveState=inactive\nSubState=dead\n")
    assert not unit.is_known
    assert not unit.is_stopped


def test_without_systemd_nothing_is_known(tmp_path: Path) -> None:
    system = System(tmp_path, env={"PATH": str(tmp_path)})
    assert read_unit(system, "x") == Unit("x")
    with pytest.raises(MeetingctlError, match=r"x\.service: systemctl restart failed with code 127"):
        restart_unit(system, "x")
