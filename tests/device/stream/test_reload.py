from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meetingctl.core.secret import Secret
from meetingctl.device.config import DeviceConfig, all_keys
from meetingctl.device.stream.facts import Facts
from meetingctl.device.stream.pipeline import build_stream
from meetingctl.device.stream.reload import ReloadPlan, plan_reload, should_step_down

from .cases import SOFTWARE, webcam

TEST = DeviceConfig(
    stream_source_mode="test", video_overlay_enable=True, video_overlay_show_datetime=True, video_overlay_text="a"
)


def plan(old: DeviceConfig, facts: Facts = SOFTWARE, **changes: Any) -> ReloadPlan:
    new = replace(old, **changes)
    return plan_reload(old, new, build_stream(old, facts), build_stream(new, facts))


@pytest.mark.parametrize(
    ("changes", "actions"),
    [
        ({}, ()),
        ({"h264_bitrate_kbps": 800}, ("live",)),
        ({"video_overlay_text": "b"}, ("live",)),
        ({"video_overlay_position": "bottom-left"}, ("live",)),
        ({"video_overlay_clock_position": "top-left"}, ("live",)),
        ({"video_overlay_datetime_format": "%H"}, ("live",)),
        ({"video_overlay_font_size": 30}, ("live",)),
        ({"audio_gain": 2.0}, ("live",)),
        ({"rtsp_password": Secret("new")}, ("login",)),
        ({"rtsp_auth_method": "basic"}, ("login",)),
        ({"rtsp_realm": "Shop"}, ("login",)),
        ({"rtsp_protocols": ("tcp",)}, ("transports",)),
        ({"rtsp_protocols": ("tcp", "udp")}, ()),
        ({"rtsp_protocols": ("tcp", "udp-mcast")}, ("transports", "swap")),
        ({"rtsp_port": 8555}, ("rebind",)),
        ({"rtsp_path": "other"}, ("swap",)),
        ({"videoin_width": 320}, ("swap",)),
        ({"videoout_fps": 5}, ("swap",)),
        ({"h264_keyint": 50}, ("swap",)),
        ({"h264_profile": "main"}, ("swap",)),
        ({"audio_enable": "no"}, ("swap",)),
        ({"audio_rate": 44100}, ("swap",)),
        ({"video_overlay_show_datetime": False}, ("swap",)),
        ({"rtsp_multicast_base": "239.1.1.1"}, ("swap",)),
        ({"record_enable": True, "segment_seconds": 60}, ()),
        ({"rtsp_proxy_latency_ms": 7}, ()),
    ],
)
def test_each_class_of_key(changes: dict[str, Any], actions: tuple[str, ...]) -> None:
    assert plan(TEST, **changes).actions == actions


def test_a_live_key_of_the_table_never_swaps_media() -> None:
    others = {
        "rtsp_protocols": ("tcp",), "rtsp_user": "u", "rtsp_password": Secret("p"), "rtsp_auth_method": "basic",
        "rtsp_realm": "r", "h264_bitrate_kbps": 700, "video_overlay_text": "b", "video_overlay_position": "top-right",
        "video_overlay_clock_position": "top-right", "video_overlay_datetime_format": "%d",
        "video_overlay_font_size": 9, "audio_gain": 0.5, "substream_bitrate_kbps": 99,
    }  # fmt: skip
    live = {key.field for key in all_keys().values() if key.reload == "live" and "S" in key.readers}
    assert live == set(others)
    for field, value in others.items():
        assert not plan(TEST, **{field: value}).main.swap, field


def test_the_bitrate_of_a_hardware_encoder_cannot_change_while_it_runs() -> None:
    facts = webcam("MJPG", encoders=("v4l2h264enc",))
    assert plan(DeviceConfig(), facts, h264_bitrate_kbps=800).actions == ("swap",)


def test_a_passthrough_stream_has_no_bitrate_of_ours() -> None:
    assert plan(DeviceConfig(), webcam("H264"), h264_bitrate_kbps=800).actions == ()


def test_viewers_are_dropped_only_for_a_source_that_opens_once() -> None:
    assert plan(DeviceConfig(), webcam("MJPG"), h264_keyint=50).drop_clients
    assert not plan(TEST, h264_keyint=50).drop_clients


def test_another_origin_is_new_media() -> None:
    old = DeviceConfig(stream_source_mode="mjpeg", stream_source_url="http://a/")
    assert plan(old, stream_source_url="http://b/").actions == ("swap",)


@pytest.mark.parametrize(
    ("encoder", "failures", "steps"),
    [
        ("x264enc", [("encoder", 0.1)], False),
        ("x264enc", [("encoder", 0.1), ("encoder", 0.2)], True),
        ("x264enc", [("camera", 0.1), ("camera", 0.2)], False),
        ("x264enc", [("encoder", 0.1), ("encoder", 60.0)], False),
        ("v4l2h264enc", [("camera", 0.1), ("encoder", 4.0)], True),
        ("", [("encoder", 0.1), ("encoder", 0.1)], False),
    ],
)
def test_when_the_next_encoder_takes_over(encoder: str, failures: list[tuple[str, float]], steps: bool) -> None:
    is_hardware = encoder == "v4l2h264enc"
    assert should_step_down(encoder, is_hardware=is_hardware, failures=failures) is steps
