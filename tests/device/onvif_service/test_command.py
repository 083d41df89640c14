"""`device onvif` as a command, and the daemon's start and end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from meetingctl.device.system import System

from .live import Running, configure, free_udp_port


def meetingctl(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "meetingctl", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_describe_tells_what_recorders_are_told(tmp_path: Path) -> None:
    configure(tmp_path, {"RTSP_USER": "admin", "RTSP_PASSWORD": "hidden7", "RELAY_ENABLE": "yes"})
    ran = meetingctl("device", "onvif", "describe", "--json", "--root", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["login"] == "admin"
    assert found["relay"] == "RELAY_GPIO_PIN is 0"
    assert found["services"] == ["tds", "trt", "timg", "tmd", "tev"]
    assert found["profiles"] == ["MainProfile 640x480 15 fps 1200 kbit/s"]
    assert "hidden7" not in ran.stdout + ran.stderr
    assert not (tmp_path / "etc/rpi-cam/onvif.conf").exists()  # looking changes nothing


def test_run_becomes_the_daemon_and_ends_when_it_is_switched_off(tmp_path: Path) -> None:
    configure(tmp_path, {})
    System(tmp_path).write("/etc/rpi-cam/onvif.conf", '{"enabled": false}')
    ran = meetingctl("device", "onvif", "run", "--root", str(tmp_path))
    assert ran.returncode == 0
    assert "nothing to do" in ran.stderr


def test_a_wrong_configuration_or_a_port_in_use_is_78(tmp_path: Path) -> None:
    configure(tmp_path, {})
    System(tmp_path).write("/etc/rpi-cam/onvif.conf", "{")
    assert meetingctl("device", "onvif", "run", "--root", str(tmp_path)).returncode == 78
    System(tmp_path).write("/etc/rpi-cam/onvif.conf", "{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("--host", "127.0.0.1", "--port", port, "--discovery-port", str(free_udp_port()))
        ran = meetingctl("device", "onvif", "run", "--root", str(tmp_path), *words)
    assert ran.returncode == 78
    assert f"port {port} is in use" in ran.stderr


def test_the_daemon_ends_cleanly_and_reads_again_on_hup(tmp_path: Path) -> None:
    import signal

    configure(tmp_path, {})
    daemon = Running(tmp_path, path=os.environ["PATH"])
    daemon.start(f"--discovery-port={free_udp_port()}")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    assert b"MainProfile" in daemon.call("trt:GetProfiles")
    configure(tmp_path, {"RTSP_USER": "admin", "RTSP_PASSWORD": "secret"})
    assert b"NotAuthorized" in daemon.call("trt:GetProfiles")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log_text()
