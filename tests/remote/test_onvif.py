"""Finding cameras and asking them what a recorder asks, against the real ONVIF daemon."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from meetingctl.core.errors import AuthError, Unreachable
from meetingctl.core.secret import Secret
from meetingctl.remote.discovery import find_cameras, parse_matches
from meetingctl.remote.onvif import inspect_camera

DEADLINE_S = 45.0
USER, PASSWORD = "admin", Secret("s3cret")
MATCHES = """<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"
 xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"
 xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery"><s:Header><a:RelatesTo>{relates}</a:RelatesTo></s:Header>
<s:Body><d:ProbeMatches><d:ProbeMatch><a:EndpointReference><a:Address>urn:uuid:7</a:Address></a:EndpointReference>
<d:Scopes>onvif://www.onvif.org/name/Cam%201 onvif://www.onvif.org/hardware/Pi</d:Scopes>
<d:XAddrs>http://10.0.0.7/onvif http://[fd00::7]/onvif</d:XAddrs></d:ProbeMatch></d:ProbeMatches></s:Body></s:Envelope>"""


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A daemon on loopback; gives its HTTP port and its discovery port."""
    root = tmp_path_factory.mktemp("camera")
    config = root / "etc" / "rpi-cam" / "config.env"
    config.parent.mkdir(parents=True)
    config.write_text(f"RTSP_USER={USER}\nRTSP_PASSWORD={PASSWORD.reveal()}\n")
    udp = free_port(socket.SOCK_DGRAM)
    log = root / "log"
    argv = [sys.executable, "-P", "-m", "meetingctl.device.onvif", f"--root={root}", "--host=127.0.0.1"]
    with log.open("wb") as output:
        argv += ["--port=0", f"--discovery-port={udp}", f"--path={os.environ['PATH']}"]
        process = subprocess.Popen(argv, stderr=output)
    ends_s = time.monotonic() + DEADLINE_S
    while "onvif ready" not in log.read_text() or "\n" not in log.read_text().partition("onvif ready")[2]:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends_s
        time.sleep(0.02)
    yield int(log.read_text().partition("onvif ready port=")[2].split()[0]), udp
    process.terminate()
    process.wait(20)


def test_a_camera_answers_a_probe(camera: tuple[int, int]) -> None:
    http_port, udp = camera
    found = find_cameras(timeout_s=1.0, port=udp, targets=["127.0.0.1"])
    assert [item.scope("name") for item in found] == ["UNPROVISIONNED"]
    assert found[0].endpoint.startswith("urn:uuid:")
    assert found[0].addresses == (f"http://127.0.0.1:{http_port}/onvif/device_service",)
    assert found[0].as_json()["address"] == "127.0.0.1"


def test_nobody_there_is_an_empty_list() -> None:
    assert find_cameras(timeout_s=0.2, port=free_port(socket.SOCK_DGRAM), targets=["127.0.0.1"]) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestInspect:
    def test_it_reads_what_a_recorder_reads(self, camera: tuple[int, int]) -> None:
        facts = inspect_camera("127.0.0.1", camera[0], USER, PASSWORD, timeout_s=20)
        assert (facts["model"], facts["profiles"], facts["events"]) == ("RPI-CAM", ["MainProfile"], 0)
        assert facts["stream"] == "rtsp://127.0.0.1:8554/stream"
        assert facts["snapshot"] == f"http://127.0.0.1:{camera[0]}/onvif/snapshot.jpg"

    def test_a_wrong_password_is_a_matter_of_the_login(self, camera: tuple[int, int]) -> None:
        with pytest.raises(AuthError):
            inspect_camera("127.0.0.1", camera[0], USER, Secret("wrong"), timeout_s=20)

    def test_nobody_at_the_port_is_unreachable(self) -> None:
        with pytest.raises(Unreachable):
            inspect_camera("127.0.0.1", free_port(socket.SOCK_STREAM), USER, PASSWORD, timeout_s=5)


def test_only_answers_to_our_own_question_count() -> None:
    (found,) = parse_matches(MATCHES.format(relates="urn:uuid:1").encode(), "urn:uuid:1", "10.0.0.7")
    assert (found.endpoint, found.scope("name"), found.scope("location")) == ("urn:uuid:7", "Cam 1", "")
    assert len(found.addresses) == 2
    for data in (MATCHES.format(relates="urn:uuid:2"), "", "<a", "<!DOCTYPE a><a/>", "\0"):
        assert parse_matches(data.encode(), "urn:uuid:1", "10.0.0.7") == []
