"""The loopback HTTP and the Unix socket: pure answers, and the real ones of a running daemon."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from meetingctl.core.errors import Busy, Forbidden, InvalidInput, MeetingctlError, NotFound
from meetingctl.device.stream.control import ControlSocket, ask_daemon
from meetingctl.device.stream.http import LoopbackHttp, Routes, Waiting, answer, check_caller
from meetingctl.device.stream.motion import Motion
from meetingctl.device.system import System

from .support import Stream, probe


def routes(**changes: Any) -> Routes:
    def set_controls(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        return wanted

    return Routes(
        status=lambda: {"clients": 1},
        snapshot=lambda: b"jpeg",
        hls_file=lambda name: name.encode(),
        controls=lambda: {"Brightness": {"value": 0}},
        set_controls=set_controls,
        report_motion=lambda is_moving: None,
    )._replace(**changes)


def test_every_route() -> None:
    assert json.loads(answer(routes(), "GET", "/status", b"").body) == {"clients": 1}
    assert b"meetingctl_stream_clients 1" in answer(routes(), "GET", "/metrics", b"").body
    assert answer(routes(), "GET", "/snapshot.jpg?x=1", b"") == (b"jpeg", "image/jpeg", 200)
    assert answer(routes(), "GET", "/hls/live.m3u8", b"").type == "application/vnd.apple.mpegurl"
    assert json.loads(answer(routes(), "GET", "/controls", b"").body)["controls"] == {"Brightness": {"value": 0}}
    done = answer(routes(), "POST", "/set_controls", b'{"Brightness": 0.5}')
    assert json.loads(done.body) == {"success": True, "applied": {"Brightness": 0.5}}


def test_motion_is_passed_on() -> None:
    reports: list[bool] = []
    server = routes(report_motion=reports.append)
    for word in (b"true", b"false"):
        assert answer(server, "POST", "/motion", b'{"motion": %s}' % word).status == 200
    assert reports == [True, False]
    for wrong in (b"{}", b'{"motion": 1}', b'{"motion": "true"}', b"true"):
        with pytest.raises(InvalidInput):
            answer(server, "POST", "/motion", wrong)


def test_motion_is_seen_by_slow_readers_and_ends_without_news() -> None:
    motion = Motion()
    assert motion.state(100.0) is None
    motion.report(False, 100.0)
    assert motion.state(100.0) is False
    motion.report(True, 110.0)
    motion.report(False, 110.1)
    assert [motion.state(now_s) for now_s in (110.2, 115.9, 116.1)] == [True, True, False]
    motion.report(True, 200.0)
    assert [motion.state(now_s) for now_s in (229.0, 231.0)] == [True, False]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/status"), ("GET", "/set_controls")])
def test_what_is_not_there(method: str, path: str) -> None:
    with pytest.raises(NotFound):
        answer(routes(), method, path, b"")


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 5000])
def test_controls_must_be_an_object(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        answer(routes(), "POST", "/set_controls", body)


@pytest.mark.parametrize("host", ["127.0.0.1:8085", "localhost:8085", "localhost", "[::1]:8085"])
def test_programs_on_this_machine_may_ask(host: str) -> None:
    check_caller(host, None)


@pytest.mark.parametrize(("host", "origin"), [("evil.example:8085", None), ("", None), ("127.0.0.1", "http://a.b")])
def test_web_pages_of_elsewhere_may_not(host: str, origin: str | None) -> None:
    with pytest.raises(Forbidden):
        check_caller(host, origin)


def get(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    try:
        with urlopen(Request(url, data, headers), timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_turns_errors_into_answers() -> None:
    def broken() -> Mapping[str, Any]:
        raise RuntimeError("secret detail")

    def busy() -> bytes:
        raise Busy("no picture", hint="wait")

    server = LoopbackHttp("127.0.0.1", 0, routes(status=broken, snapshot=busy), on_close=lambda: None)
    try:
        base = f"http://127.0.0.1:{server.port}"
        assert get(f"{base}/status")[0] == 500
        assert b"secret" not in get(f"{base}/status")[1]
        status, body = get(f"{base}/snapshot.jpg")
        assert (status, json.loads(body)["hint"]) == (503, "wait")
        assert get(f"{base}/status", Host="evil.example")[0] == 403
        assert get(f"{base}/set_controls", b"x" * 20_000)[0] == 413
        with pytest.raises(Busy, match="is in use"):
            LoopbackHttp("127.0.0.1", server.port, routes(), on_close=lambda: None)
    finally:
        server.close()


def many_slow(port: int, count: int, sent: bytes) -> list[socket.socket]:
    slow = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(count)]
    for connection in slow:
        connection.sendall(sent)
    return slow


@pytest.mark.parametrize(
    "sent", [b"", b"GET /status HT", b"POST /motion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"]
)
def test_many_slow_connections_keep_nobody_else_out(sent: bytes) -> None:
    server = LoopbackHttp("127.0.0.1", 0, routes(), on_close=lambda: None)
    slow: list[socket.socket] = []
    try:
        slow = many_slow(server.port, 64, sent)
        for _ in range(3):
            assert get(f"http://127.0.0.1:{server.port}/status") == (200, b'{"clients": 1}')
    finally:
        for connection in slow:
            connection.close()
        server.close()


def test_answers_that_nobody_fetches_keep_nobody_else_out() -> None:
    picture = bytes(16 * 1024 * 1024)
    server = LoopbackHttp("127.0.0.1", 0, routes(snapshot=lambda: picture), on_close=lambda: None)
    slow: list[socket.socket] = []
    try:
        slow = many_slow(server.port, 64, b"GET /snapshot.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert get(f"http://127.0.0.1:{server.port}/status")[0] == 200
    finally:
        for connection in slow:
            connection.close()
        server.close()


def test_who_drips_is_cut_off_and_who_works_is_not() -> None:
    now_s = [0.0]
    waiting = Waiting(2, 20.0, now_s=lambda: now_s[0])
    pairs = [socket.socketpair() for _ in range(4)]
    ours = [pair[0] for pair in pairs]
    try:
        waiting.add(ours[0])
        with waiting.paused(ours[0]):
            for connection in ours[1:3]:
                waiting.add(connection)
            waiting.add(ours[3])
            now_s[0] = 19.0
            waiting.cut_late()
            assert [is_cut(pair[1]) for pair in pairs] == [False, True, False, False]
            waiting.forget(ours[3])
        now_s[0] = 20.0
        waiting.cut_late()
        assert [is_cut(pair[1]) for pair in pairs] == [False, True, True, False]
    finally:
        for connection in (one for pair in pairs for one in pair):
            connection.close()


def is_cut(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_socket_answers_one_line_and_passes_errors_on(tmp_path: Path) -> None:
    def reply(line: str) -> dict[str, Any]:
        if line == "status":
            return {"clients": 3}
        raise InvalidInput("commands are status and reload", hint="try")

    system = System(tmp_path)
    path = system.path("/run/rpi-cam/stream.sock")
    server = ControlSocket(path, reply)
    try:
        assert ask_daemon(system, "status") == {"clients": 3}
        with pytest.raises(MeetingctlError, match="commands are"):
            ask_daemon(system, "other")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            assert ask_daemon(system, "status", timeout_s=20) == {"clients": 3}
        with pytest.raises(Busy, match="another stream daemon"):
            ControlSocket(path, reply)
    finally:
        server.close()
    assert not path.exists()


@pytest.mark.parametrize("answer", [b"[" * 100_000, b'{"status": "x", "error": {}}', b"[]", b"no json", b""])
def test_an_odd_answer_is_an_error_of_ours(tmp_path: Path, answer: bytes) -> None:
    system = System(tmp_path)
    path = system.path("/run/rpi-cam/stream.sock")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(MeetingctlError):
            ask_daemon(system, "status", timeout_s=20)
        thread.join(20)


@pytest.mark.gst
def test_a_picture_of_the_running_stream(plain_stream: Stream, tmp_path: Path) -> None:
    status, body = get(plain_stream.http_url("/snapshot.jpg"))
    assert status == 200
    (tmp_path / "picture.jpg").write_bytes(body)
    argv = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0"]
    shown = subprocess.run(
        [*argv, str(tmp_path / "picture.jpg")], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout.strip() == "mjpeg,640,480"


@pytest.mark.gst
def test_hls_of_the_running_stream(plain_stream: Stream) -> None:
    argv = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0"]
    url = plain_stream.http_url("/hls/live.m3u8")
    assert b"#EXTM3U" in get(url)[1]
    shown = subprocess.run([*argv, url], capture_output=True, text=True, timeout=90, check=True)
    assert {"h264", "aac"} <= set(shown.stdout.replace(",", " ").split())
    assert get(plain_stream.http_url("/hls/../stream-local.json"))[0] == 404


@pytest.mark.gst
def test_figures_and_controls_of_the_running_stream(plain_stream: Stream) -> None:
    assert probe(plain_stream.url())["video"]
    assert b"meetingctl_stream_media_started_total" in get(plain_stream.http_url("/metrics"))[1]
    status, body = get(plain_stream.http_url("/controls"))
    assert (status, json.loads(body)["error"]) == (409, "no CSI camera is streamed")
