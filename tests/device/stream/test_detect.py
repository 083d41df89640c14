from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream import detect
from meetingctl.device.stream.facts import CsiCamera, Mode, SoundCard

DATA = Path(__file__).parent / "data"


def text(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def test_device_list_keeps_names_and_nodes() -> None:
    devices = detect.parse_device_list(text("v4l2_list_devices"))
    assert [name for name, _ in devices] == [
        "bcm2835-codec-decode (platform:bcm2835-codec)",
        "bcm2835-isp (platform:bcm2835-isp)",
        "HD Pro Webcam C920 (usb-3f980000.usb-1.1.2)",
    ]
    assert devices[2][1] == ["/dev/video0", "/dev/video1"]


def test_nodes_are_tried_from_the_wanted_one_to_those_of_usb_to_the_rest() -> None:
    devices = detect.parse_device_list(text("v4l2_list_devices"))
    order = detect.order_nodes("/dev/video1", devices)
    assert order[:3] == ["/dev/video1", "/dev/video0", "/dev/video10"]
    assert len(order) == len(set(order)) == 9


def test_a_webcam_is_a_camera_and_its_metadata_node_is_not() -> None:
    assert detect.is_usb_capture(detect.parse_driver_info(text("v4l2_c920")))
    assert not detect.is_usb_capture(detect.parse_driver_info(text("v4l2_c920_metadata")))
    assert not detect.is_usb_capture(detect.parse_driver_info(text("v4l2_codec_encode")))


def test_only_a_codec_that_puts_out_h264_encodes() -> None:
    for name, encodes in (("v4l2_codec_encode", True), ("v4l2_codec_decode", False), ("v4l2_c920", False)):
        assert detect.is_h264_encoder(detect.parse_driver_info(text(name)), text(name)) is encodes, name


def test_modes_of_a_webcam() -> None:
    modes = detect.parse_modes(text("v4l2_c920"))
    assert len(modes) == 10
    assert modes[2] == Mode("YUYV", 640, 480, Fraction(15, 2))
    assert modes[-1] == Mode("MJPG", 1280, 720, Fraction(30000, 1001))
    assert {mode.format for mode in modes} == {"YUYV", "H264", "MJPG"}


def test_modes_of_a_camera_with_ranges() -> None:
    listed = (
        "\t[0]: 'YUYV' (YUYV 4:2:2)\n"
        "\t\tSize: Stepwise 32x32 - 2592x1944 with step 2/2\n"
        "\t\t\tInterval: Continuous 0.017s - 1.000s (1.000-60.000 fps)\n"
    )
    assert detect.parse_modes(listed) == (
        Mode("YUYV", 2592, 1944, Fraction(1)),
        Mode("YUYV", 2592, 1944, Fraction(60)),
    )


@pytest.mark.parametrize(
    ("printed", "rate"),
    [("30.000", 30), ("29.970", Fraction(30000, 1001)), ("7.500", Fraction(15, 2)), ("59.940", Fraction(60000, 1001))],
)
def test_rates_are_the_fractions_that_drivers_mean(printed: str, rate: Fraction) -> None:
    assert detect.parse_rate(printed) == rate


def test_csi_cameras_with_their_sizes() -> None:
    first, second = detect.parse_csi_cameras(text("rpicam_ov5647"))
    sizes = ((640, 480), (1296, 972), (1920, 1080), (2592, 1944))
    assert first == CsiCamera(0, "ov5647", "/base/soc/i2c0mux/i2c@1/ov5647@36", sizes)
    assert (second.index, second.model, second.sizes_px) == (1, "imx708", ((1536, 864),))
    assert detect.parse_csi_cameras(text("rpicam_none")) == ()


def test_sound_cards() -> None:
    cards = detect.parse_sound_cards(text("arecord"))
    assert [card.alsa_device for card in cards] == ["plughw:0,0", "plughw:2,0", "plughw:3,0"]
    assert cards[1] == SoundCard(2, 0, "C920", "HD Pro Webcam C920", "USB Audio")
    assert [card.is_usb for card in cards] == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, ("plughw:2,0", "plughw:3,0")),
        ({"audio_enable": "yes"}, ("plughw:2,0", "plughw:3,0", "plughw:0,0")),
        ({"audio_device": "plughw:7,0"}, ("plughw:7,0",)),
        ({"audio_device_name": "pnp"}, ("plughw:3,0",)),
        ({"audio_device_name": "hifiberry"}, ("plughw:0,0",)),
        ({"audio_device_name": "not there"}, ("plughw:2,0", "plughw:3,0")),
    ],
)
def test_the_order_of_sound_cards(changes: dict[str, str], devices: tuple[str, ...]) -> None:
    cards = detect.parse_sound_cards(text("arecord"))
    assert detect.sound_devices_to_try(DeviceConfig(**changes), cards) == devices


@given(st.text(alphabet="card 0123456789:[], devicx\n\t()'Size:x-[]fps.ModesH264", max_size=300))
def test_no_output_of_a_tool_breaks_a_parser(printed: str) -> None:
    detect.parse_device_list(printed)
    detect.parse_driver_info(printed)
    detect.parse_modes(printed)
    detect.parse_csi_cameras(printed)
    detect.parse_sound_cards(printed)
