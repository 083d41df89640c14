"""What is wrong with a JSON file of the configuration, and what may be in one."""

from __future__ import annotations

import json

import pytest

from meetingctl.device.config.jsonfiles import find_faults, is_json_file


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        ("meeting.json", '{"enabled": true, "device_key": "cam-7", "heartbeat_interval": 60, "own": [1]}', []),
        ("meeting.json", '{"enabled": "yes"}', ["meeting.json: enabled has to be true or false"]),
        ("meeting.json", '{"tunnel_port": true}', ["meeting.json: tunnel_port has to be a whole number"]),
        ("onvif.conf", "[" * 100_000, ["onvif.conf: not JSON"]),
        ("onvif.conf", '{"port": "8080"}', ["onvif.conf: port has to be a whole number"]),
        ("ap_mode.json", "[]", ["ap_mode.json: has to be an object"]),
        ("locked_recordings.json", '["rec_20260117_143025.ts"]', []),
        ("locked_recordings.json", '{"a": 1}', ["locked_recordings.json: has to be a list of file names"]),
        ("reboot_schedule.json", '{"days": "all"}', ["reboot_schedule.json: days has to be a list"]),
        ("camera_profiles.json", '{"profiles": []}', ["camera_profiles.json: profiles has to be an object"]),
        ("locales/fr.json", '{"a": 1}', []),
        ("locales/fr.json", "", ["fr.json: not JSON"]),
    ],
)
def test_faults(name: str, text: str, faults: list[str]) -> None:
    assert find_faults(f"/etc/rpi-cam/{name}", text) == faults


def test_a_field_may_be_absent() -> None:
    assert find_faults("wifi_failover.json", json.dumps({"gateway": ""})) == []


def test_which_files_hold_json() -> None:
    assert is_json_file("/etc/rpi-cam/onvif.conf")
    assert not is_json_file("/etc/rpi-cam/config.env")
