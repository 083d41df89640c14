from __future__ import annotations

import json
from pathlib import Path

import pytest

from meetingctl.device.config import all_keys

from .runner import Cli

ENV = "etc/rpi-cam/config.env"


@pytest.fixture
def root(cli: Cli) -> Path:
    """Return the device's root, where MEETINGCTL_ROOT points."""
    folder = cli.home / "root"
    folder.mkdir()
    return folder


def test_set_then_get_and_list(cli: Cli, root: Path) -> None:
    assert cli("device", "config", "get", "RTSP_PORT").out == "8554\n"
    done = cli("device", "config", "set", "VIDEO_FPS", "20")
    assert (done.code, done.out) == (0, "")
    assert done.err == "changed VIDEOIN_FPS, VIDEO_FPS in /etc/rpi-cam/config.env\n"
    assert (root / ENV).read_text() == "VIDEOIN_FPS=20\nVIDEO_FPS=20\n"
    assert cli("device", "config", "get", "VIDEOIN_FPS").out == "20\n"
    assert cli("device", "config", "list", "--changed").out == "VIDEOIN_FPS\t20\tVIDEOIN_FPS\n"
    assert len(cli("device", "config", "list", "--json").json) == len(all_keys())


def test_the_option_wins_over_the_variable(cli: Cli, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert cli("device", "config", "set", "RTSP_PORT", "9000", "--root", str(other)).code == 0
    assert (other / ENV).exists()
    assert not (root / ENV).exists()
    missing = cli("device", "config", "list", "--root", str(tmp_path / "none"))
    assert (missing.code, "no such folder" in missing.err) == (2, True)


def test_dry_run_writes_nothing(cli: Cli, root: Path) -> None:
    done = cli("device", "config", "set", "RTSP_PORT", "9000", "--dry-run", "--json")
    assert done.json == {
        "changes": {"RTSP_PORT": "9000"},
        "file": "/etc/rpi-cam/config.env",
        "reload": "rebind",
        "dry_run": True,
    }
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("RTSP_PORT", "70000"), "RTSP_PORT is '70000', allowed is a whole number from 1 to 65535"),
        (("RTSP_PRT", "1"), "did you mean RTSP_PORT?"),
        (("RTSP_PORT",), "no VALUE"),
        (("VIDEO_OVERLAY_TEXT", "a\nRTSP_PORT=1"), "allowed is text"),
    ],
)
def test_refusals(cli: Cli, root: Path, words: tuple[str, ...], said: str) -> None:
    done = cli("device", "config", "set", *words)
    assert (done.code, said in done.err) == (2, True)
    assert not (root / ENV).exists()


def test_passwords_come_by_stdin_and_stay_hidden(cli: Cli, root: Path) -> None:
    assert cli("device", "config", "set", "RTSP_PASSWORD", "hidden").code == 2
    done = cli("device", "config", "set", "RTSP_PASSWORD", "--json", stdin="hid$den\n")
    assert done.json["changes"] == {"RTSP_PASSWORD": "***"}
    assert (root / ENV).read_text() == 'RTSP_PASSWORD="hid\\$den"\n'
    assert cli("device", "config", "get", "RTSP_PASSWORD").out == "***\n"
    assert cli("device", "config", "get", "RTSP_PASSWORD", "--reveal").out == "hid$den\n"
    assert "hid" not in cli("device", "config", "list", "--json").out
    assert cli("device", "config", "set", "RTSP_PASSWORD", "").code == 0
    assert cli("device", "config", "get", "RTSP_PASSWORD", "--reveal").out == "\n"


def test_check(cli: Cli, root: Path, tmp_path: Path) -> None:
    good = cli("device", "config", "check")
    assert (good.code, good.out) == (0, "/etc/rpi-cam/config.env: ok\n")
    (root / ENV).parent.mkdir(parents=True)
    (root / ENV).write_text("RTSP_PORT=70000\nMINE=1\n")
    bad = cli("device", "config", "check")
    assert bad.code == 78
    assert bad.out.splitlines() == [
        "fault\tline 1: RTSP_PORT is '70000', allowed is a whole number from 1 to 65535",
        "note\tline 2: MINE: no such key is known",
    ]
    assert "hint: meetingctl device config set RTSP_PORT VALUE" in bad.err
    in_json = cli("device", "config", "check", "--json")
    assert (in_json.code, in_json.json["ok"], len(in_json.json["problems"])) == (78, False, 2)
    shown = cli("device", "config", "get", "RTSP_PORT")
    assert (shown.out, "the default counts" in shown.err) == ("8554\n", True)


def test_check_of_a_given_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.env"
    file.write_bytes(b"VIDEO_OVERLAY_TEXT=\xff\n")
    done = cli("device", "config", "check", str(file), "--json")
    assert done.code == 78
    assert json.loads(done.out)["problems"][0]["key"] == "VIDEO_OVERLAY_TEXT"
    assert cli("device", "config", "check", str(tmp_path / "none")).code == 1


def test_a_provisioned_device_is_locked(cli: Cli, root: Path) -> None:
    (root / ENV).parent.mkdir(parents=True)
    (root / ENV).write_text("MEETING_PROVISIONED=yes\n")
    done = cli("device", "config", "set", "MEETING_ENABLED", "yes")
    assert (done.code, "is locked: this device is provisioned" in done.err) == (1, True)
