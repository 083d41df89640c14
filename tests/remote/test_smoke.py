"""The checks of devices: judgements as tables, and the command against a real SSH server."""

from __future__ import annotations

import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from meetingctl.core.errors import UsageError
from meetingctl.remote.services import UnitState
from meetingctl.remote.smoke import (
    CHECKS,
    choose_checks,
    judge_agent,
    judge_clock,
    judge_disks,
    judge_heartbeat,
    judge_units,
)

from .machine import reports_of

STREAM, RECORDER = "rpi-av-rtsp-recorder", "rtsp-recorder"
SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


def unit(name: str, active: str = "active", enabled: str = "enabled", load: str = "loaded") -> UnitState:
    return UnitState(name, load, active, "", enabled)


@pytest.mark.parametrize(
    ("states", "ok", "words"),
    [
        ([unit(STREAM), unit(RECORDER)], True, "2 enabled, all active"),
        ([unit(STREAM, "inactive")], False, f"{STREAM} is inactive"),
        ([unit(STREAM, "activating")], False, "activating"),
        ([unit(STREAM), unit(RECORDER, "inactive", "disabled")], True, "1 enabled"),
        ([unit(STREAM, enabled="disabled")], False, "none of our units is enabled"),
        ([unit(STREAM, load="not-found")], False, "none of our units is installed"),
        ([unit(STREAM), unit("rtsp-camera-recovery", "inactive")], True, "1 enabled"),
    ],
)
def test_units(states, ok, words) -> None:
    finding = judge_units(states)
    assert finding.ok is ok
    assert words in finding.detail


def test_a_unit_that_is_switched_off_need_not_run() -> None:
    finding = judge_units([unit(STREAM), unit(RECORDER, "inactive")], {RECORDER})
    assert (finding.ok, finding.detail) == (True, f"1 enabled, all active; switched off: {RECORDER}")


@pytest.mark.parametrize(("free_mib", "ok"), [(501, True), (500, True), (499, False)])
def test_disks(free_mib, ok) -> None:
    disks = [{"mount": "/", "free_bytes": 2**40}, {"mount": "/data", "free_bytes": free_mib * 2**20}]
    assert judge_disks(disks).ok is ok
    assert judge_disks([]).ok is False


@pytest.mark.parametrize(
    ("there_s", "ok", "words"),
    [
        (1000.5, True, "as ours"),
        (1003.0, True, "as ours"),
        (1007.9, True, "5 s ahead"),
        (1008.1, False, "5 s ahead"),
        (994.0, False, "6 s behind"),
        (None, False, "no time"),
    ],
)
def test_clocks(there_s, ok, words) -> None:
    """Asked at 1000, answered at 1003: the way of the question and the answer is not held against the device."""
    finding = judge_clock(there_s, 1000.0, 1003.0)
    assert (finding.ok, words in finding.detail) == (ok, True)


def test_agents_and_heartbeats() -> None:
    assert judge_agent("cam-7", [{"device_key": "cam-7"}]).ok is True
    assert judge_agent("cam-7", [{"device_key": "cam-77"}]).ok is False
    at_ms = 1_700_000_060_000
    heard = {"last_heartbeat": "2023-11-14 22:13:20"}
    finding = judge_heartbeat({**heard, "status": "Available"}, at_ms)
    assert (finding.ok, finding.detail) == (True, "60 s ago, Available")
    assert judge_heartbeat({**heard, "status": "Disconnected"}, at_ms).ok is False
    assert judge_heartbeat({"status": "Unknown", "last_heartbeat": None}, at_ms).ok is False
    assert judge_heartbeat({"status": "Available", "last_heartbeat": "x"}, at_ms).ok is False


def test_checks_are_chosen() -> None:
    assert choose_checks("") == tuple(CHECKS)
    assert choose_checks("rtsp, units") == ("units", "rtsp")
    with pytest.raises(UsageError):
        choose_checks("onion")


class _Rtsp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            words = line.split()
            cseq = b""
            while (header := self.rfile.readline().strip()) != b"":
                cseq = header if header.lower().startswith(b"cseq") else cseq
            status = b"200 OK" if words[1].endswith(b"/stream") else b"404 Not Found"
            head = b"RTSP/1.0 %s\r\n%s\r\nContent-Type: application/sdp\r\n" % (status, cseq)
            self.wfile.write(head + b"Content-Length: %d\r\n\r\n%s" % (len(SDP), SDP))


@pytest.fixture
def rtsp_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Rtsp) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(20)


