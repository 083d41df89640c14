"""Facts of a machine from recorded outputs of its tools."""

from __future__ import annotations

import json
from pathlib import Path

from meetingctl.device.config import DeviceConfig
from meetingctl.device.rtsp import Media
from meetingctl.device.stream import probe
from meetingctl.device.stream.facts import Facts, Origin
from meetingctl.device.system import System

from .support import fake_tools

DATA = Path(__file__).parent / "data"
BOTH = frozenset({"x264enc", "openh264enc"})

_V4L2 = f"""
case "$*" in
  --list-devices) cat {DATA}/v4l2_list_devices.txt ;;
  "-d /dev/video0 "*) cat {DATA}/v4l2_c920.txt ;;
  "-d /dev/video1 "*) cat {DATA}/v4l2_c920_metadata.txt ;;
  "-d /dev/video11 "*) cat {DATA}/v4l2_codec_encode.txt ;;
  "-d /dev/video1"*) cat {DATA}/v4l2_codec_decode.txt ;;
  *) exit 1 ;;
esac"""


def machine(root: Path, **scripts: str) -> System:
    """Return a machine that has these tools; others of ours are absent or fail."""
    named = {name.replace("_", "-").replace("launch-1-0", "launch-1.0"): body for name, body in scripts.items()}
    return System(root, env={"PATH": fake_tools(root / "bin", named)})


def test_a_webcam_is_found_also_when_another_node_is_configured(tmp_path: Path) -> None:
    system = machine(tmp_path, v4l2_ctl=_V4L2)
    for wanted in ("/dev/video0", "/dev/video1", "/dev/video7"):
        camera = probe.find_usb_camera(system, wanted)
        assert camera is not None
        assert (camera.device, camera.name, len(camera.modes)) == ("/dev/video0", "HD Pro Webcam C920", 10)


def test_a_csi_camera_counts_only_without_a_usb_camera(tmp_path: Path) -> None:
    rpicam = f"cat {DATA}/rpicam_ov5647.txt"
    both = machine(tmp_path / "a", v4l2_ctl=_V4L2, rpicam_hello=rpicam)
    found = probe.read_cameras(both, DeviceConfig(), Facts())
    assert found.usb is not None
    assert found.csi is None
    alone = machine(tmp_path / "b", v4l2_ctl="exit 1", rpicam_hello=rpicam)
    alone.write("/etc/rpi-cam/csi_tuning.json", '{"Brightness": 0.1, "ColourGains": [1, 2]}')
    found = probe.read_cameras(alone, DeviceConfig(), Facts())
    assert found.usb is None
    assert found.csi is not None
    assert (found.csi.model, found.tuning) == ("ov5647", {"brightness": 0.1})


def test_the_first_sound_card_that_opens(tmp_path: Path) -> None:
    arecord = f'case "$*" in -l) cat {DATA}/arecord.txt ;; *plughw:3,0*) exit 0 ;; *) exit 1 ;; esac'
    system = machine(tmp_path, arecord=arecord)
    assert probe.find_sound(system, DeviceConfig()) == "plughw:3,0"
    assert probe.find_sound(system, DeviceConfig(audio_device="plughw:2,0")) == ""
    assert probe.find_sound(system, DeviceConfig(audio_enable="no")) == ""


def test_encoders_are_tried_once_until_the_next_boot(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    launch = f'echo try >>{tries}; case "$*" in *x264enc*) exit 1 ;; *) echo data ;; esac'
    system = machine(tmp_path, gst_launch_1_0=launch)
    system.write("/proc/sys/kernel/random/boot_id", "one\n")
    for _ in range(2):
        assert probe.find_encoders(system, BOTH, str(tmp_path)) == ("openh264enc",)
    assert len(tries.read_text().splitlines()) == 2
    system.write("/proc/sys/kernel/random/boot_id", "two\n")
    assert probe.find_encoders(system, BOTH, str(tmp_path)) == ("openh264enc",)
    assert len(tries.read_text().splitlines()) == 4


def test_an_encoder_that_puts_out_nothing_does_not_work(tmp_path: Path) -> None:
    system = machine(tmp_path, gst_launch_1_0="exit 0")
    assert probe.find_encoders(system, BOTH, str(tmp_path)) == ()


def test_the_hardware_encoder_needs_a_driver_that_encodes(tmp_path: Path) -> None:
    elements = frozenset({"v4l2h264enc", "x264enc"})
    with_driver = machine(tmp_path / "a", v4l2_ctl=_V4L2, gst_launch_1_0="echo data")
    assert probe.find_encoders(with_driver, elements, "/tmp") == ("v4l2h264enc", "x264enc")
    without = machine(tmp_path / "b", v4l2_ctl="exit 1", gst_launch_1_0="echo data")
    assert probe.find_encoders(without, elements, "/tmp") == ("x264enc",)


def test_spoilt_trial_results_are_ignored(tmp_path: Path) -> None:
    system = machine(tmp_path, gst_launch_1_0="echo data")
    for text in ("{", "[]", json.dumps({"boot_id": "", "works": {"x264enc": "yes"}})):
        system.write("/run/rpi-cam/encoder-trial.json", text)
        assert probe.find_encoders(system, BOTH, "/tmp") == ("x264enc", "openh264enc")


def test_what_of_an_origin_can_be_passed_on() -> None:
    video, sound = Media("video", 96, "H264", 90000), Media("audio", 97, "MPEG4-GENERIC", 48000)
    assert probe.origin_of([video, sound]) == Origin(True, True)
    assert probe.origin_of([Media("video", 96, "H265", 90000), Media("audio", 0, "PCMU", 8000)]) == Origin(False, False)


def test_what_may_still_appear() -> None:
    rtsp = DeviceConfig(stream_source_mode="rtsp")
    assert probe.is_incomplete(DeviceConfig(), Facts())
    assert probe.is_incomplete(rtsp, Facts())
    assert not probe.is_incomplete(rtsp, Facts(origin=Origin(True, False)))
    assert not probe.is_incomplete(DeviceConfig(stream_source_mode="test"), Facts())
    assert not probe.is_incomplete(DeviceConfig(stream_source_mode="screen", audio_enable="no"), Facts())
