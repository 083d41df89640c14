"""Apply, watch, take back, go back: on a camera in a folder, with real environments and a scripted systemd."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meetingctl.core import layout
from meetingctl.core.errors import Busy, InvalidInput, MeetingctlError, NotFound
from meetingctl.device.update import releases
from meetingctl.device.update.check import judge_package
from meetingctl.device.update.job import Options, apply_package, find_unfinished, roll_back, settle_device
from meetingctl.device.update.status import read_status
from meetingctl.remote.bundle import Platform, Recipe
from meetingctl.remote.bundle.build import pack, read_signing_key

from .conftest import Camera

FAST = Options(health_s=0.4)
STREAM = layout.STREAM_UNIT


def apply(camera: Camera, path: Path, options: Options = FAST) -> dict[str, object]:
    return apply_package(camera.system, path, options, lambda _: None)


def kill_during(camera: Camera, verb: str, path: Path) -> None:
    """Apply in a process of its own, which is killed when it calls systemctl with that verb."""
    (camera.state / "deadly").write_text(f"{verb}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "meetingctl", "device", "update", "apply", str(path)],
        env={**camera.environment(), "HOME": str(camera.root)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == -9, ran.stderr


def test_install_update_and_go_back(camera: Camera) -> None:
    config = camera.path(layout.CONFIG_ENV).read_bytes()
    first = apply(camera, camera.package("1.0.0"))
    assert (first["state"], first["from"], first["to"]) == ("success", "", "1.0.0")
    assert camera.program_version() == "meetingctl 1.0.0"
    assert camera.path(layout.WEB_DIR).readlink() == Path("rpi-cam-webmanager.releases/1.0.0")
    command = camera.path("/usr/local/bin/meetingctl")
    assert (command.read_text(), stat.S_IMODE(command.stat().st_mode)) == ("#!/bin/sh\n# 1.0.0\n", 0o755)
    assert "--start" in (camera.state / "repairs").read_text()

    camera.set_unit(STREAM, "active")
    camera.set_unit(layout.WEB_UNIT, "active")
    camera.set_unit(layout.WATCHDOG_UNIT, "inactive")
    second = apply(
        camera,
        camera.package("1.1.0", units=(layout.ONVIF_UNIT, layout.WEB_UNIT), restart_services=(layout.WEB_UNIT, STREAM)),
    )
    assert second["from"] == "1.0.0"
    assert camera.calls("restart") == [STREAM, layout.WEB_UNIT]  # what shows the update goes last
    assert camera.units()[layout.WATCHDOG_UNIT] == "inactive"  # somebody stopped it
    assert camera.units()[layout.ONVIF_UNIT] == "active"  # it is new
    assert "--no-start" in (camera.state / "repairs").read_text().splitlines()[-1]
    assert json.loads(camera.path(layout.UPDATE_STATUS_JSON).read_text())["progress"] == 100
    assert "1.1.0 is installed" in camera.path(layout.UPDATE_LOG).read_text()

    back = roll_back(camera.system, lambda _: None, health_s=0.4)
    assert (back["from"], back["to"]) == ("1.1.0", "1.0.0")
    assert camera.program_version() == "meetingctl 1.0.0"
    assert command.read_text() == "#!/bin/sh\n# 1.0.0\n"
    assert not camera.path(layout.unit_file_path(layout.ONVIF_UNIT)).exists()
    assert camera.units()[layout.ONVIF_UNIT] == "inactive"
    assert camera.path(layout.unit_file_path(STREAM)).read_text() == "[Service]\n# 1.0.0\n"
    assert camera.path(layout.CONFIG_ENV).read_bytes() == config
    with pytest.raises(InvalidInput, match="installed already"):
        apply(camera, camera.packages / "rpi-cam-update_1.0.0.tar.gz")
    assert read_status(camera.system)["state"] == "error"
    assert camera.program_version() == "meetingctl 1.0.0"


def test_what_does_not_work_is_taken_back(camera: Camera) -> None:
    camera.install("1.0.0")
    bad = camera.package("1.1.0", broken=STREAM, units=(layout.ONVIF_UNIT,))
    with pytest.raises(MeetingctlError, match=rf"1\.1\.0 does not work: {STREAM} is failed.*; 1\.0\.0 runs again"):
        apply(camera, bad)
    assert camera.path(layout.WEB_DIR).readlink().name == "1.0.0"
    assert [release.name for release in releases.list_releases(camera.system)] == ["1.0.0"]
    assert not camera.path(layout.unit_file_path(layout.ONVIF_UNIT)).exists()
    status = read_status(camera.system)
    assert (status["state"], status["progress"]) == ("error", 0)
    assert find_unfinished(camera.system) == ""


def test_the_folder_of_an_original_device_is_kept_and_comes_back(camera: Camera) -> None:
    web = camera.path(layout.WEB_DIR)
    web.mkdir(parents=True)
    (web / "VERSION").write_text("2.32.58\n")
    (web / "app.py").write_text("app\n")
    unit = camera.path(layout.unit_file_path(STREAM))
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n# original\n")
    camera.set_unit(STREAM, "active")
    camera.set_unit(layout.WEB_UNIT, "active")  # this release has none
    verdict = judge_package(camera.system, camera.package("1.0.0"))
    assert verdict.findings.errors == ()
    assert "takes the place of another program, version 2.32.58" in verdict.findings.warnings[0]
    apply(camera, camera.packages / "rpi-cam-update_1.0.0.tar.gz")
    assert web.is_symlink()
    assert (camera.path(layout.WEB_RELEASES_DIR) / "2.32.58/app.py").exists()
    assert layout.WEB_UNIT not in camera.calls("restart")
    camera.set_unit(layout.WEB_UNIT, "inactive")  # as `device check --repair` leaves it
    roll_back(camera.system, lambda _: None, health_s=0.4)
    assert (web / "app.py").read_text() == "app\n"
    assert unit.read_text() == "[Service]\n# original\n"
    assert camera.units()[layout.WEB_UNIT] == "active"
    assert not camera.path("/usr/local/bin/meetingctl").exists()


def test_two_old_releases_stay_and_the_one_to_go_back_to(camera: Camera) -> None:
    for version, previous in (("1.0.0", ""), ("1.1.0", ""), ("1.2.0", ""), ("1.3.0", "1.0.0")):
        camera.install(version, previous=previous)
    assert releases.prune_releases(camera.system) == ["1.1.0"]
    assert [release.name for release in releases.list_releases(camera.system)] == ["1.3.0", "1.2.0", "1.0.0"]
    assert roll_back(camera.system, lambda _: None, health_s=0.4)["to"] == "1.0.0"


@pytest.mark.parametrize(("broken", "stays"), [("", "1.1.0"), (STREAM, "1.0.0")])
def test_a_job_that_was_killed_after_the_switch_is_settled(camera: Camera, broken: str, stays: str) -> None:
    camera.install("1.0.0")
    package = camera.package("1.1.0", broken=broken)
    kill_during(camera, "restart", package)
    assert camera.program_version() == "meetingctl 1.1.0"
    assert read_status(camera.system)["message"] == "interrupted while applying"
    assert find_unfinished(camera.system) == "the change to 1.1.0 was interrupted"
    if broken:
        with pytest.raises(MeetingctlError, match=r"1\.0\.0 runs again"):
            settle_device(camera.system, lambda _: None, health_s=0.4)
    else:
        assert "finishing the interrupted change to 1.1.0" in settle_device(camera.system, lambda _: None, health_s=0.4)
    assert camera.program_version() == f"meetingctl {stays}"
    assert find_unfinished(camera.system) == ""


def test_a_job_that_was_killed_before_the_switch_changes_nothing(camera: Camera) -> None:
    camera.install("1.0.0")
    kill_during(camera, "show", camera.package("1.1.0"))
    (camera.path(layout.WEB_RELEASES_DIR) / "1.2.0/venv").mkdir(parents=True)
    assert camera.program_version() == "meetingctl 1.0.0"
    assert find_unfinished(camera.system) == "1.2.0 was never finished"
    assert settle_device(camera.system, lambda _: None) == ["removed 1.2.0, which was never finished"]
    assert camera.path(layout.WEB_DIR).readlink().name == "1.0.0"


def test_a_power_cut_between_the_exchange_and_the_move(camera: Camera) -> None:
    camera.install("1.0.0")
    left = camera.path(releases.NEW_LINK)
    left.mkdir()
    (left / "VERSION").write_text("2.32.58\n")
    (camera.path(layout.WEB_RELEASES_DIR) / "unfinished").mkdir()
    settle_device(camera.system, lambda _: None)
    assert (camera.path(layout.WEB_RELEASES_DIR) / "2.32.58/VERSION").exists()
    assert not left.exists()


def test_settings_are_reset_and_come_back_with_the_old_version(camera: Camera) -> None:
    camera.install("1.0.0")
    with pytest.raises(MeetingctlError):
        apply(camera, camera.package("1.1.0", broken=STREAM), Options(reset_settings=True, health_s=0.4))
    assert camera.path(layout.CONFIG_ENV).exists()
    outcome = apply(camera, camera.package("1.2.0"), Options(reset_settings=True, health_s=0.4))
    assert outcome["rebooting"]
    assert read_status(camera.system)["state"] == "rebooting"
    assert not camera.path(layout.CONFIG_ENV).exists()
    (backup,) = (path for path in camera.path("/etc").iterdir() if ".backup_update_" in path.name)
    assert (backup / "config.env").read_text() == "RTSP_PORT=1\n"
    assert any("systemctl reboot" in line for line in (camera.state / "calls").read_text().splitlines())


def test_without_restart_nothing_is_watched(camera: Camera) -> None:
    camera.install("1.0.0")
    package = camera.package("1.1.0", broken=STREAM, requires_reboot=True)
    outcome = apply(camera, package, Options(restart=False, reboot=False, health_s=0.4))
    assert (outcome["restarted"], outcome["reboot_needed"], outcome["rebooting"]) == ([], True, False)
    assert camera.calls("restart") == []


class TestPackagesOfTheDistribution:
    NAMES = ("ffmpeg", "rpicam-apps")
    UNKNOWN = "not installed: ffmpeg, rpicam-apps, and apt cannot say whether it has them: its lists were never fetched"

    def test_lists_that_were_never_fetched_are_fetched_before_apt_is_believed(self, camera: Camera) -> None:
        camera.has_dpkg("ffmpeg\n")
        package = camera.package("1.0.0", required_packages=self.NAMES)
        judged = judge_package(camera.system, package)
        assert (judged.warnings, judged.apt.missing) == ((self.UNKNOWN,), self.NAMES)
        assert not (camera.state / "calls").exists()  # a look changes nothing
        outcome = apply(camera, package, Options(health_s=0.4, reboot=False))
        assert outcome["warnings"] == ["apt has no package rpicam-apps"]
        assert outcome["reboot_needed"]
        calls = [line for line in (camera.state / "calls").read_text().splitlines() if line.startswith("apt-get")]
        assert calls == ["apt-get update", "apt-get install ffmpeg"]
        log = camera.path(layout.UPDATE_LOG).read_text()
        assert "warning: apt has no package rpicam-apps" in log
        assert "apt has no package ffmpeg" not in log
        assert judge_package(camera.system, package).warnings == ("apt has no package rpicam-apps",)

    def test_without_internet_the_update_goes_on_and_says_so(self, camera: Camera) -> None:
        camera.has_dpkg(None)
        outcome = apply(camera, camera.package("1.0.0", required_packages=self.NAMES))
        assert (outcome["state"], outcome["warnings"], outcome["reboot_needed"]) == ("success", [self.UNKNOWN], False)
        log = camera.path(layout.UPDATE_LOG).read_text()
        assert "warning: apt-get update: E: no internet, so the lists of packages may be old" in log
        assert "warning: apt-get install: E: Unable to locate package ffmpeg" in log
        assert "apt has no package" not in log

    def test_of_a_folder_only_dpkg_is_asked(self, camera: Camera) -> None:
        camera.has_dpkg("ffmpeg\n")
        (camera.state / "installed").write_text("ffmpeg\n")
        camera.path(layout.SYSTEMD_BOOTED_DIR).rmdir()
        judged = judge_package(camera.system, camera.package("1.0.0", required_packages=self.NAMES))
        assert judged.warnings == ("not installed: rpicam-apps",)


def test_one_job_at_a_time(camera: Camera) -> None:
    camera.path(layout.WEB_RELEASES_DIR).mkdir(parents=True)
    with camera.system.locked(layout.WEB_RELEASES_DIR), pytest.raises(Busy, match="another update"):
        apply(camera, camera.packages / "none.tar.gz")


class TestRefusals:
    def test_another_python_or_no_program(self, camera: Camera) -> None:
        package = camera.package("1.0.0", python="2.7")
        with pytest.raises(InvalidInput, match=r"built for Python 2\.7"):
            apply(camera, package)
        assert list(camera.path(layout.WEB_RELEASES_DIR).iterdir()) == []
        assert not os.path.lexists(camera.path(layout.WEB_DIR))

    def test_a_link_to_another_place(self, camera: Camera) -> None:
        (camera.root / "srv/1.0.0").mkdir(parents=True)
        camera.install("1.0.0")
        camera.path(layout.WEB_DIR).unlink()
        camera.path(layout.WEB_DIR).symlink_to("../srv/1.0.0")
        assert releases.current_name(camera.system) == ""
        with pytest.raises(InvalidInput, match=r"is a link to \.\./srv/1\.0\.0, which is no release"):
            apply(camera, camera.package("1.1.0"))

    def test_nothing_to_go_back_to(self, camera: Camera) -> None:
        with pytest.raises(NotFound, match="no former version"):
            roll_back(camera.system, lambda _: None)

    def test_only_what_the_configured_key_signed(self, camera: Camera, require_program: Callable[..., str]) -> None:
        require_program("openssl")
        key, public = camera.packages / "key.pem", camera.path(layout.UPDATE_KEY)
        for words in (["genpkey", "-algorithm", "ed25519", "-out", str(key)], ["pkey", "-in", str(key), "-pubout"]):
            public.write_text(camera.system.run("openssl", *words, timeout_s=20).out)
        path = camera.package("1.0.0")
        payload, recipe = camera.packages / "1.0.0/payload", Recipe(Platform("3.13", "amd64"), "1.0.0")
        assert "not signed" in judge_package(camera.system, path).findings.errors[0]
        pack(payload, recipe, path, read_signing_key(key))
        assert judge_package(camera.system, path).findings.errors == ()
        pack(payload, recipe, path, lambda _: bytes(64))
        assert "not by the key" in judge_package(camera.system, path).findings.errors[0]

    def test_a_wheel_that_cannot_be_installed(self, camera: Camera) -> None:
        package = camera.package("1.0.0")
        payload = camera.packages / "1.0.0/payload"
        web = payload / "opt/rpi-cam-webmanager"
        (web / "wheels/meetingctl-1-py3-none-any.whl").write_bytes(b"no wheel")
        (web / "requirements.txt").write_text(
            f"meetingctl==1 --hash=sha256:{hashlib.sha256(b'no wheel').hexdigest()}\n"
        )
        pack(payload, Recipe(Platform("3.13", "amd64"), "1.0.0"), package)
        with pytest.raises(MeetingctlError, match="install failed"):
            apply(camera, package)
        assert list(camera.path(layout.WEB_RELEASES_DIR).iterdir()) == []
