"""The watchdog on a device in a folder: real files, real sockets, a stand-in for systemctl."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import change_config, read_config
from meetingctl.device.notify import Notifier
from meetingctl.device.recorder.progress import Progress, write_progress
from meetingctl.device.rtsp import Endpoint
from meetingctl.device.stream.control import ControlSocket
from meetingctl.device.system import Clock, System
from meetingctl.device.watchdog import Memory, Rules, rules_of
from meetingctl.device.watchdog.facts import (
    StreamStatus,
    count_alsa_errors,
    is_device_present,
    parse_progress,
    parse_status,
    probe_stream,
    read_log_tail,
)
from meetingctl.device.watchdog.loop import check_once, read_facts, run_watchdog
from meetingctl.device.watchdog.recovery import recover, refuse_recovery
from meetingctl.device.watchdog.state import is_running, read_kept, read_report

from .conftest import Device
from .scenes import IDLE, RULES, RUNNING, VIEWED, unit

DEADLINE_S = 60.0
STREAM_RESTART = [
    "reset-failed -- rpi-av-rtsp-recorder.service",
    "restart -- rpi-av-rtsp-recorder.service",
]
RECORDER_FOLLOWS = "try-restart -- rtsp-recorder.service"


@contextmanager
def rtsp_server(status: str = "200 OK") -> Iterator[int]:
    """Answer every request with one status and a description."""
    sdp = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    reply = f"RTSP/1.0 {status}\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}".encode()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(DEADLINE_S)
                if connection.recv(4096):
                    connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE_S)


@pytest.fixture
def free_port() -> Iterator[int]:
    """Return a port on which nobody listens, and which nobody else can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def rules_with(device: Device, **keys: str) -> Rules:
    change_config(device.system, keys)
    return rules_of(read_config(device.system).config)


def check(device: Device, rules: Rules, **more: Any) -> Any:
    """Check as `watchdog run --once` does: what earlier checks left is in the state file."""
    return check_once(device.system, rules, Notifier(), read_kept(device.system), **more)


class TestFacts:
    def test_everything_is_read_from_where_the_daemons_put_it(self, device: Device) -> None:
        status = {"clients": 1, "local_clients": 1, "last_buffer_age_s": 0.04, "source": "usb", "fps": 15}
        device.write("/dev/video0", "")
        device.write("/var/log/rpi-cam/rpi_av_rtsp_recorder.log", "ALSA: No such device\nall well\n")
        write_progress(device.system, Progress(state="recording", segment="rec_1.ts", bytes=5))
        with rtsp_server() as port:
            rules = rules_with(device, RTSP_PORT=str(port), RECORD_ENABLE="yes")
            control = ControlSocket(device.system.path(layout.STREAM_STATE_SOCKET), lambda line: status)
            try:
                facts = read_facts(device.system, rules, Memory())
            finally:
                control.close()
        assert facts.status == StreamStatus(2, 0.04, "usb")
        assert facts.probe is not None
        assert (facts.probe.method, facts.probe.outcome) == ("OPTIONS", "ok")
        assert (facts.camera_present, facts.alsa_errors) == (True, 1)
        assert (facts.unit.active, facts.recorder and facts.recorder.active) == ("active", "active")
        assert facts.progress == ("recording", "rec_1.ts", 5)

    def test_a_device_on_which_nothing_is_there(self, tmp_path: Any, free_port: int) -> None:
        system = System(tmp_path, env={"PATH": str(tmp_path)})
        facts = read_facts(system, Rules(is_recording=True), Memory())
        assert (facts.status, facts.progress, facts.camera_present, facts.unit.load) == (None, None, False, "")

    @pytest.mark.parametrize(
        ("status", "outcome"),
        [
            ("200 OK", "ok"),
            ("401 Unauthorized", "refused"),
            ("404 Not Found", "missing"),
            ("503 Service Unavailable", "unavailable"),
            ("500 Oops", "wrong"),
        ],
    )
    def test_answers_of_the_server(self, status: str, outcome: str) -> None:
        with rtsp_server(status) as port:
            endpoint = Endpoint("127.0.0.1", port, "stream")
            assert probe_stream(endpoint, "DESCRIBE", timeout_s=DEADLINE_S).outcome == outcome

    @pytest.mark.parametrize("value", [{}, {"clients": "3"}, {"clients": -1}, {"clients": True}, {"ok": False}])
    def test_a_status_of_something_else(self, value: dict[str, Any]) -> None:
        assert parse_status(value) is None

    def test_a_progress_of_something_else(self) -> None:
        assert parse_progress({"segment": "x"}) is None
        assert parse_progress({"segment": None, "bytes": 0}) == ("", "", 0)

    def test_only_the_newest_lines_of_a_log_count(self) -> None:
        old, new = b"No such device\n" * 60, b"fine\n" * 70
        assert count_alsa_errors(old + new) == 30

    def test_a_log_is_read_after_the_mark_and_from_the_start_when_it_was_cut(self, device: Device) -> None:
        device.write("/var/log/x.log", "old\nnew\n")
        assert read_log_tail(device.system, "/var/log/x.log", mark_bytes=4) == (b"new\n", 8)
        assert read_log_tail(device.system, "/var/log/x.log", mark_bytes=5000) == (b"old\nnew\n", 8)
        assert read_log_tail(device.system, "/var/log/none.log", mark_bytes=4) == (b"", 0)

    def test_a_device_path_that_leads_out_of_the_root_is_not_there(self, device: Device) -> None:
        (device.root / "dev").mkdir()
        (device.root / "dev/video0").symlink_to("/etc/passwd")
        assert not is_device_present(device.system, "/dev/video0")


