"""GStreamer itself reads every launch line, and its absence is told in one line."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from meetingctl.device.stream.encoders import EncoderSettings, encode_h264
from meetingctl.device.stream.gstreamer import (
    debian_packages_for,
    explain_import_error,
    package_of,
)
from meetingctl.device.stream.pipeline import build_stream, build_substream

from .cases import CASES, SOFTWARE

# Elements that exist only on a Raspberry Pi stand for ones that take the same place here.
_STAND_INS = {"libcamerasrc name=camera": "videotestsrc name=camera"}


def checked(launches: dict[str, str]) -> dict[str, str]:
    """Let GStreamer parse all lines in one other process; returns name -> error, empty for a good one."""
    code = (
        "import json, sys\n"
        "from meetingctl.core.errors import MeetingctlError\n"
        "from meetingctl.device.stream.gstreamer import check_launch, load_gstreamer\n"
        "told = {}\n"
        "for name, launch in json.load(sys.stdin).items():\n"
        "    try:\n"
        "        told[name] = check_launch(load_gstreamer(), launch) or ''\n"
        "    except MeetingctlError as error:\n"
        "        told[name] = f'{error.message} | {error.hint}'\n"
        "print(json.dumps(told))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps(launches), capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    return dict(json.loads(ran.stdout))


@pytest.mark.gst
def test_every_launch_line_parses(gstreamer: None) -> None:
    launches = {name: build_stream(*case).launch for name, case in CASES.items() if "hardware" not in name}
    launches["substream"] = build_substream(CASES["test"][0], SOFTWARE, "rtsp://127.0.0.1/x").launch
    for name in launches:
        for text, stand_in in _STAND_INS.items():
            launches[name] = launches[name].replace(text, stand_in)
    assert checked(launches) == dict.fromkeys(launches, "")


@pytest.mark.gst
def test_every_setting_of_every_software_encoder_parses(gstreamer: None) -> None:
    profiles = ("", "baseline", "constrained baseline", "main", "high")
    modes = ((None, False), (None, True), (30, False))
    launches = {}
    for element, profile, (qp, is_variable) in itertools.product(("x264enc", "openh264enc"), profiles, modes):
        text = encode_h264(element, EncoderSettings(900, 30, profile, is_variable, qp)).launch
        launches[f"{element} {profile} {qp} {is_variable}"] = f"videotestsrc ! {text} ! fakesink"
    assert checked(launches) == dict.fromkeys(launches, "")


@pytest.mark.gst
def test_what_does_not_parse_is_told_with_the_next_step(gstreamer: None) -> None:
    told = checked({"element": "videotestsrc ! x264nothing ! fakesink", "syntax": "videotestsrc ! ! fakesink"})
    assert told["element"].startswith("GStreamer element x264nothing is missing | sudo apt-get install")
    assert "does not parse" in told["syntax"]
    assert package_of("x264enc") == "gstreamer1.0-plugins-ugly"


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (ModuleNotFoundError("No module named 'gi'", name="gi"), "cannot import gi", "--system-site-packages"),
        (ImportError("cannot import name '_gi' from 'gi'"), "another Python", "/usr/bin/python3 -m venv"),
        (ValueError("Namespace GstRtspServer not available"), "GstRtspServer-1.0 is missing", "gir1.2-gst-rtsp-server"),
        (ValueError("Namespace GstVideo not available"), "GstVideo-1.0 is missing", "gir1.2-gst-plugins-base-1.0"),
    ],
)
def test_each_way_to_lack_the_bindings_names_a_package(error: Exception, message: str, hint: str) -> None:
    told = explain_import_error(error)
    assert message in told.message
    assert hint in str(told.hint)
    assert told.exit_code == 1


def test_without_bindings_the_daemon_says_so_in_one_line_and_ends_with_1() -> None:
    code = (
        "import sys; sys.modules['gi'] = None; sys.argv[1:] = ['--root=/nonexistent-root'];"
        "from meetingctl.device.stream.__main__ import main; sys.exit(main())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "media support is not available" in ran.stderr
    assert "apt-get install" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_debian_s_packages_are_used_only_for_the_python_they_are_built_for(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "gi").mkdir()
    (folder / "gi" / "_gi.cpython-311-x86_64-linux-gnu.so").touch()
    assert debian_packages_for((3, 11), folder) == folder
    assert debian_packages_for((3, 12), folder) is None
