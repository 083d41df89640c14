from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import ConfigError
from meetingctl.device.config.envfile import parse_env
from meetingctl.device.config.keys import DeviceConfig, all_keys
from meetingctl.device.config.load import changed_keys, load_config, mask_login, shown_value


def load(text: str):
    return load_config(parse_env(text))


def test_an_empty_file_is_all_defaults() -> None:
    loaded = load("")
    assert loaded.config == DeviceConfig()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.problems == ()


def test_new_names_win_and_empty_means_unset() -> None:
    loaded = load("VIDEO_WIDTH=800\nVIDEOIN_WIDTH=1280\nVIDEO_FPS=30\nVIDEOIN_FPS=\nCAMERA_DEVICE=/dev/video2\n")
    assert (loaded.config.videoin_width, loaded.config.videoin_fps) == (1280, 30)
    assert loaded.config.videoin_device == "/dev/video2"
    assert loaded.origins["VIDEOIN_FPS"] == "VIDEO_FPS"
    assert loaded.origins["VIDEOIN_HEIGHT"] == "default"
    assert load("VIDEO_DEVICE=/dev/video1\nCAMERA_DEVICE=/dev/video2").config.videoin_device == "/dev/video1"


def test_a_wrong_value_becomes_the_default_and_is_named() -> None:
    loaded = load("RTSP_PORT=99999\nVIDEO_FPS=200\nRECORD_ENABLE=yes\n")
    assert (loaded.config.rtsp_port, loaded.config.videoin_fps, loaded.config.record_enable) == (8554, 15, True)
    assert [problem.text() for problem in loaded.faults()] == [
        "line 1: RTSP_PORT is '99999', allowed is a whole number from 1 to 65535",
        "line 2: VIDEO_FPS is '200', allowed is a whole number from 1 to 60",
    ]


def test_oddities_are_told_and_are_no_faults() -> None:
    loaded = load("RTSP_PROT=1\nLOG_FILE=/x\nRTSP_PORT=1\nRTSP_PORT=2\n")
    assert [problem.text() for problem in loaded.problems] == [
        "line 1: RTSP_PROT: no such key is known; nearest is RTSP_PORT",
        "line 4: RTSP_PORT is set more than once, the last one counts",
    ]
    assert loaded.faults() == ()
    assert [problem.text() for problem in load("oops\n").faults()] == ["line 1: not KEY=VALUE and no comment"]


def test_secrets_never_show() -> None:
    loaded = load('RTSP_PASSWORD="a\x01hidden"\nSTREAM_SOURCE_URL="rtsp://u:hid/den@cam/x"\nX=http://u:hidden@h\n')
    assert len(loaded.problems) == 3
    assert not any("hid" in problem.text() for problem in loaded.problems)
    config = load("RTSP_PASSWORD=hidden\nSTREAM_SOURCE_URL=rtsp://u:hidden@cam/x\n").config
    assert shown_value(all_keys()["RTSP_PASSWORD"], config) == "***"
    assert shown_value(all_keys()["STREAM_SOURCE_URL"], config) == "rtsp://u:***@cam/x"
    assert shown_value(all_keys()["MEETING_TOKEN_CODE"], config) == ""
    assert mask_login("rtsp://u:p:@x@cam/x rtsp://cam") == "rtsp://u:***@cam/x rtsp://cam"


@pytest.mark.parametrize("mode", ["rtsp", "mjpeg"])
def test_a_missing_source_stops_the_stream_daemon_only(mode: str) -> None:
    loaded = load(f"STREAM_SOURCE_MODE={mode}\n")
    with pytest.raises(ConfigError, match="STREAM_SOURCE_URL is missing") as caught:
        loaded.require("S")
    assert caught.value.exit_code == 78
    assert loaded.require("R") is loaded.config
    url = {"rtsp": "rtsp://h/x", "mjpeg": "http://h/x"}[mode]
    assert load(f"STREAM_SOURCE_MODE={mode}\nSTREAM_SOURCE_URL={url}\n").require("S").stream_source_url == url


@pytest.mark.parametrize(("low", "high"), [("5002", "5001"), ("5001", "5001"), ("5001", ""), ("", "5001")])
def test_a_multicast_pool_needs_two_ends_in_order(low: str, high: str) -> None:
    loaded = load(f"RTSP_MULTICAST_PORT_MIN={low}\nRTSP_MULTICAST_PORT_MAX={high}\n")
    assert (loaded.config.rtsp_multicast_port_min, loaded.config.rtsp_multicast_port_max) == (None, None)
    assert [problem.key for problem in loaded.faults()] == ["RTSP_MULTICAST_PORT_MAX"]
    assert load("RTSP_MULTICAST_PORT_MIN=5001\nRTSP_MULTICAST_PORT_MAX=5002\n").faults() == ()


@pytest.mark.parametrize("text", ["SNMP_ENABLED=yes", "NETWORK_MODE=static"])
def test_keys_that_others_need(text: str) -> None:
    assert [problem.kind for problem in load(text).faults()] == ["missing"]


def test_csi_has_its_own_defaults_where_nothing_is_set() -> None:
    config = load("VIDEO_WIDTH=800\n").for_csi()
    assert (config.videoin_width, config.videoin_height, config.videoin_fps) == (800, 972, 20)
    assert config.h264_bitrate_kbps == 2000
    assert load("VIDEOIN_WIDTH=640\n").for_csi().videoin_width == 640


def test_the_class_of_a_change() -> None:
    old = load("RTSP_PORT=8554\nH264_BITRATE_KBPS=1000\n").config
    new = load("RTSP_PORT=8555\nH264_BITRATE_KBPS=2000\nVIDEO_WIDTH=800\nSEGMENT_SECONDS=60\n").config
    assert changed_keys(old, new) == {
        "RTSP_PORT": "rebind",
        "VIDEOIN_WIDTH": "swap",
        "H264_BITRATE_KBPS": "live",
        "SEGMENT_SECONDS": "none",
    }
    assert changed_keys(old, old) == {}


@given(st.text(max_size=200))
def test_no_text_breaks_loading(text: str) -> None:
    load(text)


@given(st.dictionaries(st.sampled_from(list(all_keys())), st.text(max_size=12)))
def test_whatever_stands_there_the_configuration_is_valid(values: dict[str, str]) -> None:
    loaded = load("\n".join(f"{name}={value}" for name, value in values.items()))
    for key in all_keys().values():
        value = getattr(loaded.config, key.field)
        text = key.kind.write(value)
        assert not text or key.kind.parse(text) == value


@pytest.mark.parametrize(("text", "other"), [("RTSP_USER=cam\n", "RTSP_PASSWORD"), ("RTSP_PASSWORD=x\n", "RTSP_USER")])
def test_half_a_login_is_told_because_it_protects_nothing(text: str, other: str) -> None:
    loaded = load(text)
    assert [problem.text().partition(" without ")[2] for problem in loaded.problems] == [
        f"{other}: everybody may watch"
    ]
    assert not loaded.faults()
