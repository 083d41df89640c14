"""dpkg and apt: their answers as they are written, the words of our calls, and a real dpkg-query on a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meetingctl.core.errors import MeetingctlError
from meetingctl.device import apt
from meetingctl.device.apt import AptState
from meetingctl.device.system import System

STATUS = """\
Package: ffmpeg
Status: install ok installed
Version: 7:5.1.6
Architecture: arm64
Maintainer: nobody <n@example.org>
Description: videos

Package: rpicam-apps
Status: hold ok installed
Version: 1.5
Architecture: arm64
Maintainer: nobody <n@example.org>
Provides: libcamera-apps (= 1.5), camera-tool
Description: cameras

Package: hostapd
Status: deinstall ok config-files
Version: 2.10
Architecture: arm64
Maintainer: nobody <n@example.org>
Provides: access-point
Description: only its configuration is left

"""
POLICY = """\
ffmpeg:
  Installed: 7:5.1.6
  Candidate: 7:5.1.7
  Version table:
 *** 7:5.1.6 100
        100 /var/lib/dpkg/status
gstreamer1.0-audiosink:
  Installed: (none)
  Candidate: (none)
  Version table:
v4l-utils:arm64:
  Installed: (none)
  Candidate: 1.22.1
N: Unable to locate package rpicam-apps
"""
# $state/installed has what dpkg-query says, $state/failure what apt-get complains about; apt has ffmpeg and python3-gi.
_FAKE = """\
#!/bin/sh
state={state}
case ${{0##*/}} in
dpkg-query) cat "$state/installed" ;;
dpkg) echo "$DEBIAN_FRONTEND dpkg $*" >>"$state/calls"; cat "$state/audit" ;;
apt-get)
  echo "$DEBIAN_FRONTEND $*" >>"$state/calls"
  [ ! -e "$state/failure" ] || {{ cat "$state/failure" >&2; exit 100; }} ;;
apt-cache)
  shift 2
  for name in "$@"; do
    case $name in ffmpeg | python3-gi) printf '%s:\\n  Candidate: 1\\n' "$name" ;; esac
  done ;;
esac
"""


class Device:
    """A folder with a dpkg, and programs that answer for it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.state, programs = folder / "root", folder / "state", folder / "bin"
        for path in (self.root / "run/systemd/system", self.root / "var/lib/dpkg", self.state, programs):
            path.mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        (self.state / "installed").touch()
        (self.state / "audit").touch()
        for name in ("dpkg-query", "dpkg", "apt-get", "apt-cache"):
            (programs / name).write_text(_FAKE.format(state=self.state))
            (programs / name).chmod(0o755)
        self.system = System(self.root, env={"PATH": f"{programs}:{os.environ['PATH']}"})

    def fetch(self) -> None:
        (self.root / "var/lib/apt/lists").mkdir(parents=True)
        (self.root / "var/lib/apt/lists/example_main_binary-arm64_Packages.lz4").touch()

    def calls(self) -> list[str]:
        return (self.state / "calls").read_text().splitlines()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_what_is_on_hold_or_provided_is_installed_and_a_rest_is_not() -> None:
    text = "ffmpeg\tii \n\nrpicam-apps\thi \nlibcamera-apps (= 1.5), camera-tool\nhostapd\trc \naccess-point\n"
    assert apt.parse_installed(f"{text}half\tiU \n\n") == {"ffmpeg", "rpicam-apps", "libcamera-apps", "camera-tool"}
    assert apt.parse_installed("") == set()


@pytest.mark.real
def test_a_real_dpkg_is_asked_about_another_root(tmp_path: Path, require_program: Callable[..., str]) -> None:
    require_program("dpkg-query", package="dpkg")
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    system = System(tmp_path)
    assert apt.read_installed(system) == {"ffmpeg", "rpicam-apps", "libcamera-apps", "camera-tool"}
    names = ("ffmpeg", "hostapd", "libcamera-apps", "hostapd")
    assert apt.read_state(system, names) == AptState(("hostapd",), lists="unasked")


def test_candidates() -> None:
    assert apt.parse_candidates(POLICY) == {"ffmpeg", "v4l-utils"}


def test_nothing_is_known_without_a_dpkg(device: Device) -> None:
    (device.root / "var/lib/dpkg/status").unlink()
    assert apt.read_state(device.system, ["ffmpeg"]) is None


def test_apt_is_asked_when_it_has_lists_and_is_that_of_the_device(device: Device) -> None:
    (device.state / "installed").write_text("python3-gi\tii \n\n")
    names = ("ffmpeg", "python3-gi", "nothing")
    assert apt.read_state(device.system, names) == AptState(("ffmpeg", "nothing"), lists="absent")
    device.fetch()
    assert apt.read_state(device.system, names) == AptState(("ffmpeg",), ("nothing",))
    (device.root / "run/systemd/system").rmdir()
    assert apt.read_state(device.system, names) == AptState(("ffmpeg", "nothing"), lists="unasked")


def test_an_installation_waits_for_locks_keeps_configuration_and_asks_nobody(device: Device) -> None:
    apt.fetch_lists(device.system)
    apt.install(device.system, ["ffmpeg", "v4l-utils"])
    refresh, installation = device.calls()
    assert refresh == "noninteractive -q -o DPkg::Lock::Timeout=600 update"
    assert installation.startswith("noninteractive -q -o DPkg::Lock::Timeout=600 ")
    assert "-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold" in installation
    assert installation.endswith(" install -- ffmpeg v4l-utils")


def test_a_failure_has_the_last_word_of_apt(device: Device) -> None:
    (device.state / "failure").write_text("W: old\nE: no space left\n\n")
    with pytest.raises(MeetingctlError, match=r"^apt-get update: E: no space left$"):
        apt.fetch_lists(device.system)
    with pytest.raises(MeetingctlError, match=r"^apt-get install: E: no space left$") as caught:
        apt.install(device.system, ["ffmpeg"])
    assert caught.value.hint == "apt-get install --no-install-recommends ffmpeg"
    (device.state / "failure").write_text("")
    with pytest.raises(MeetingctlError, match="ended with code 100"):
        apt.install(device.system, ["ffmpeg"])


def test_an_interrupted_dpkg_is_seen_and_goes_on(device: Device) -> None:
    assert not apt.is_interrupted(device.system)
    (device.state / "audit").write_text("The following packages are only half configured:\n")
    assert apt.is_interrupted(device.system)
    apt.finish_interrupted(device.system)
    assert device.calls()[-1] == "noninteractive dpkg --force-confdef --force-confold --configure -a"
