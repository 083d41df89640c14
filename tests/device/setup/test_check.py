"""`device check` through `main()`, on a device in a folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cli.runner import Cli
from meetingctl.core import layout

from .conftest import PACKAGING, Device

UNITS = sorted(path.stem for path in (PACKAGING / "systemd").glob("*.service"))


@pytest.fixture
def cli(tmp_path: Path, device: Device) -> Cli:
    return Cli(tmp_path, device.environment())


def mode_of(device: Device, path: str) -> int:
    return stat.S_IMODE(device.path(path).stat().st_mode)


def test_a_repair_sets_everything_up_and_a_second_one_does_nothing(cli: Cli, device: Device) -> None:
    device.write(layout.MEETING_JSON, '{"enabled": true, "provisioned": false}', 0o644)
    before = cli("device", "check", "--json")
    assert (before.code, before.json["ok"], before.json["done"]) == (1, False, [])
    assert device.calls("apt-get", "gpasswd") == []

    done = cli("device", "check", "--repair", "--json")
    assert (done.code, done.json["missing"], done.json["failed"]) == (0, [], []), done
    assert {step["do"] for step in done.json["done"]} >= {
        "install-file",
        "install-package",
        "enable-unit",
        "make-config",
    }
    assert done.json["notes"] == ["rpicam-apps: apt has no such package"]

    for name in UNITS:
        placed = device.path(layout.unit_file_path(name))
        assert placed.read_bytes() == (PACKAGING / "systemd" / placed.name).read_bytes()
    enabled = [line.split()[-1] for line in device.calls("systemctl") if line.startswith("systemctl enable")]
    # Not the recovery, which udev starts; not the agent of a device that is not provisioned.
    wanted = {f"{name}.service" for name in UNITS} - {f"{layout.RECOVERY_UNIT}.service", "meeting-tunnel-agent.service"}
    assert set(enabled) == wanted
    assert (mode_of(device, layout.MEETING_JSON), mode_of(device, layout.CONFIG_ENV)) == (0o600, 0o640)
    assert device.path(layout.CONFIG_ENV).read_text().splitlines()[1:] == ["CAMERA_TYPE=csi"]
    assert "video:x:44:nobody,device" in device.path(layout.GROUP_TABLE).read_text()

    assert mode_of(device, "/usr/local/bin/meetingctl") == 0o755

    changing = len(device.calls("apt-get", "gpasswd", "systemd-tmpfiles", "udevadm"))
    again = cli("device", "check", "--repair", "--json")
    assert (again.code, again.json["done"], again.json["missing"]) == (0, [], [])
    assert len(device.calls("apt-get", "gpasswd", "systemd-tmpfiles", "udevadm")) == changing
    assert cli("device", "check").out == "complete\n"


def test_apt_waits_for_locks_and_asks_nobody(cli: Cli, device: Device) -> None:
    assert cli("device", "check", "--repair", "--component", "gstreamer").code == 0
    refresh, install = device.calls("apt-get")
    assert "DPkg::Lock::Timeout=600" in refresh
    assert "DPkg::Lock::Timeout=600" in install
    assert install.endswith("install -- ffmpeg")
    assert "--no-install-recommends" in install


def test_a_dry_run_shows_the_same_plan_and_changes_nothing(cli: Cli, device: Device) -> None:
    found = {path: path.lstat().st_mtime_ns for path in device.root.rglob("*")}
    shown = cli("device", "check", "--repair", "--dry-run", "--json")
    assert (shown.code, shown.json["dry_run"]) == (1, True)
    assert shown.json["missing"] == cli("device", "check", "--json").json["missing"]
    assert {path: path.lstat().st_mtime_ns for path in device.root.rglob("*")} == found


def test_one_step_that_fails_leaves_the_others(cli: Cli, device: Device) -> None:
    device.write("/var/log/rpi-cam", "not a folder")
    done = cli("device", "check", "--repair")
    assert done.code == 1
    assert done.out == "by-hand\t/var/log/rpi-cam\tis no folder but a file: move it away\n"
    assert "warning: by-hand /var/log/rpi-cam" in done.err
    assert device.path(layout.RECORDINGS_DIR).is_dir()


def test_a_provisioned_device_gets_its_agent_and_loses_it_again(cli: Cli, device: Device) -> None:
    on = '{"enabled": true, "provisioned": true, "device_key": "K", "token_code": "ABC123"}'
    device.write(layout.MEETING_JSON, on, 0o600)
    assert cli("device", "check", "--repair", "--component", "agent").code == 0
    calls = device.calls("systemctl")
    assert "systemctl enable -- meeting-tunnel-agent.service" in calls
    assert "systemctl start --no-block -- meeting-tunnel-agent.service" in calls
    device.write(layout.MEETING_JSON, on.replace('"enabled": true', '"enabled": false'), 0o600)
    assert cli("device", "check", "--repair", "--component", "agent").code == 0
    assert device.calls("systemctl")[-2] == "systemctl disable --now -- meeting-tunnel-agent.service"


def test_no_start_leaves_the_units_to_the_caller(cli: Cli, device: Device) -> None:
    assert cli("device", "check", "--repair", "--no-start").code == 0
    assert not [line for line in device.calls("systemctl") if " start " in line or "restart" in line]


def test_cloud_init_no_longer_names_the_device(cli: Cli, device: Device) -> None:
    text = "cloud_init_modules:\n  - seed_random\n  - [update_hostname, always]\n  - set_hostname\n"
    device.write(layout.CLOUD_CFG, text)
    device.write(layout.CLOUD_HOSTNAME_MEMORY, "raspberrypi\n")
    assert cli("device", "check", "--repair").code == 0
    assert device.path(layout.CLOUD_CFG).read_text() == (
        "cloud_init_modules:\n  - seed_random\n  # - [update_hostname, always]\n  # - set_hostname\n"
    )
    assert device.path(f"{layout.CLOUD_CFG}.orig").read_text() == text
    assert "preserve_hostname: true" in device.path(layout.CLOUD_DROPIN).read_text()
    assert not device.path(layout.CLOUD_HOSTNAME_MEMORY).exists()


def test_older_settings_become_the_configuration(cli: Cli, device: Device) -> None:
    device.write(layout.RECORDER_CONF, "RTSP_PORT=9000\nCAMERA_TYPE=usb\n")
    assert cli("device", "check", "--repair").code == 0
    assert device.path(layout.CONFIG_ENV).read_text() == "RTSP_PORT=9000\nCAMERA_TYPE=usb\n"
    assert mode_of(device, layout.RECORDER_CONF) == 0o640


def test_what_stands_in_the_way_of_the_whole(cli: Cli, device: Device) -> None:
    (device.bin / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    device.path(layout.PROGRAM).unlink()
    found = cli("device", "check", "--json").json["missing"]
    assert [step["on"] for step in found if step["do"] == "by-hand"] == ["/opt/rpi-cam-webmanager", "systemd"]
    # A machine that is no camera is not made one by a slip.
    before = sorted(device.root.rglob("*"))
    assert cli("device", "check", "--repair").code == 1
    assert sorted(path for path in device.root.rglob("*") if "meetingctl" not in path.parts) == [
        path for path in before if "meetingctl" not in path.parts
    ]
    wrong = cli("device", "check", "--component", "camera")
    assert (wrong.code, "no component 'camera'" in wrong.err) == (2, True)


def test_a_folder_without_a_running_system_gets_files_and_nothing_else(cli: Cli, device: Device) -> None:
    (device.root / "run/systemd/system").rmdir()
    done = cli("device", "check", "--repair", "--json")
    assert (done.code, done.json["failed"]) == (0, [])
    assert not (device.state / "calls").exists()
    assert device.path(layout.unit_file_path(layout.STREAM_UNIT)).exists()
    assert done.json["notes"] == ["only files were looked at: below this folder no system runs"]
    assert cli("device", "check").code == 0


def test_a_package_on_hold_and_one_that_another_provides_are_there(cli: Cli, device: Device) -> None:
    answer = "ffmpeg\thi \n\nother-cameras\tii \nrpicam-apps (= 1.5)\n"
    (device.state / "dpkg-says").write_text(answer)
    (device.bin / "dpkg-query").write_text(f"#!/bin/sh\ncat {device.state}/dpkg-says\n")
    done = cli("device", "check", "--component", "gstreamer", "--json")
    assert [step for step in done.json["missing"] if step["do"] in {"refresh-packages", "install-package"}] == []
    assert done.json["notes"] == []


def test_where_dpkg_does_not_answer_the_repair_says_why(cli: Cli, device: Device) -> None:
    for name in ("dpkg-query", "apt-get"):
        (device.bin / name).write_text("#!/bin/sh\necho 'E: the database is broken' >&2\nexit 100\n")
    done = cli("device", "check", "--repair", "--component", "gstreamer", "--json")
    assert done.code == 1
    assert {row["error"] for row in done.json["failed"] if row["do"] == "refresh-packages"} == {
        "apt-get update: E: the database is broken"
    }


def test_an_interrupted_update_is_settled_first(cli: Cli, device: Device) -> None:
    device.write(f"{layout.WEB_RELEASES_DIR}/2.0.0/.release/building", "")
    planned = cli("device", "check", "--json").json["missing"]
    assert [step["do"] for step in planned] == ["settle-update"], planned
    done = cli("device", "check", "--repair", "--json")
    assert (done.code, done.json["done"][0]["do"], len(done.json["done"]) > 5) == (0, "settle-update", True), done