@pytest.fixture
def onvif_port(tmp_path) -> Iterator[int]:
    """The real ONVIF daemon of a camera with a login."""
    config = tmp_path / "camera" / "etc" / "rpi-cam" / "config.env"
    config.parent.mkdir(parents=True)
    config.write_text("RTSP_USER=admin\nRTSP_PASSWORD=s3cret\n")
    log = tmp_path / "onvif.log"
    argv = [sys.executable, "-P", "-m", "meetingctl.device.onvif", f"--root={tmp_path / 'camera'}", "--host=127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen([*argv, "--port=0", "--discovery-port=0"], stderr=output)
    ends_s = time.monotonic() + 45
    while not (found := re.search(r"onvif ready port=(\d+) ", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends_s
        time.sleep(0.02)
    yield int(found[1])
    process.terminate()
    process.wait(20)


def test_a_device_that_works(here, camera, machine, rtsp_port):
    machine.unit(STREAM)
    machine.note("config.env", f"RTSP_PORT={rtsp_port}")
    machine.program("df", "echo x; echo '/dev/root 9000000 1 2000000 1% /'")
    done = here("remote", "smoke", camera.target, "-i", str(camera.identity), "--json")
    (report,) = reports_of(done.out)
    checks = {row["check"]: row["ok"] for row in report["checks"]}
    assert (done.code, report["ok"]) == (0, True), done.out
    assert checks == {
        "units": True,
        "disk": True,
        "clock": True,
        "rtsp": True,
        "onvif": None,
        "agent": None,
        "heartbeat": None,
    }
    assert next(row["detail"] for row in report["checks"] if row["check"] == "rtsp") == "1 media: video"


def test_what_does_not_work_is_named(here, camera, machine, rtsp_port):
    machine.unit(STREAM, "inactive")
    machine.note("config.env", f"RTSP_PORT={rtsp_port}\nRTSP_PATH=other")
    machine.program("df", "echo x; echo '/dev/root 9000000 1 2000 1% /'")
    machine.program("date", "echo 1000000000.5")
    done = here("remote", "smoke", camera.target, "-i", str(camera.identity))
    assert done.code == 1
    assert f"4 of {len(CHECKS)} checks failed: units, disk, clock, rtsp" in done.err
    rows = dict(line.split("\t")[1:3] for line in done.out.splitlines())
    assert rows == {
        "units": "failed",
        "disk": "failed",
        "clock": "failed",
        "rtsp": "failed",
        "onvif": "skipped",
        "agent": "skipped",
        "heartbeat": "skipped",
    }


@pytest.mark.parametrize(
    ("said", "result"), [('{"state": "off"}', "ok"), ('{"state": "stopped"}', "failed"), ("", "failed")]
)
def test_a_recorder_that_is_switched_off_is_no_fault(here, camera, machine, said, result):
    machine.unit(STREAM)
    machine.unit(RECORDER, "inactive")
    machine.note(f"{RECORDER}.result", "success")
    machine.note("recorder.json", said)
    done = here("remote", "smoke", camera.target, "-i", str(camera.identity), "--only", "units")
    assert f"units\t{result}" in done.out


def test_one_of_two_devices_fails(here, camera, machine):
    machine.unit(STREAM)
    words = (camera.target, "pi@127.0.0.1:1", "-i", str(camera.identity), "--retries", "0", "--only", "units")
    assert here("remote", "smoke", *words).code == 3
    assert here("remote", "smoke", camera.target, "--only", "onion").code == 2


def test_a_stream_that_nobody_serves(here, camera, machine):
    machine.note("config.env", "RTSP_PORT=1")
    done = here("remote", "smoke", camera.target, "-i", str(camera.identity), "--only", "rtsp")
    assert done.code == 1
    assert "rtsp\tfailed" in done.out


def test_a_recorder_could_add_the_camera(here, camera, machine, onvif_port):
    machine.unit("rpi-cam-onvif")
    words = ("remote", "smoke", camera.target, "-i", str(camera.identity), "--only", "onvif", "--json")
    machine.note("config.env", "RTSP_USER=admin\nRTSP_PASSWORD=s3cret")
    machine.note("onvif.conf", f'{{"port": {onvif_port}}}')
    (report,) = reports_of(here(*words).out)
    (row,) = report["checks"]
    assert (row["ok"], row["detail"].split(", ")[1]) == (True, "profiles MainProfile")
    machine.note("config.env", "RTSP_USER=admin\nRTSP_PASSWORD=other")
    done = here(*words)
    assert done.code == 1
    assert "refuses the login" in done.out
    machine.note("onvif.conf", '{"enabled": false}')
    assert "switched off" in here(*words).out
