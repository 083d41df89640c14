"""Configurations and machines of the pipeline tests: name -> (configuration, facts)."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.facts import CsiCamera, Facts, Mode, Origin, UsbCamera

ELEMENTS = frozenset({"voaacenc", "avenc_aac", "avdec_h264", "openh264dec"})
SOFTWARE = Facts(encoders=("x264enc", "openh264enc"), elements=ELEMENTS)
MICROPHONE = "plughw:1,0"


def webcam(*formats: str, sound: str = "", encoders: tuple[str, ...] = ("x264enc",)) -> Facts:
    modes = tuple(Mode(format, 640, 480, Fraction(15)) for format in formats)
    camera = UsbCamera("/dev/video0", "webcam", modes)
    return Facts(usb=camera, sound_device=sound, encoders=encoders, elements=ELEMENTS)


def csi(*, has_picamera2: bool = True, sound: str = "") -> Facts:
    return Facts(
        csi=CsiCamera(0, "ov5647", "/base/ov5647@36"),
        has_picamera2=has_picamera2,
        sound_device=sound,
        encoders=("x264enc",),
        elements=ELEMENTS,
    )


def _case(facts: Facts, **changes: Any) -> tuple[DeviceConfig, Facts]:
    return DeviceConfig(**changes), facts


_OVERLAY = {
    "video_overlay_enable": True,
    "video_overlay_text": 'a ! b " {VIDEO_FPS}',
    "video_overlay_show_datetime": True,
}

CASES = {
    "test": _case(SOFTWARE, stream_source_mode="test"),
    "test-silent": _case(SOFTWARE, stream_source_mode="test", audio_enable="no"),
    "test-scaled-overlay": _case(
        SOFTWARE, stream_source_mode="test", videoout_width=320, videoout_height=240, videoout_fps=10, **_OVERLAY
    ),
    "test-openh264": _case(Facts(encoders=("openh264enc",), elements=ELEMENTS), stream_source_mode="test"),
    "test-main-vbr": _case(SOFTWARE, stream_source_mode="test", h264_profile="main", h264_bitrate_mode="vbr"),
    "test-qp": _case(SOFTWARE, stream_source_mode="test", h264_qp=28, h264_keyint=60),
    "test-stereo-avenc": _case(
        Facts(encoders=("x264enc",), elements=frozenset({"avenc_aac"})),
        stream_source_mode="test",
        audio_channels=2,
        audio_rate=44100,
        audio_bitrate_kbps=128,
        audio_gain=1.5,
    ),
    "usb-h264": _case(webcam("H264", "MJPG")),
    "usb-mjpg": _case(webcam("MJPG", "YUYV"), h264_profile="high"),
    "usb-yuyv-microphone": _case(webcam("YUYV", sound=MICROPHONE)),
    "usb-h264-overlay-needs-mjpg": _case(webcam("H264", "MJPG"), **_OVERLAY),
    "usb-unknown": _case(SOFTWARE),
    "usb-hardware": _case(webcam("MJPG", encoders=("v4l2h264enc", "x264enc"))),
    "usb-hardware-qp": _case(webcam("MJPG", encoders=("v4l2h264enc",)), h264_qp=30, h264_bitrate_mode="vbr"),
    "usb-pulse": _case(webcam("H264", sound="pulse")),
    "csi": _case(csi(), videoin_width=1296, videoin_height=972, videoin_fps=20),
    "csi-microphone": _case(csi(sound=MICROPHONE)),
    "csi-overlay": _case(csi(), **_OVERLAY),
    "csi-scaled": _case(csi(), videoout_width=320, videoout_height=240),
    "csi-overlay-libcamera": _case(csi(), csi_overlay_mode="libcamera", **_OVERLAY),
    "csi-overlay-rpicam": _case(replace(csi(), has_rpicam_vid=True), csi_overlay_mode="libcamera", **_OVERLAY),
    "csi-libcamera": _case(replace(csi(has_picamera2=False), tuning={"brightness": 0.1})),
    "rtsp": _case(SOFTWARE, stream_source_mode="rtsp", stream_source_url="rtsp://u:secret@10.0.0.9/a"),
    "rtsp-sound-udp": _case(
        Facts(origin=Origin(True, True)),
        stream_source_mode="rtsp",
        stream_source_url="rtsp://10.0.0.9/a",
        rtsp_proxy_transport="udp",
        rtsp_proxy_latency_ms=0,
    ),
    "mjpeg": _case(SOFTWARE, stream_source_mode="mjpeg", stream_source_url="http://10.0.0.9/video"),
    "screen": _case(
        SOFTWARE, stream_source_mode="screen", screen_display=":7.0", videoin_width=800, videoin_height=600
    ),
}
