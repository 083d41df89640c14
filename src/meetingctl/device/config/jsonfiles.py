"""What the JSON files of /etc/rpi-cam hold: the fields that have a type, and what is wrong with a file's content.

Fields beyond these are kept and not judged, as the programs that read the files do. Source: contract device_ops.yaml,
json_files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

_TEXT, _YES_NO, _NUMBER, _LIST, _OBJECT = "a text", "true or false", "a whole number", "a list", "an object"

_FIELDS: Mapping[str, Mapping[str, str]] = {
    "meeting.json": {
        "enabled": _YES_NO,
        "api_url": _TEXT,
        "device_key": _TEXT,
        "token_code": _TEXT,
        "heartbeat_interval": _NUMBER,
        "auto_connect": _YES_NO,
        "provisioned": _YES_NO,
        "tunnel_host": _TEXT,
        "tunnel_port": _NUMBER,
        "tunnel_ssl": _YES_NO,
    },
    "wifi_failover.json": {
        "hardware_failover_enabled": _YES_NO,
        "network_failover_enabled": _YES_NO,
        "primary_interface": _TEXT,
        "secondary_interface": _TEXT,
        "primary_ssid": _TEXT,
        "secondary_ssid": _TEXT,
        "primary_password": _TEXT,
        "secondary_password": _TEXT,
        "ip_mode": _TEXT,
        "static_ip": _TEXT,
        "gateway": _TEXT,
        "dns": _TEXT,
        "check_interval": _NUMBER,
    },
    "ap_mode.json": {
        "enabled": _YES_NO,
        "interface": _TEXT,
        "ssid": _TEXT,
        "password": _TEXT,
        "channel": _NUMBER,
        "ap_ip": _TEXT,
        "dhcp_range_start": _TEXT,
        "dhcp_range_end": _TEXT,
        "dhcp_lease_time": _TEXT,
    },
    "onvif.conf": {
        "enabled": _YES_NO,
        "port": _NUMBER,
        "username": _TEXT,
        "password": _TEXT,
        "rtsp_port": _NUMBER,
        "rtsp_path": _TEXT,
        "discovery_enabled": _YES_NO,
        "auth_enabled": _YES_NO,
        "manufacturer": _TEXT,
        "model": _TEXT,
    },
    "rtc_config.json": {"mode": _TEXT},
    "debug_state.json": {"last_actions": _OBJECT, "apt_scheduler": _OBJECT},
    "reboot_schedule.json": {"enabled": _YES_NO, "hour": _NUMBER, "minute": _NUMBER, "days": _LIST},
    "csi_tuning.json": {},
    "camera_profiles.json": {"profiles": _OBJECT},
}
_LISTS = frozenset({"locked_recordings.json"})


def is_json_file(path: str) -> bool:
    """Say whether a file of the configuration holds JSON; onvif.conf does too."""
    pure = PurePosixPath(path)
    return pure.suffix == ".json" or pure.name in _FIELDS


def find_faults(path: str, text: str) -> list[str]:
    """Return what is wrong with the text of a JSON file, each with the field and what it has to be; empty is fine."""
    name = PurePosixPath(path).name
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return [f"{name}: not JSON"]
    if name in _LISTS:
        is_names = isinstance(document, list) and all(isinstance(item, str) for item in document)
        return [] if is_names else [f"{name}: has to be a list of file names"]
    if not isinstance(document, dict):
        return [] if isinstance(document, list) and name not in _FIELDS else [f"{name}: has to be an object"]
    fields = _FIELDS.get(name, {})
    wrong = {key: kind for key, kind in fields.items() if key in document and not _is(kind, document[key])}
    return [f"{name}: {key} has to be {kind}" for key, kind in wrong.items()]


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "true or false":
            return isinstance(value, bool)
        case "a whole number":
            return isinstance(value, int) and not isinstance(value, bool)
        case "a list":
            return isinstance(value, list)
        case "an object":
            return isinstance(value, dict)
        case _:
            return isinstance(value, str)
