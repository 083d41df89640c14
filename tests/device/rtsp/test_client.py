from __future__ import annotations

import socket
import threading
import time

import pytest

from meetingctl.core.errors import AuthError, Busy, InvalidInput, MeetingctlError, NotFound, Unreachable
from meetingctl.core.secret import Secret
from meetingctl.device.rtsp import Endpoint, Login, check_options, describe, parse_url

from .servers import SDP, answering, gstreamer_server, reply

RIGHT = Login("admin", Secret('s3cret :@"'))
WRONG = Login("admin", Secret("guess"))


def endpoint(port: int, login: Login | None = None) -> Endpoint:
    return Endpoint("127.0.0.1", port, "stream", login)


class TestUrl:
    def test_login_is_decoded_and_kept_out_of_the_address(self) -> None:
        found = parse_url("rtsp://ad%40min:p%3Aw@cam.example:8554/a/b?c=d")
        assert found == Endpoint("cam.example", 8554, "a/b?c=d", Login("ad@min", Secret("p:w")))
        assert found.url == "rtsp://cam.example:8554/a/b?c=d"
        assert "p:w" not in repr(found)

    def test_defaults(self) -> None:
        assert parse_url("rtsp://[::1]") == Endpoint("::1", 554, "")
        assert parse_url("rtsp://[::1]").url == "rtsp://[::1]:554/"

    @pytest.mark.parametrize("text", ["", "http://h/x", "rtsp://", "rtsp://h:99999/x", "rtsp://[::1"])
    def test_refuses_what_is_no_address(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            parse_url(text)


class TestStatuses:
    @pytest.mark.parametrize(
        ("status", "leaf"),
        [
            ("401 Unauthorized", AuthError),
            ("403 Forbidden", AuthError),
            ("404 Not Found", NotFound),
            ("503 Service Unavailable", Busy),
            ("500 Oops", MeetingctlError),
        ],
    )
    def test_each_status_has_its_error(self, status: str, leaf: type[MeetingctlError]) -> None:
        with answering(lambda request: reply(request, status)) as port, pytest.raises(leaf) as caught:
            describe(endpoint(port), timeout_s=10)
        assert caught.type is leaf
        assert f"127.0.0.1:{port}" in caught.value.message

    def test_a_description_names_its_media(self) -> None:
        with answering(lambda request: reply(request, "200 OK", body=SDP)) as port:
            (media,) = describe(endpoint(port), timeout_s=10)
        assert (media.kind, media.codec) == ("video", "H264")

    def test_an_empty_description_is_a_failure(self) -> None:
        with (
            answering(lambda request: reply(request, "200 OK")) as port,
            pytest.raises(MeetingctlError, match="no media"),
        ):
            describe(endpoint(port), timeout_s=10)

    def test_an_answer_to_another_question_is_passed_over(self) -> None:
        def answer(request: str) -> bytes:
            return b"RTSP/1.0 500 Late\r\nCSeq: 77\r\n\r\n" + reply(request, "200 OK")

        with answering(answer) as port:
            check_options(endpoint(port), timeout_s=10)


class TestLogin:
    def test_a_stale_nonce_is_answered_once_more(self) -> None:
        seen: list[str] = []

        def answer(request: str) -> bytes:
            seen.append(request)
            if len(seen) < 3:
                return reply(request, "401 No", f'WWW-Authenticate: Digest realm="r", nonce="{len(seen)}", stale=true')
            return reply(request, "200 OK", body=SDP)

        with answering(answer) as port:
            describe(endpoint(port, RIGHT), timeout_s=10)
        assert "Authorization" not in seen[0]
        assert 'nonce="1"' in seen[1]
        assert 'nonce="2"' in seen[2]

    def test_a_wrong_password_is_tried_once(self) -> None:
        """A server that locks an account after failures must not meet a client that repeats them."""
        seen: list[str] = []

        def answer(request: str) -> bytes:
            seen.append(request)
            return reply(request, "401 No", 'WWW-Authenticate: Digest realm="r", nonce="n"')

        with answering(answer) as port, pytest.raises(AuthError, match="wrong user or password"):
            describe(endpoint(port, WRONG), timeout_s=10)
        assert len(seen) == 2

    def test_a_server_that_is_never_content_ends_the_exchange(self) -> None:
        seen: list[str] = []

        def answer(request: str) -> bytes:
            seen.append(request)
            return reply(request, "401 No", 'WWW-Authenticate: Digest realm="r", nonce="n", stale=true')

        with answering(answer) as port, pytest.raises(AuthError):
            describe(endpoint(port, WRONG), timeout_s=10)
        assert len(seen) == 3

    def test_without_a_login_none_is_sent(self) -> None:
        with (
            answering(lambda request: reply(request, "401 No", 'WWW-Authenticate: Basic realm="r"')) as port,
            pytest.raises(AuthError, match="a login is needed"),
        ):
            describe(endpoint(port), timeout_s=10)


class TestBrokenPeers:
    def test_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(Unreachable, match="refused"):
                check_options(endpoint(taken.getsockname()[1]), timeout_s=10)

    def test_a_peer_that_accepts_and_never_answers_costs_the_deadline_only(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            begun = time.monotonic()
            with pytest.raises(Unreachable, match=r"within 0\.3 s"):
                describe(endpoint(listener.getsockname()[1]), timeout_s=0.3)
            assert time.monotonic() - begun < 10

    def test_a_peer_that_drips_cannot_stretch_the_deadline(self) -> None:
        def drip(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    while True:
                        connection.sendall(b"$\x00\x00\x01x")
                except OSError:
                    return

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=drip, args=(listener,), daemon=True)
            thread.start()
            with pytest.raises(Unreachable, match="within"):
                describe(endpoint(listener.getsockname()[1]), timeout_s=0.3)
            thread.join(10)
            assert not thread.is_alive()

    def test_a_peer_that_hangs_up(self) -> None:
        with answering(lambda request: None) as port, pytest.raises(Unreachable, match=r"closed|reset"):
            check_options(endpoint(port), timeout_s=10)

    def test_a_web_server(self) -> None:
        with (
            answering(lambda request: b"HTTP/1.1 400 Bad Request\r\n\r\n") as port,
            pytest.raises(MeetingctlError, match="does not speak RTSP"),
        ):
            check_options(endpoint(port), timeout_s=10)


@pytest.mark.gst
class TestGStreamer:
    """The server that devices run, in a process of its own."""

    @pytest.mark.parametrize("methods", [1, 2, 3], ids=["basic", "digest", "both"])
    def test_login(self, methods: int) -> None:
        with gstreamer_server(methods=methods) as port:
            (media,) = describe(endpoint(port, RIGHT), timeout_s=30)
            assert (media.kind, media.codec, media.clock_hz) == ("video", "H264", 90000)
            with pytest.raises(AuthError, match="wrong user or password"):
                describe(endpoint(port, WRONG), timeout_s=30)
            with pytest.raises(AuthError, match="a login is needed"):
                describe(endpoint(port), timeout_s=30)
            # OPTIONS proves no login: GStreamer answers it without one.
            check_options(endpoint(port), timeout_s=30)

    def test_no_login_and_a_wrong_path(self) -> None:
        with gstreamer_server(methods=0) as port:
            describe(endpoint(port), timeout_s=30)
            with pytest.raises(NotFound):
                describe(Endpoint("127.0.0.1", port, "other"), timeout_s=30)