class TestCheck:
    def test_three_failures_in_a_row_restart_stream_and_recorder_once(self, device: Device, free_port: int) -> None:
        rules = rules_with(device, RTSP_PORT=str(free_port), RECORD_ENABLE="yes")
        for _ in range(2):
            check(device, rules)
        assert device.restarts() == []
        report = check(device, rules).kept.report
        assert device.restarts() == [*STREAM_RESTART, RECORDER_FOLLOWS]
        assert (report["restart_count"], report["actions"]) == (1, ["restart-stream", "restart-recorder"])
        assert report["last_restart_at"] == report["last_check_at"]
        for _ in range(3):
            report = check(device, rules).kept.report
        assert len(device.restarts()) == 3, "the back-off holds the next one"
        assert report["restart_held_for_s"] > 60

    def test_a_good_stream_is_left_alone(self, device: Device) -> None:
        with rtsp_server() as port:
            rules = rules_with(device, RTSP_PORT=str(port))
            for _ in range(4):
                found = check(device, rules)
        assert found.decision.stream.state == "healthy"
        assert found.kept.report["last_healthy_at"] == found.kept.report["last_check_at"]
        assert device.restarts() == []

    def test_the_login_of_the_configuration_is_used(self, device: Device) -> None:
        rules = rules_with(device, RTSP_USER="admin", RTSP_PASSWORD="s3cret", RTSP_PATH="door")
        login = rules.endpoint.login
        assert login is not None
        assert (login.user, login.password.reveal(), rules.endpoint.path) == ("admin", "s3cret", "door")
        check(device, rules)
        assert "s3cret" not in device.system.read(layout.WATCHDOG_STATE_JSON)

    def test_a_dry_run_leaves_no_trace(self, device: Device, free_port: int) -> None:
        rules = rules_with(device, RTSP_PORT=str(free_port), MAX_FAILURES="1")
        found = check(device, rules, dry_run=True)
        assert found.decision.actions == ("restart-stream",)
        assert device.restarts() == []
        assert read_report(device.system) == {"running": False}

    def test_a_restart_that_fails_counts_and_does_not_end_the_watchdog(
        self, device: Device, free_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        device.refuse_restarts()
        rules = rules_with(device, RTSP_PORT=str(free_port), MAX_FAILURES="1")
        check(device, rules)
        check(device, rules)
        assert device.restarts() == STREAM_RESTART
        assert "restart failed" in caplog.messages

    def test_a_reboot_is_a_new_start(self, device: Device, free_port: int) -> None:
        rules = rules_with(device, RTSP_PORT=str(free_port))
        check(device, rules)
        assert read_kept(device.system).memory.failures == 1
        rebooted = System(device.root, clock=Clock(monotonic_s=lambda: 12.0))
        assert read_kept(rebooted).memory == Memory()
        assert read_report(rebooted) == {"running": False}

    @pytest.mark.parametrize(
        "damage", ["", "{", "[]", '{"memory": 1}', '{"written_at_s": 1, "report": {}, "memory": 3}']
    )
    def test_a_damaged_state_file_is_a_new_start(self, device: Device, damage: str) -> None:
        device.write(layout.WATCHDOG_STATE_JSON, damage)
        assert read_kept(device.system).memory == Memory()

    def test_without_a_place_for_the_state_checks_still_add_up(self, device: Device, free_port: int) -> None:
        rules = rules_with(device, RTSP_PORT=str(free_port), MAX_FAILURES="2")
        (device.root / "run").mkdir()
        (device.root / "run/meetingctl").write_text("a file where the folder should be")
        kept = read_kept(device.system)
        for _ in range(2):
            kept = check_once(device.system, rules, Notifier(), kept).kept
        assert device.restarts() == STREAM_RESTART


class Listener:
    """$NOTIFY_SOCKET and what arrives there."""

    def __init__(self, folder: Any) -> None:
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(DEADLINE_S)

    def wait_for(self, start: bytes) -> None:
        while not self.socket.recv(4096).startswith(start):
            pass


@pytest.fixture
def systemd(tmp_path: Any) -> Iterator[Listener]:
    listener = Listener(tmp_path)
    yield listener
    listener.socket.close()


class TestLoop:
    @contextmanager
    def running(self, device: Device, systemd: Listener) -> Iterator[threading.Event]:
        stop = threading.Event()
        thread = threading.Thread(
            target=run_watchdog, args=(device.system, Notifier(systemd.path), stop), kwargs={"start_delay_s": 0.0}
        )
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(DEADLINE_S)
        assert not thread.is_alive()

    def test_it_checks_until_it_is_stopped(self, device: Device, systemd: Listener, free_port: int) -> None:
        rules_with(device, RTSP_PORT=str(free_port))
        with self.running(device, systemd):
            systemd.wait_for(b"READY=1")
            systemd.wait_for(b"WATCHDOG=1\nSTATUS=stream failing (rtsp-unreachable)")
            report = read_report(device.system)
            assert report["running"]
            assert report["stream"]["reason"] == "rtsp-unreachable"
        systemd.wait_for(b"STOPPING=1")
        assert not is_running(device.system)

    def test_there_is_only_one(self, device: Device, systemd: Listener) -> None:
        with self.running(device, systemd):
            systemd.wait_for(b"READY=1")
            with pytest.raises(MeetingctlError, match="another watchdog"):
                run_watchdog(device.system, Notifier(), threading.Event())

    def test_a_changed_configuration_counts_from_the_next_check(
        self, device: Device, systemd: Listener, free_port: int
    ) -> None:
        rules_with(device, RTSP_PORT=str(free_port), CHECK_INTERVAL="5")
        with rtsp_server() as port, self.running(device, systemd):
            systemd.wait_for(b"WATCHDOG=1\nSTATUS=stream failing")
            rules_with(device, RTSP_PORT=str(port))
            systemd.wait_for(b"WATCHDOG=1\nSTATUS=stream healthy")

    def test_it_stops_at_once_while_it_waits(self, device: Device, systemd: Listener) -> None:
        rules_with(device, CHECK_INTERVAL="3600")
        with self.running(device, systemd) as stop:
            systemd.wait_for(b"READY=1")
            stop.set()
            begun_s = time.monotonic()
        assert time.monotonic() - begun_s < DEADLINE_S


class TestRecovery:
    @pytest.mark.parametrize(
        ("changes", "refusal"),
        [
            ({}, None),
            ({"status": IDLE}, None),
            ({"unit": unit("failed")}, None),
            ({"rules": Rules(source_mode="rtsp")}, "not a camera"),
            ({"rules": Rules(camera_type="csi")}, "CSI"),
            ({"unit": unit("inactive")}, "was stopped"),
            ({"unit": unit("activating")}, "starting anyway"),
            ({"unit": unit("active", active_since_s=500.0)}, "starting anyway"),
            ({"status": VIEWED}, "picture runs"),
        ],
    )
    def test_when_a_plugged_camera_needs_a_restart(self, changes: dict[str, Any], refusal: str | None) -> None:
        given = {"unit": RUNNING, "status": None, "rules": RULES, **changes}
        found = refuse_recovery(given["unit"], given["status"], given["rules"], plugged_at_s=100.0)
        assert (found is None) == (refusal is None)
        assert (refusal or "") in (found or "")

    def test_it_waits_and_restarts(self, device: Device) -> None:
        rules = rules_with(device, RECORD_ENABLE="yes")
        assert recover(device.system, rules, threading.Event(), settle_s=0.0) is None
        assert device.restarts() == [*STREAM_RESTART, RECORDER_FOLLOWS]

    def test_it_can_be_stopped_while_it_waits(self, device: Device) -> None:
        stop = threading.Event()
        stop.set()
        assert recover(device.system, Rules(), stop) == "stopped while waiting for the camera"
        assert device.restarts() == []


@pytest.fixture
def meetingctl(device: Device) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "meetingctl", "device", "watchdog", *words]
        return subprocess.run(argv, env=device.environment(), capture_output=True, text=True, timeout=100)

    return run


class TestCommands:
    def test_a_check_and_its_report(
        self, device: Device, free_port: int, meetingctl: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        rules_with(device, RTSP_PORT=str(free_port), MAX_FAILURES="2")
        fresh = meetingctl("status", "--json")
        assert (fresh.returncode, json.loads(fresh.stdout)) == (0, {"running": False})
        first = meetingctl("run", "--once", "--json")
        assert first.returncode == 1
        assert json.loads(first.stdout)["stream"]["state"] == "failing"
        tried = json.loads(meetingctl("run", "--dry-run", "--json").stdout)
        assert (tried["dry_run"], tried["actions"]) == (True, ["restart-stream"])
        assert device.restarts() == []
        meetingctl("run", "--once")
        assert device.restarts() == STREAM_RESTART
        shown = meetingctl("status")
        assert "restart_count\t1" in shown.stdout
        assert "the watchdog does not run" in shown.stderr

    def test_a_good_check_exits_with_0(
        self, device: Device, meetingctl: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        with rtsp_server() as port:
            rules_with(device, RTSP_PORT=str(port))
            ran = meetingctl("run", "--once")
        assert ran.returncode == 0
        assert "healthy (no-status)" in ran.stdout
