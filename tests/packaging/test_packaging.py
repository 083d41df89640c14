"""What an operator installs must agree with the code: names, commands, folders, exit codes, times."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meetingctl.cli.main import root_command
from meetingctl.core import layout
from meetingctl.core.errors import ConfigError
from meetingctl.device.config import DeviceConfig
from meetingctl.device.setup.wanted import FOLDERS
from meetingctl.device.units import RESTART_TIMEOUT_S

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
PROGRAM = layout.PROGRAM
DAEMONS = {
    layout.STREAM_UNIT: "stream",
    layout.RECORDER_UNIT: "record",
    layout.WATCHDOG_UNIT: "watchdog",
    layout.ONVIF_UNIT: "onvif",
}
LOGS = {
    layout.STREAM_UNIT: layout.STREAM_LOG_NAME,
    layout.RECORDER_UNIT: layout.RECORDER_LOG_NAME,
    layout.WATCHDOG_UNIT: layout.WATCHDOG_LOG_NAME,
    layout.RECOVERY_UNIT: layout.WATCHDOG_LOG_NAME,
}


def read_unit(path: Path) -> dict[str, str]:
    """Read the settings of all sections; a repeated one keeps its last value."""
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"[A-Za-z]+=", line))
    return dict(pairs)


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_the_units_are_those_of_the_layout() -> None:
    names = {path.stem for path in UNITS}
    assert names == {*DAEMONS, layout.RECOVERY_UNIT, layout.TUNNEL_AGENT_UNIT}
    assert names <= set(layout.UNITS)


def test_the_command_of_a_unit_exists(unit: Path) -> None:
    program, *words = shlex.split(read_unit(unit)["ExecStart"])
    assert program == PROGRAM
    command = root_command()
    if unit.stem == layout.TUNNEL_AGENT_UNIT:
        assert words == ["tunnel", "agent", "--config", layout.MEETING_JSON]
        words = words[:2]
    else:
        assert words[:2] == ["device", DAEMONS.get(unit.stem, "watchdog")]
    for word in words:
        with command.make_context("meetingctl", [], resilient_parsing=True) as context:
            command = command.get_command(context, word)
        assert command is not None, f"no command {word!r} of {' '.join(words)}"


def test_a_unit_logs_where_the_tools_look(unit: Path) -> None:
    log = LOGS.get(unit.stem)
    assert read_unit(unit)["StandardOutput"] == (f"append:{layout.LOG_DIR}/{log}" if log else "journal")


def test_units_hold_on_to_what_protects_them(unit: Path) -> None:
    settings = read_unit(unit)
    for name in ("NoNewPrivileges", "PrivateTmp", "RestrictSUIDSGID", "ProtectKernelModules", "LockPersonality"):
        assert settings[name] == "yes", name
    assert settings["ProtectSystem"] in {"strict", "full"}
    assert "CAP_SYS_ADMIN" not in settings["CapabilityBoundingSet"]


@pytest.mark.parametrize("name", DAEMONS)
class TestDaemons:
    def settings(self, name: str) -> dict[str, str]:
        return read_unit(PACKAGING / "systemd" / f"{name}.service")

    def test_systemd_knows_when_it_is_ready_and_when_it_hangs(self, name: str) -> None:
        settings = self.settings(name)
        assert settings["Type"] == "notify"
        assert int(settings["WatchdogSec"]) >= 30

    def test_an_invalid_configuration_is_not_tried_again(self, name: str) -> None:
        assert self.settings(name)["RestartPreventExitStatus"].split() == [str(ConfigError.exit_code)]
        assert self.settings(name)["StartLimitIntervalSec"] == "0"

    def test_a_restart_ends_before_the_watchdog_gives_it_up(self, name: str) -> None:
        settings = self.settings(name)
        if name != layout.WATCHDOG_UNIT:
            assert int(settings["TimeoutStartSec"]) + int(settings["TimeoutStopSec"]) <= RESTART_TIMEOUT_S
        else:
            assert int(settings["WatchdogSec"]) > RESTART_TIMEOUT_S + 60

    def test_it_starts_at_boot(self, name: str) -> None:
        assert self.settings(name)["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize("name", [layout.RECORDER_UNIT, layout.ONVIF_UNIT])
def test_a_daemon_that_has_nothing_to_do_stays_off(name: str) -> None:
    assert read_unit(PACKAGING / "systemd" / f"{name}.service")["Restart"] == "on-failure"


def test_the_ports_of_the_configuration_are_those_of_the_layout() -> None:
    config = DeviceConfig()
    assert (config.rtsp_port, config.webmanager_port) == (layout.RTSP_PORT, layout.WEB_PORT)
    # They can be changed, so no unit may name one.
    for path in UNITS:
        assert not re.search(rf"\b({layout.RTSP_PORT}|{layout.WEB_PORT}|{layout.CSI_CONTROL_PORT})\b", path.read_text())


def test_the_udev_rule_starts_the_recovery_unit() -> None:
    path = PACKAGING / "udev" / Path(layout.UDEV_RULE).name
    (rule,) = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    matches = [re.fullmatch(r'([A-Z]+)(?:\{(\w+)\})?(==|\+=)"([^"]*)"', word.strip()) for word in rule.split(",")]
    assert all(matches), rule
    found = {(match[1], match[2]): (match[3], match[4]) for match in matches if match}
    assert found["ACTION", None] == ("==", "add")
    assert found["SUBSYSTEM", None] == ("==", "video4linux")
    assert found["TAG", None] == ("+=", "systemd")
    assert found["ENV", "SYSTEMD_WANTS"] == ("+=", f"{layout.RECOVERY_UNIT}.service")


def tmpfiles_lines() -> list[list[str]]:
    text = (PACKAGING / "tmpfiles.d" / "rpi-cam.conf").read_text()
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def test_the_folders_are_those_of_the_layout() -> None:
    assert [words[1] for words in tmpfiles_lines()] == [
        layout.CONFIG_DIR,
        layout.LOG_DIR,
        layout.CACHE_DIR,
        layout.RECORDINGS_DIR,
        layout.THUMBNAILS_DIR,
        layout.RUN_DIR,
        layout.STATE_DIR,
    ]


def test_a_check_wants_the_same_folders() -> None:
    assert {words[1]: (int(words[2], 8), *words[3:5]) for words in tmpfiles_lines()} == {
        folder: (mode, "root", layout.WEB_GROUP) for folder, mode in FOLDERS.items()
    }


def test_logs_are_rotated_where_they_are_written() -> None:
    text = (PACKAGING / "logrotate.d" / "rpi-cam").read_text()
    assert text.startswith(f"{layout.LOG_DIR}/*.log {{")
    # Moving a file away would leave the daemons with the moved one.
    assert re.search(r"^\s+copytruncate$", text, re.MULTILINE)


@pytest.mark.real
def test_systemd_finds_nothing_wrong(tmp_path: Path, require_program: Callable[..., str]) -> None:
    analyze = require_program("systemd-analyze", package="systemd")
    copies = []
    for path in UNITS:
        # The program is not installed here; any other stands in for it.
        copies.append(tmp_path / path.name)
        copies[-1].write_text(path.read_text().replace(PROGRAM, "/bin/true"))
    ran = subprocess.run([analyze, "verify", *copies], capture_output=True, text=True, timeout=100)
    own = [line for line in (ran.stdout + ran.stderr).splitlines() if any(path.stem in line for path in UNITS)]
    assert (ran.returncode, own) == (0, [])


@pytest.mark.real
def test_systemd_makes_the_folders(tmp_path: Path, require_program: Callable[..., str]) -> None:
    tmpfiles = require_program("systemd-tmpfiles", package="systemd")
    (tmp_path / "etc").mkdir()
    # Names of this root: root and www-data are whoever runs the test.
    (tmp_path / "etc/passwd").write_text(f"root:x:{os.getuid()}:{os.getgid()}::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text(f"root:x:{os.getgid()}:\nwww-data:x:{os.getgid()}:\n")
    conf = tmp_path / "etc/tmpfiles.d/rpi-cam.conf"
    conf.parent.mkdir()
    shutil.copy(PACKAGING / "tmpfiles.d" / "rpi-cam.conf", conf)
    ran = subprocess.run(
        [tmpfiles, "--create", f"--root={tmp_path}", "rpi-cam.conf"], capture_output=True, text=True, timeout=100
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    for _, folder, mode, *_ in tmpfiles_lines():
        assert stat.S_IMODE(layout.below(tmp_path, folder).stat().st_mode) == int(mode, 8), folder


@pytest.mark.real
def test_logrotate_cuts_a_log_that_is_still_open(tmp_path: Path, require_program: Callable[..., str]) -> None:
    logrotate = require_program("logrotate")
    logs = tmp_path / "log"
    logs.mkdir(mode=0o755)
    text = (PACKAGING / "logrotate.d" / "rpi-cam").read_text().replace(layout.LOG_DIR, str(logs))
    conf = tmp_path / "rpi-cam"
    conf.write_text(text)
    conf.chmod(0o644)
    log = logs / layout.STREAM_LOG_NAME
    with log.open("a") as daemon:
        daemon.write("before\n")
        daemon.flush()
        ran = subprocess.run(
            [logrotate, "--force", "--state", tmp_path / "state", conf], capture_output=True, text=True, timeout=100
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        daemon.write("after\n")
    assert log.read_text() == "after\n"
    assert (logs / f"{layout.STREAM_LOG_NAME}.1").read_text() == "before\n"
