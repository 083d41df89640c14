"""The device name, asked of the control plane of this package while the service runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Server, running_server

from .live import Running, configure, free_udp_port
from .schemas import check_response

KEY = "0123456789ABCDEF0123456789ABCDEF"


def fleet(server: Server, home: Path, *words: str) -> Any:
    env = {"HOME": str(home), "MEETINGCTL_SERVER_URL": server.url, "MEETINGCTL_API_KEY": server.admin_key}
    argv = [sys.executable, "-m", "meetingctl", "--json", "fleet", *words]
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.real
def test_a_camera_gets_its_name_from_its_fleet(tmp_path: Path) -> None:
    """It comes into the fleet while the service runs, and its name is the serial number of the product."""
    configure(tmp_path, {})
    daemon = Running(tmp_path)
    with running_server(tmp_path) as server:
        made = fleet(
            server, tmp_path, "create", KEY, "--type", "CAM", "--distribution", "d", "--serial", "V1-S01-00030"
        )
        daemon.start(f"--discovery-port={free_udp_port()}")
        try:
            hostname = check_response(daemon.call("tds:GetHostname")).findtext(".//{*}Name")
            assert hostname == "UNPROVISIONNED"
            # As on a provisioned device: the token code is in meeting.json alone.
            keys = {"MEETING_DEVICE_KEY": KEY, "MEETING_TOKEN_CODE": "********"}
            (tmp_path / "etc/rpi-cam/meeting.json").write_text(json.dumps({"token_code": made["token_code"]}))
            configure(tmp_path, {"MEETING_API_URL": f"{server.url}/api", **keys})
            daemon.hang_up()
            daemon.wait_for_log("device_name=V1-S01-00030")
            serial = check_response(daemon.call("tds:GetDeviceInformation")).findtext(".//{*}SerialNumber")
            assert serial == "V1-S01-00030"
            assert b"name/V1-S01-00030" in daemon.call("tds:GetScopes")
        finally:
            daemon.stop()
    # The fleet is away now, and the name is kept for the next start.
    daemon.log_path.unlink()
    daemon.start(f"--discovery-port={free_udp_port()}")
    try:
        assert b"V1-S01-00030" in daemon.call("tds:GetHostname")
    finally:
        daemon.stop()
    assert made["token_code"] not in daemon.log_text()
