"""Login with real clients: ffprobe where it must work, our own client where it must not."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator

import pytest

from meetingctl.core.errors import AuthError
from meetingctl.core.secret import Secret
from meetingctl.device.rtsp import Endpoint, Login, describe
from meetingctl.device.rtsp.client import ask

from .support import Stream, probe, running_stream

pytestmark = pytest.mark.gst

USER, PASSWORD = "admin", "p:@ w/ä"


@pytest.fixture(scope="module", params=["basic", "digest", "both"])
def guarded(
    gstreamer: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stream]:
    keys = {"RTSP_USER": USER, "RTSP_PASSWORD": PASSWORD, "RTSP_AUTH_METHOD": request.param, "RTSP_REALM": "Shop"}
    with running_stream(tmp_path_factory.mktemp("login"), STREAM_SOURCE_MODE="test", **keys) as stream:
        yield stream


def endpoint(stream: Stream, login: Login | None) -> Endpoint:
    return Endpoint("127.0.0.1", int(stream.keys["RTSP_PORT"]), "stream", login)


def test_the_right_password_plays(guarded: Stream) -> None:
    shown = probe(guarded.url(user=USER, password=PASSWORD))
    assert shown["video"]["codec_name"] == "h264", guarded.log_text()


@pytest.mark.parametrize("login", [None, Login(USER, Secret("wrong")), Login("other", Secret(PASSWORD))])
def test_the_wrong_password_and_none_are_refused(guarded: Stream, login: Login | None) -> None:
    with pytest.raises(AuthError):
        describe(endpoint(guarded, login), timeout_s=20)


def test_the_methods_that_are_offered(guarded: Stream) -> None:
    wanted = {"basic": {"basic"}, "digest": {"digest"}, "both": {"basic", "digest"}}[guarded.keys["RTSP_AUTH_METHOD"]]
    headers = ask("DESCRIBE", endpoint(guarded, None), timeout_s=20).header_list("www-authenticate")
    assert {header.split()[0].lower() for header in headers} == wanted
    assert all('realm="Shop"' in header for header in headers)


def test_a_method_that_is_not_offered_is_not_accepted(guarded: Stream) -> None:
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    url = f"rtsp://127.0.0.1:{guarded.keys['RTSP_PORT']}/stream"
    with socket.create_connection(("127.0.0.1", int(guarded.keys["RTSP_PORT"])), 20) as sock:
        sock.sendall(f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAuthorization: Basic {token}\r\n\r\n".encode())
        status = sock.recv(4096).split(b" ")[1]
    assert status == (b"401" if guarded.keys["RTSP_AUTH_METHOD"] == "digest" else b"200")


def test_the_password_stands_in_no_log_and_no_state(guarded: Stream) -> None:
    assert PASSWORD not in guarded.log_text()
    assert PASSWORD not in str(guarded.status())
