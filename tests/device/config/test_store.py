from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from meetingctl.core.errors import Conflict, InvalidInput
from meetingctl.core.layout import CONFIG_ENV, RECORDER_CONF
from meetingctl.device.config import change_config, read_config
from meetingctl.device.config.envfile import parse_env
from meetingctl.device.config.store import plan_changes
from meetingctl.device.system import System


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_nothing_there_is_all_defaults(system: System, tmp_path: Path) -> None:
    assert read_config(system).config.rtsp_port == 8554
    assert not (tmp_path / "etc").exists()


def test_recorder_conf_counts_only_without_config_env_and_moves_over(system: System) -> None:
    system.write(RECORDER_CONF, "# old\nRTSP_PORT=9000\nSEGMENT_SECONDS=60\n")
    assert read_config(system).config.rtsp_port == 9000
    change_config(system, {"RTSP_PATH": "cam"})
    assert system.read(CONFIG_ENV) == "# old\nRTSP_PORT=9000\nSEGMENT_SECONDS=60\nRTSP_PATH=cam\n"
    system.write(RECORDER_CONF, "RTSP_PORT=9001\n")
    assert read_config(system).config.rtsp_port == 9000


def test_a_change_keeps_comments_order_and_unknown_keys(system: System) -> None:
    system.write(CONFIG_ENV, "# my camera\nMY_OWN=1\nRTSP_USER='bob' # me\nVIDEO_FPS=30\n\nRECORD_PATH=/a\n")
    loaded = change_config(system, {"RTSP_USER": "ann", "VIDEO_FPS": "20", "RECORD_DIR": "/srv/rec"})
    assert loaded.config.videoin_fps == 20
    assert system.read(CONFIG_ENV) == (
        '# my camera\nMY_OWN=1\nRTSP_USER="ann" # me\nVIDEO_FPS=20\n\nRECORD_PATH=/srv/rec\n'
        "VIDEOIN_FPS=20\nRECORD_DIR=/srv/rec\n"
    )
    assert read_config(system) == loaded


def test_others_cannot_read_the_file(system: System, tmp_path: Path) -> None:
    path = tmp_path / CONFIG_ENV[1:]
    change_config(system, {"RTSP_PASSWORD": "x"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o664)
    change_config(system, {"RTSP_PASSWORD": "y"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_the_same_value_writes_nothing(system: System, tmp_path: Path) -> None:
    change_config(system, {"RTSP_PORT": "8000"})
    before = (tmp_path / CONFIG_ENV[1:]).stat()
    change_config(system, {"RTSP_PORT": "8000"})
    assert (tmp_path / CONFIG_ENV[1:]).stat().st_ino == before.st_ino


def test_a_wrong_value_names_key_value_and_range_and_writes_nothing(system: System, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"VIDEO_FPS is '99', allowed is a whole number from 1 to 60"):
        change_config(system, {"RTSP_PORT": "8000", "VIDEO_FPS": "99"})
    with pytest.raises(InvalidInput, match="unknown key 'NOPE'"):
        change_config(system, {"NOPE": "1"})
    with pytest.raises(InvalidInput, match=r"RTSP_PASSWORD is \*\*\*"):
        change_config(system, {"RTSP_PASSWORD": "hidden\nRECORD_ENABLE=yes"})
    assert not (tmp_path / CONFIG_ENV[1:]).exists()


def test_values_are_spelled_as_usual() -> None:
    wanted = {"RECORD_ENABLE": "TRUE", "RELAY_ACTIVE_HIGH": "1", "H264_QP": "auto", "RTSP_PROTOCOLS": "TCP, mcast"}
    assert plan_changes(parse_env(""), wanted) == {
        "RECORD_ENABLE": "yes",
        "RELAY_ACTIVE_HIGH": "true",
        "H264_QP": "",
        "RTSP_PROTOCOLS": "tcp,udp-mcast",
    }


def test_older_names_follow_and_the_new_one_wins() -> None:
    wanted = {"VIDEOIN_WIDTH": "1280", "VIDEO_WIDTH": "800", "OUTPUT_FPS": None}
    assert plan_changes(parse_env(""), wanted) == {
        "VIDEOIN_WIDTH": "1280",
        "VIDEO_WIDTH": "1280",
        "VIDEOOUT_FPS": None,
        "OUTPUT_FPS": None,
    }


def test_the_mask_of_a_secret_changes_nothing() -> None:
    assert plan_changes(parse_env("RTSP_PASSWORD=x"), {"RTSP_PASSWORD": "********", "RTSP_USER": ""}) == {
        "RTSP_USER": ""
    }


def test_a_provisioned_device_keeps_its_meeting_keys(system: System) -> None:
    system.write(CONFIG_ENV, "MEETING_PROVISIONED=yes\nMEETING_API_URL=https://a.example/api\n")
    for wanted in ({"MEETING_API_URL": "https://b.example/api"}, {"MEETING_PROVISIONED": "no"}):
        with pytest.raises(Conflict, match="is locked"):
            change_config(system, wanted)
    change_config(system, {"MEETING_API_URL": "https://a.example/api", "RTSP_PORT": "1"})
    assert not change_config(system, {"MEETING_PROVISIONED": "no"}, unlock=True).config.meeting_provisioned


def test_writers_at_the_same_time_lose_nothing(system: System) -> None:
    names = ["RTSP_PORT", "WEBMANAGER_PORT", "SNMP_SERVER_PORT", "CSI_RPICAM_UDP_PORT"]
    threads = [
        threading.Thread(target=lambda name=name: [change_config(system, {name: str(n)}) for n in range(100, 110)])
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parse_env(system.read(CONFIG_ENV)).values() == dict.fromkeys(names, "109")
