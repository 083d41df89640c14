"""The agent port refuses clearly, forgets quickly, and keeps working for everybody else."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import replace
from typing import Any

import pytest

from meetingctl.core.errors import Conflict
from meetingctl.core.events import AGENT_REFUSED
from meetingctl.tunnel import codec
from meetingctl.tunnel.handshake import encode_hello
from meetingctl.tunnel.rules import ProxyLimits

from .conftest import MakeBed, StartAgent
from .support import FREE, KEY, TOKEN, Bed, connect, echo, open_descriptors, read_all, read_exactly, service, wait_until

SHORT = replace(FREE, handshake_s=0.5, refusal_drain_s=0.2)


def ask(bed: Bed, request: bytes) -> dict[str, Any]:
    """Send a request line and return the reply, read to the end of the connection."""
    with connect(bed.port) as sock:
        sock.sendall(request)
        reply: dict[str, Any] = json.loads(read_all(sock))
        return reply


def join(bed: Bed, *, token: str = TOKEN, key: str = KEY) -> socket.socket:
    """Connect as an old agent that is up to no good after the handshake."""
    sock = connect(bed.port)
    sock.sendall(encode_hello(key, token, None))
    reply = b""
    while not reply.endswith(b"\n"):
        reply += sock.recv(1)
    assert json.loads(reply)["status"] == "authenticated"
    return sock


@pytest.mark.parametrize(
    "request_line",
    [
        encode_hello(KEY, "BAD000", None),
        encode_hello("NOBODY", TOKEN, None),
        encode_hello("../../etc", TOKEN, None),
        encode_hello("generate-key", TOKEN, None),
        encode_hello("", "", None),
        b'{"name":"\\ud800","token":"\\ud800"}\n',
    ],
)
def test_wrong_credentials_all_get_the_same_refusal(bed: Bed, request_line: bytes) -> None:
    reply = ask(bed, request_line)
    assert reply["status"] == "error"
    assert reply["error"] == "auth_failed"
    assert reply["reason"] == reply["message"] == "unknown device or wrong token"


@pytest.mark.parametrize(
    "request_line",
    [
        b"x" * 5000,
        b'{"token":"' + b"x" * 5000 + b'"}\n',
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"[]\n",
        b"\n",
        b'{"name":"CAM-1"}\n',
        b"{" + b"[" * 4000 + b"\n",
    ],
)
def test_malformed_handshakes_are_refused_and_not_kept(make_bed: MakeBed, request_line: bytes) -> None:
    bed = make_bed(limits=SHORT)
    assert ask(bed, request_line)["status"] == "error"
    wait_until(lambda: bed.snapshot()["pending_handshakes"] == 0)


def test_silence_is_refused_after_the_limit(make_bed: MakeBed) -> None:
    bed = make_bed(limits=SHORT)
    started_s = time.monotonic()
    assert ask(bed, b"")["reason"] == "no handshake within 0.5 s"
    assert 0.4 < time.monotonic() - started_s < 3
    with connect(bed.port) as sock:
        for byte in b'{"tok':
            sock.sendall(bytes([byte]))
            time.sleep(0.02)
        assert json.loads(read_all(sock))["status"] == "error"


def test_the_token_is_compared_without_case(bed: Bed) -> None:
    join(bed, token=TOKEN.lower()).close()


def test_five_wrong_tokens_close_the_door_also_for_the_right_one(make_bed: MakeBed) -> None:
    bed = make_bed(limits=SHORT)
    for number in range(5):
        ask(bed, encode_hello(KEY, f"BAD00{number}", None))
    assert ask(bed, encode_hello(KEY, TOKEN, None))["reason"] == "unknown device or wrong token"
    assert bed.do(bed.proxy.counters)["handshakes"]["limited",] == 1


def test_refused_credentials_are_reported_once_per_address_and_minute(bed: Bed) -> None:
    for _ in range(3):
        ask(bed, encode_hello("CAM-9", TOKEN, None))
    wait_until(lambda: any(event.kind == AGENT_REFUSED for event in bed.directory.events))
    join(bed).close()
    wait_until(lambda: any(event.kind == "agent lost" for event in bed.directory.events))
    refused = [event for event in bed.directory.events if event.kind == AGENT_REFUSED]
    assert [(event.device_key, event.detail) for event in refused] == [("CAM-9", "127.0.0.1")]


def test_a_refused_agent_without_a_device_key_is_reported_without_one(bed: Bed) -> None:
    ask(bed, encode_hello("../../etc", TOKEN, None))
    wait_until(lambda: any(event.kind == AGENT_REFUSED for event in bed.directory.events))
    assert [event.device_key for event in bed.directory.events if event.kind == AGENT_REFUSED] == [""]


def test_waiting_to_be_authorized_is_no_guessing(make_bed: MakeBed) -> None:
    bed = make_bed(limits=replace(SHORT, failures_per_device=2, failures_per_address=2, noise_per_address=2))
    bed.directory.unauthorized.add(KEY)
    for _ in range(4):
        assert ask(bed, encode_hello(KEY, TOKEN, None))["reason"] == "device not authorized"
    bed.directory.unauthorized.clear()
    join(bed).close()


def test_a_refused_device_does_not_lock_out_its_neighbour(make_bed: MakeBed) -> None:
    bed = make_bed(limits=replace(SHORT, failures_per_device=3, failures_per_address=3, noise_per_address=3))
    for _ in range(5):
        ask(bed, encode_hello("CAM-OLD", "BAD000", None))
        ask(bed, encode_hello("no key", "BAD000", None))
        ask(bed, b"GET / HTTP/1.1\r\n\r\n")
    join(bed).close()


def test_a_guesser_does_not_lock_out_the_device_at_its_own_address(make_bed: MakeBed) -> None:
    bed = make_bed(limits=SHORT)
    join(bed).close()
    for number in range(6):
        ask(bed, encode_hello(KEY, f"BAD00{number}", None))
    join(bed).close()


def test_a_registry_that_is_down_is_no_failure_of_the_device(
    make_bed: MakeBed, caplog: pytest.LogCaptureFixture
) -> None:
    bed = make_bed(limits=SHORT)
    bed.directory.fails = True
    for _ in range(6):
        assert "right now" in ask(bed, encode_hello(KEY, TOKEN, None))["reason"]
    bed.directory.fails = False
    join(bed).close()


@pytest.mark.parametrize(
    "noise",
    [
        codec.HEADER.pack(codec.DATA, 1, codec.MAX_FRAME_BYTES + 1),
        codec.HEADER.pack(codec.DATA, 1, 2**32 - 1),
        codec.encode_open(1, 22, credit_bytes=None),
        codec.encode_frame(codec.WINDOW, 1, b"\0\0\0\1"),
        codec.encode_frame(codec.END, 1),
        b"\0" * 64,
        pytest.param(os.urandom(4) + b"\xff" * 60, id="random"),
    ],
)
def test_a_connection_that_breaks_the_protocol_is_dropped(bed: Bed, noise: bytes) -> None:
    with join(bed) as sock:
        bed.wait_online()
        sock.sendall(noise)
        with contextlib.suppress(ConnectionResetError):
            assert read_all(sock) == b""
    wait_until(lambda: not bed.agents())
    assert bed.do(bed.proxy.counters)["kills"]["protocol error",] == 1


def test_frames_for_forgotten_streams_are_ignored(bed: Bed) -> None:
    with join(bed) as sock:
        for stream_id in (0, 1, 77, 2**32 - 1):
            sock.sendall(codec.encode_frame(codec.DATA, stream_id, b"late"))
            sock.sendall(codec.encode_frame(codec.CLOSE, stream_id))
        sock.sendall(codec.encode_frame(codec.DATA, 0))
        bed.wait_online()
        time.sleep(0.1)
        assert bed.agents()


def test_frames_right_behind_the_handshake_are_not_lost(bed: Bed) -> None:
    with connect(bed.port) as sock:
        sock.sendall(encode_hello(KEY, TOKEN, None) + b"\0" * 9)
        reply = read_all(sock)
        assert json.loads(reply)["status"] == "authenticated"
    wait_until(lambda: bed.do(bed.proxy.counters)["kills"].get(("protocol error",)) == 1)


def test_half_open_handshakes_are_bounded_and_leave_nothing(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(limits=replace(SHORT, handshake_s=1.5, handshake_pending=64, handshake_pending_per_address=50))
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        before = open_descriptors()
        with contextlib.ExitStack() as stack:
            for count in range(2000):
                with contextlib.suppress(ConnectionResetError):
                    sock = connect(bed.port)
                    if count < 200:
                        stack.enter_context(sock)
                    else:
                        sock.close()
            assert bed.snapshot()["pending_handshakes"] <= 50
            with connect(port) as visitor:
                visitor.sendall(b"still here")
                assert read_exactly(visitor, 10) == b"still here"
        wait_until(lambda: bed.snapshot()["pending_handshakes"] == 0)
        wait_until(lambda: open_descriptors() <= before + 2)
        join(bed).close()


def test_a_flood_of_silent_connections_does_not_keep_an_agent_out(make_bed: MakeBed) -> None:
    bed = make_bed(limits=replace(FREE, handshake_pending=20, handshake_pending_per_address=20))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(bed.port, timeout_s=3)) for _ in range(60)]
        join(bed).close()
        with pytest.raises(ConnectionResetError):
            silent[0].recv(1)
        wait_until(lambda: bed.do(bed.proxy.counters)["handshakes"].get(("too many pending",), 0) >= 40)
        assert bed.snapshot()["pending_handshakes"] <= 20


def test_too_many_failures_of_an_address_close_it(make_bed: MakeBed) -> None:
    bed = make_bed(limits=replace(SHORT, failures_per_address=3))
    for number in range(3):
        ask(bed, encode_hello(f"GUESS-{number}", TOKEN, None))
    assert ask(bed, encode_hello(KEY, TOKEN, None))["status"] == "error"


def test_a_device_that_dials_in_all_the_time_is_refused_and_fills_no_log(make_bed: MakeBed) -> None:
    bed = make_bed(limits=replace(SHORT, handshakes_per_device_per_min=12, events_per_device_per_min=3))
    bed.directory.tokens["CAM-2"] = TOKEN
    for _ in range(12):
        join(bed).close()
    assert ask(bed, encode_hello(KEY, TOKEN, None))["reason"] == "too many connections"
    join(bed, key="CAM-2").close()
    wait_until(lambda: any(event.device_key == "CAM-2" for event in bed.directory.events))
    kinds = [event.kind for event in bed.directory.events if event.device_key == KEY]
    assert kinds.count("agent up") == 3
    assert kinds.count("agent lost") <= 3


def test_a_taken_agent_port_is_a_clear_error(make_bed: MakeBed, bed: Bed) -> None:
    with pytest.raises(Conflict, match="cannot listen for agents") as caught:
        make_bed(listen=f"127.0.0.1:{bed.port}")
    assert "--listen" in (caught.value.hint or "")


def test_an_agent_that_cannot_read_the_reply_is_reported(bed: Bed) -> None:
    for _ in range(3):
        join(bed).close()
        wait_until(lambda: not bed.agents())
    wait_until(lambda: any(event.kind == "agent too old" for event in bed.directory.events))


def test_defaults_are_those_of_the_design() -> None:
    limits = ProxyLimits()
    assert (limits.handshake_s, limits.handshake_pending, limits.handshake_pending_per_address) == (10.0, 4096, 256)
    assert (limits.failures_per_device, limits.failures_per_address, limits.failure_window_s) == (5, 20, 900.0)
    assert (limits.streams_per_old_agent, limits.streams_per_new_agent, limits.streams_per_tunnel) == (64, 1024, 256)
