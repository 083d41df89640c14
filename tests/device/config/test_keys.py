from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput
from meetingctl.core.secret import Secret
from meetingctl.device.config.keys import IGNORED_KEYS, DeviceConfig, alias_targets, all_keys, find_key

# (key, text in the file, value); a value of ... means refused.
TABLE = [
    ("RTSP_PORT", "1", 1),
    ("RTSP_PORT", "65535", 65535),
    ("RTSP_PORT", "0", ...),
    ("RTSP_PORT", "65536", ...),
    ("RTSP_PORT", "8554x", ...),
    ("RTSP_PORT", "-1", ...),
    ("RTSP_PORT", "٣٣٣", ...),
    ("RTSP_PATH", "live/cam-1", "live/cam-1"),
    ("RTSP_PATH", "/stream", ...),
    ("RTSP_PATH", "a b", ...),
    ("RTSP_PROTOCOLS", "TCP, multicast,tcp", ("tcp", "udp-mcast")),
    ("RTSP_PROTOCOLS", "mcast", ("udp-mcast",)),
    ("RTSP_PROTOCOLS", "http", ...),
    ("RTSP_PROTOCOLS", ",", ...),
    ("RTSP_USER", "ad:min", ...),
    ("RTSP_PASSWORD", "p:@ss w\"'$", Secret("p:@ss w\"'$")),
    ("RTSP_PASSWORD", "********", Secret("")),
    ("RTSP_AUTH_METHOD", "Digest", "digest"),
    ("RTSP_AUTH_METHOD", "none", ...),
    ("RTSP_REALM", 'a"b', ...),
    ("RTSP_MULTICAST_BASE", "239.255.12.1", "239.255.12.1"),
    ("RTSP_MULTICAST_BASE", "10.0.0.1", ...),
    ("RTSP_MULTICAST_BASE", "group", ...),
    ("VIDEOIN_WIDTH", "320", 320),
    ("VIDEOIN_WIDTH", "4097", ...),
    ("VIDEOIN_HEIGHT", "239", ...),
    ("VIDEOIN_FPS", "60", 60),
    ("VIDEOIN_FPS", "61", ...),
    ("VIDEOIN_FPS", "29.97", ...),
    ("VIDEOIN_DEVICE", "video0", ...),
    ("VIDEOIN_DEVICE", "/dev/../etc/shadow", ...),
    ("VIDEOIN_FORMAT", "mjpeg", "MJPG"),
    ("VIDEOIN_FORMAT", "h.264", "H264"),
    ("VIDEOIN_FORMAT", "NV12", ...),
    ("VIDEOOUT_FPS", "0", ...),
    ("STREAM_SOURCE_MODE", "test", "test"),
    ("STREAM_SOURCE_MODE", "vnc", ...),
    ("STREAM_SOURCE_URL", "rtsp://u:p@10.0.0.9:554/live/", "rtsp://u:p@10.0.0.9:554/live/"),
    ("STREAM_SOURCE_URL", "file:///etc/passwd", ...),
    ("STREAM_SOURCE_URL", "rtsp://host:99999/", ...),
    ("STREAM_SOURCE_URL", "rtsp://", ...),
    ("RTSP_PROXY_AUDIO", "true", "yes"),
    ("RTSP_PROXY_LATENCY_MS", "1001", ...),
    ("SCREEN_DISPLAY", ":1", ":1"),
    ("SCREEN_DISPLAY", "one", ...),
    ("CAMERA_TYPE", "CSI", "csi"),
    ("H264_PROFILE", "Constrained Baseline", "constrained baseline"),
    ("H264_QP", "auto", None),
    ("H264_QP", "None", None),
    ("H264_QP", "51", 51),
    ("H264_QP", "52", ...),
    ("STREAM_QUALITY", "custom", "custom"),
    ("STREAM_QUALITY", "6", ...),
    ("VIDEO_OVERLAY_ENABLE", "ON", True),
    ("VIDEO_OVERLAY_ENABLE", "maybe", ...),
    ("VIDEO_OVERLAY_TEXT", "Caméra {VIDEO_FPS} #1", "Caméra {VIDEO_FPS} #1"),
    ("VIDEO_OVERLAY_POSITION", "center", ...),
    ("AUDIO_RATE", "44100", 44100),
    ("AUDIO_RATE", "8000", ...),
    ("AUDIO_GAIN", "2.5", 2.5),
    ("AUDIO_GAIN", "3.01", ...),
    ("AUDIO_GAIN", "nan", ...),
    ("AUDIO_GAIN", "1e1", ...),
    ("AUDIO_DEVICE", "plughw:1,0", "plughw:1,0"),
    ("AUDIO_DEVICE", "hw; rm", ...),
    ("RECORD_ENABLE", "1", True),
    ("RECORD_DIR", "recordings", ...),
    ("SEGMENT_SECONDS", "29", ...),
    ("MAX_DISK_MB", "0", 0),
    ("RTSP_SERVICE", "--force", ...),
    ("RELAY_ACTIVE_HIGH", "no", False),
    ("RELAY_GPIO_PIN", "41", ...),
    ("RELAY_GPIO_CHIP", "../gpio", ...),
    ("MEETING_API_URL", "https://fleet.example.org/api/", "https://fleet.example.org/api"),
    ("MEETING_API_URL", "ftp://fleet", ...),
    ("MEETING_DEVICE_KEY", "register", ...),
    ("MEETING_HEARTBEAT_INTERVAL", "9", ...),
    ("NETWORK_STATIC_IP", "192.168.1.9/24", "192.168.1.9/24"),
    ("NETWORK_STATIC_IP", "192.168.1.9/33", ...),
    ("NETWORK_DNS", "8.8.8.8, 1.1.1.1", ("8.8.8.8", "1.1.1.1")),
    ("NETWORK_INTERFACE_PRIORITY", "eth0,wlan1", ("eth0", "wlan1")),
    ("NETWORK_INTERFACE_PRIORITY", "eth0;x", ...),
    ("WEB_LANGUAGE", "de", ...),
    ("wifi_ssid", "Mon Réseau", "Mon Réseau"),
]


