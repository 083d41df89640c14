from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.facts import CsiCamera, Facts, Mode, Origin, UsbCamera
from meetingctl.device.stream.source import choose_mode, choose_sound, choose_source, is_csi

VGA15 = Mode("", 640, 480, Fraction(15))
WEBCAM = UsbCamera(
    "/dev/video0",
    "webcam",
    (
        *(Mode(format, 640, 480, Fraction(15)) for format in ("YUYV", "H264", "MJPG")),
        Mode("MJPG", 1280, 720, Fraction(30)),
    ),
)
PICAM = CsiCamera(0, "ov5647", "/base/ov5647")


@pytest.mark.parametrize(
    ("changes", "usb", "csi", "is_csi_wanted"),
    [
        ({}, WEBCAM, PICAM, False),
        ({}, None, PICAM, True),
        ({}, None, None, False),
        ({"camera_type": "csi"}, WEBCAM, None, True),
        ({"camera_type": "usb", "csi_enable": "yes"}, None, PICAM, False),
        ({"csi_enable": "yes"}, WEBCAM, PICAM, True),
        ({"usb_enable": "no"}, WEBCAM, PICAM, True),
        ({"csi_enable": "no"}, None, PICAM, False),
        ({"stream_source_mode": "screen", "camera_type": "csi"}, None, PICAM, False),
    ],
)
def test_the_kind_of_camera(changes: dict[str, Any], usb: Any, csi: Any, is_csi_wanted: bool) -> None:
    assert is_csi(DeviceConfig(**changes), Facts(usb=usb, csi=csi)) is is_csi_wanted


@pytest.mark.parametrize(
    ("format", "needs_raw", "chosen"),
    [("auto", False, "H264"), ("auto", True, "MJPG"), ("YUYV", False, "YUYV"), ("H264", True, "H264")],
)
def test_the_format_of_a_camera(format: str, needs_raw: bool, chosen: str) -> None:
    mode, _ = choose_mode(WEBCAM.modes, VGA15, format, needs_raw=needs_raw)
    assert (mode.format, mode.width_px, mode.fps) == (chosen, 640, 15)


def test_a_size_that_only_one_format_has_decides() -> None:
    mode, notes = choose_mode(WEBCAM.modes, Mode("", 1280, 720, Fraction(30)), "auto", needs_raw=False)
    assert (mode.format, notes) == ("MJPG", ())


def test_a_size_that_no_format_has_becomes_the_nearest_and_is_told() -> None:
    mode, notes = choose_mode(WEBCAM.modes, Mode("", 1200, 700, Fraction(25)), "auto", needs_raw=False)
    assert (mode.format, mode.width_px, mode.fps) == ("MJPG", 1280, 30)
    assert notes == ("the camera has no 1200x700 at 25 fps, using 1280x720 at 30 fps",)


def test_a_format_that_the_camera_lacks_is_replaced_and_told() -> None:
    modes = (Mode("YUYV", 640, 480, Fraction(15)),)
    mode, notes = choose_mode(modes, VGA15, "MJPG", needs_raw=False)
    assert (mode.format, notes) == ("YUYV", ("the camera does not offer MJPG, using YUYV",))


def test_without_a_camera_the_configured_device_is_tried() -> None:
    source = choose_source(DeviceConfig(videoin_device="/dev/video2"), Facts())
    assert (source.kind, source.device, source.mode.format, source.opens_once) == ("usb", "/dev/video2", "raw", True)


def test_a_csi_camera_without_picamera2_goes_through_libcamera() -> None:
    facts = Facts(csi=PICAM)
    assert choose_source(DeviceConfig(), facts).kind == "libcamera"
    assert choose_source(DeviceConfig(), Facts(csi=PICAM, has_picamera2=True)).kind == "csi"


@pytest.mark.parametrize(
    ("changes", "facts", "sound"),
    [
        ({"stream_source_mode": "test"}, Facts(), "test"),
        ({"stream_source_mode": "test", "audio_enable": "no"}, Facts(), "none"),
        ({"stream_source_mode": "test", "audio_device": "plughw:1,0"}, Facts(), "none"),
        ({}, Facts(usb=WEBCAM), "none"),
        ({}, Facts(usb=WEBCAM, sound_device="plughw:1,0"), "alsa"),
        ({}, Facts(usb=WEBCAM, sound_device="pulse"), "pulse"),
        ({"audio_enable": "no"}, Facts(usb=WEBCAM, sound_device="plughw:1,0"), "none"),
        ({"stream_source_mode": "mjpeg"}, Facts(sound_device="plughw:1,0"), "none"),
        ({"stream_source_mode": "mjpeg", "audio_enable": "yes"}, Facts(sound_device="plughw:1,0"), "alsa"),
        ({"stream_source_mode": "rtsp"}, Facts(sound_device="plughw:1,0"), "none"),
        ({"stream_source_mode": "rtsp"}, Facts(origin=Origin(True, True)), "origin"),
        ({"stream_source_mode": "rtsp"}, Facts(origin=Origin(True, False)), "none"),
        ({"stream_source_mode": "rtsp", "rtsp_proxy_audio": "no"}, Facts(origin=Origin(True, True)), "none"),
        ({"stream_source_mode": "rtsp", "rtsp_proxy_audio": "yes"}, Facts(), "origin"),
    ],
)
def test_where_sound_comes_from(changes: dict[str, Any], facts: Facts, sound: str) -> None:
    config = DeviceConfig(**changes)
    assert choose_sound(config, facts, choose_source(config, facts))[0] == sound


def test_missing_sound_is_told_only_when_it_was_asked_for() -> None:
    for wanted, told in (("auto", 0), ("yes", 1)):
        config = DeviceConfig(audio_enable=wanted)
        assert len(choose_sound(config, Facts(), choose_source(config, Facts()))[1]) == told
