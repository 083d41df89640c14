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


TIMEDATECTL = '#!/bin/sh\ncat "$(dirname "$0")/synchronized"\n'


def doctor(root: Path, path: str) -> dict[str, tuple[str, str]]:
    env = {**os.environ, "MEETINGCTL_ROOT": str(root), "PATH": path, "MEETINGCTL_TIMEOUT_S": "1"}
    argv = [sys.executable, "-m", "meetingctl", "doctor", "--json"]
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    rows = json.loads(ran.stdout)
    return {row["check"]: (row["status"], row["detail"]) for row in rows if row["check"].startswith("onvif")}


def test_doctor_says_what_recorders_will_miss(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "timedatectl").write_text(TIMEDATECTL)
    (tools / "timedatectl").chmod(0o755)
    (tools / "synchronized").write_text("no\n")
    path = f"{tools}:{os.environ['PATH']}"
    configure(tmp_path, {"RELAY_ENABLE": "yes"})
    found = doctor(tmp_path, path)
    assert {name: status for name, (status, _) in found.items()} == {
        "onvif": "warning", "onvif login": "warning", "onvif clock": "warning"
    }  # fmt: skip
    assert "does not answer" in found["onvif"][1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        daemon = Running(tmp_path, path=path)
        daemon.start(f"--discovery-port={taken.getsockname()[1]}")
        try:
            assert "the clock is not synchronized" in daemon.wait_for_log("the clock is not")
            found = doctor(tmp_path, path)
        finally:
            daemon.stop()
    assert found["onvif"] == ("ok", f"port {daemon.port}, 0 subscriptions")
    assert found["onvif discovery"][0] == "warning"
    assert found["onvif relay"] == ("warning", "no relay: RELAY_GPIO_PIN is 0")
    (tools / "synchronized").write_text("yes\n")
    configure(tmp_path, {"RTSP_USER": "admin", "RTSP_PASSWORD": "secret"})
    assert {doctor(tmp_path, path)[f"onvif {name}"][0] for name in ("login", "clock")} == {"ok"}
    System(tmp_path).write("/etc/rpi-cam/onvif.conf", '{"enabled": false}')
    assert doctor(tmp_path, path)["onvif"][0] == "absent"


def test_switching_it_off_ends_the_running_service(tmp_path: Path) -> None:
    configure(tmp_path, {})
    daemon = Running(tmp_path)
    daemon.start(f"--discovery-port={free_udp_port()}")
    System(tmp_path).write("/etc/rpi-cam/onvif.conf", '{"enabled": false}')
    daemon.hang_up()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0
    assert "the service ends" in daemon.log_text()


def test_who_may_use_it_is_said_when_it_changes(tmp_path: Path) -> None:
    configure(tmp_path, {"RTSP_USER": "admin", "RTSP_PASSWORD": "secret"})
    daemon = Running(tmp_path)
    daemon.start(f"--discovery-port={free_udp_port()}")
    try:
        with System(tmp_path).locked("/etc/rpi-cam"):  # or the daemon copies a login between the two
            configure(tmp_path, {})
            System(tmp_path).write("/etc/rpi-cam/onvif.conf", "{}")
        daemon.hang_up()
        daemon.wait_for_log("anybody on the network")
        configure(tmp_path, {"RTSP_USER": "admin", "RTSP_PATH": "live/cam one"})
        daemon.hang_up()
        daemon.wait_for_log("nobody gets in")
        assert "RTSP_PATH is 'live/cam one'" in daemon.log_text()
    finally:
        daemon.stop()


def test_the_daemon_ends_cleanly_and_reads_again_on_hup(tmp_path: Path) -> None:
    configure(tmp_path, {})
    daemon = Running(tmp_path, path=os.environ["PATH"])
    daemon.start(f"--discovery-port={free_udp_port()}")
    daemon.hang_up()
    assert b"MainProfile" in daemon.call("trt:GetProfiles")
    configure(tmp_path, {"RTSP_USER": "admin", "RTSP_PASSWORD": "secret"})
    assert b"NotAuthorized" in daemon.call("trt:GetProfiles")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log_text()