@pytest.mark.parametrize(("name", "text", "value"), TABLE)
def test_reading_a_value(name: str, text: str, value: object) -> None:
    kind = find_key(name).kind
    if value is ...:
        with pytest.raises(ValueError):
            kind.parse(text)
    else:
        assert kind.parse(text) == value


@pytest.mark.parametrize("name", list(all_keys()))
def test_every_default_obeys_its_own_rule(name: str) -> None:
    key = all_keys()[name]
    for default in (key.default, key.csi_default if key.csi_default is not None else key.default):
        text = key.kind.write(default)
        if text:
            assert key.kind.parse(text) == default
            assert key.kind.write(key.kind.parse(text)) == text
    assert key.help
    assert key.kind.allowed
    assert set(key.readers) <= set("SCRWOAUN")
    assert key.reload in {"live", "swap", "rebind", "none"}
    assert key.reload == "none" or "S" in key.readers or "C" in key.readers


@given(st.sampled_from(list(all_keys())), st.text(max_size=20))
def test_a_value_is_refused_or_reads_back_alike(name: str, text: str) -> None:
    kind = all_keys()[name].kind
    try:
        value = kind.parse(text)
    except ValueError:
        return
    assert kind.parse(kind.write(value)) == value
    assert kind.write(value).isprintable()


def test_the_table_of_the_design() -> None:
    assert len(all_keys()) == len(fields(DeviceConfig)) >= 95
    assert alias_targets() == {
        "VIDEO_WIDTH": "VIDEOIN_WIDTH",
        "VIDEO_HEIGHT": "VIDEOIN_HEIGHT",
        "VIDEO_FPS": "VIDEOIN_FPS",
        "VIDEO_DEVICE": "VIDEOIN_DEVICE",
        "CAMERA_DEVICE": "VIDEOIN_DEVICE",
        "VIDEO_FORMAT": "VIDEOIN_FORMAT",
        "OUTPUT_WIDTH": "VIDEOOUT_WIDTH",
        "OUTPUT_HEIGHT": "VIDEOOUT_HEIGHT",
        "OUTPUT_FPS": "VIDEOOUT_FPS",
        "RECORD_PATH": "RECORD_DIR",
    }
    assert not IGNORED_KEYS & all_keys().keys()
    assert {key.name for key in all_keys().values() if key.reload == "rebind"} == {"RTSP_PORT"}


def test_finding_a_key() -> None:
    assert find_key("OUTPUT_FPS").name == "VIDEOOUT_FPS"
    with pytest.raises(InvalidInput, match="RTSP_PROT") as caught:
        find_key("RTSP_PROT")
    assert caught.value.hint == "did you mean RTSP_PORT?"


def test_what_follows_from_several_keys() -> None:
    config = DeviceConfig(videoout_fps=10)
    assert (config.output_width_px, config.output_height_px, config.output_fps) == (640, 480, 10)
    assert not DeviceConfig(rtsp_user="u").is_auth_on
    assert DeviceConfig(rtsp_user="u", rtsp_password=Secret("p")).is_auth_on
    assert "hidden" not in repr(DeviceConfig(rtsp_password=Secret("hidden")))
