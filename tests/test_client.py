"""The client against a real HTTP server that misbehaves on request."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from meetingctl.client import FleetClient, choose_wait_s
from meetingctl.client import connection as client_module
from meetingctl.core.errors import (
    AuthError,
    Busy,
    Conflict,
    Forbidden,
    InvalidInput,
    MeetingctlError,
    NotFound,
    RateLimited,
    StorageFull,
    TooLarge,
    Unreachable,
)
from meetingctl.core.secret import Secret

Answer = tuple[int, dict[str, str], bytes]


class Peer:
    """A server that gives prepared answers in order, the last one for ever, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                peer.requests.append((self.command, self.path, headers, body))
                answer = peer.answers.pop(0) if len(peer.answers) > 1 else peer.answers[0]
                if callable(answer):
                    answer(self)
                    return
                status, extra, content = answer
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def says(self, status: int, value: Any, **headers: str) -> Peer:
        extra = {name.replace("_", "-"): text for name, text in headers.items()}
        self.answers.append((status, extra, json.dumps(value).encode()))
        return self

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_FIRST_S", 0.001)


@pytest.mark.parametrize(
    ("status", "leaf"),
    [
        (400, InvalidInput),
        (401, AuthError),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, TooLarge),
        (422, InvalidInput),
        (500, MeetingctlError),
        (507, StorageFull),
    ],
)
@pytest.mark.parametrize(
    "body", [{"error": "Device not found"}, {"ok": False, "error": "NOT_FOUND", "message": "Device not found"}]
)
def test_an_error_status_becomes_its_leaf(status: int, leaf: type, body: dict[str, Any], peer: Peer) -> None:
    peer.says(status, body)
    with FleetClient(peer.url) as client, pytest.raises(leaf) as caught:
        client.request("POST", "/api/x", json={})
    assert type(caught.value) is leaf
    assert caught.value.message == "device not found"


def test_an_error_says_what_it_is_about_and_what_to_do(peer: Peer) -> None:
    peer.says(404, {"error": "Device not found"}).says(401, {"error": "Invalid key"}).says(500, {"error": "DB error"})
    with FleetClient(peer.url) as client:
        with pytest.raises(NotFound, match=r"^cam-7: device not found$") as caught:
            client.get_device("cam-7")
        assert caught.value.hint == "meetingctl fleet list"
        with pytest.raises(AuthError) as refused:
            client.whoami()
        assert refused.value.hint == "meetingctl login"
        with pytest.raises(MeetingctlError, match=r"^cam-7: DB error$"):
            client.get_device("cam-7")


def test_a_refusal_names_the_role_that_is_needed(peer: Peer) -> None:
    peer.says(403, {"error": "Forbidden"}).says(
        403, {"error": "Forbidden"}, WWW_Authenticate='Bearer error="insufficient_scope", scope="admin"'
    )
    with FleetClient(peer.url) as client:
        with pytest.raises(Forbidden, match=r"^API keys: a higher role is needed$") as caught:
            client.list_keys()
        assert caught.value.hint == "meetingctl whoami"
        with pytest.raises(Forbidden, match=r"^cam-7: needs role admin$"):
            client.delete_device("cam-7")


def test_a_hint_in_the_header_is_heard_where_we_have_none(peer: Peer) -> None:
    peer.says(409, {"error": "A rollout runs on this channel"}, X_Hint="meetingctl fleet rollout status 3")
    peer.says(404, {"error": "Device not found"}, X_Hint="ask the north site")
    peer.says(409, {"error": "Webhook is off"}, X_Hint="x" * 5000)
    with FleetClient(peer.url) as client:
        with pytest.raises(Conflict) as running:
            client.rollouts.start({})
        with pytest.raises(NotFound) as absent:
            client.get_device("cam-7")
        with pytest.raises(Conflict) as flooded:
            client.request("POST", "/api/x", json={})
    assert running.value.hint == "meetingctl fleet rollout status 3"
    assert absent.value.hint == "meetingctl fleet list"
    assert flooded.value.hint is None


def test_the_hint_of_the_server_comes_first(peer: Peer) -> None:
    peer.says(403, {"error": "Device not authorized", "hint": "ask the north site"})
    with FleetClient(peer.url) as client, pytest.raises(Forbidden) as caught:
        client.open_tunnel("cam-7", "ssh")
    assert caught.value.hint == "ask the north site"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_get_is_repeated_and_post_is_not(status: int, peer: Peer) -> None:
    peer.says(status, {"error": "Busy"}).says(status, {"error": "Busy"}).says(200, {"ok": True})
    with FleetClient(peer.url) as client:
        assert client.request("GET", "/api/x") == {"ok": True}
        assert len(peer.requests) == 3
        peer.answers.clear()
        peer.says(status, {"error": "Busy"})
        with pytest.raises(MeetingctlError):
            client.request("POST", "/api/x", json={})
        assert len(peer.requests) == 4


def test_get_gives_up_after_three_repetitions(peer: Peer) -> None:
    peer.says(503, {"error": "No available port in range"})
    with FleetClient(peer.url) as client, pytest.raises(Busy, match="no available port"):
        client.request("GET", "/api/x")
    assert len(peer.requests) == 4


def test_a_lost_connection_is_repeated_for_get_only(peer: Peer) -> None:
    peer.answers.append(hang_up)
    peer.says(200, {"ok": True})
    with FleetClient(peer.url) as client:
        assert client.request("GET", "/api/x") == {"ok": True}
        peer.answers[:] = [hang_up]
        with pytest.raises(Unreachable):
            client.request("POST", "/api/x", json={})
    assert len(peer.requests) == 3


def test_retry_after_is_honoured_up_to_its_cap(peer: Peer) -> None:
    peer.says(429, {"error": "Slow down"}, Retry_After="1").says(200, {})
    peer.says(429, {"error": "Slow down"}, Retry_After="600")
    with FleetClient(peer.url) as client:
        began_s = time.monotonic()
        client.request("GET", "/api/x")
        assert time.monotonic() - began_s >= 1
        with pytest.raises(RateLimited) as caught:
            client.request("GET", "/api/x")
    assert caught.value.retry_after_s == 600
    assert caught.value.hint == "try again in 600 s"
    assert time.monotonic() - began_s < 5


def test_one_deadline_covers_all_attempts(peer: Peer) -> None:
    peer.says(429, {"error": "Slow down"}, Retry_After="5")
    with FleetClient(peer.url, timeout_s=1) as client, pytest.raises(RateLimited):
        client.request("GET", "/api/x")
    assert len(peer.requests) == 1


def test_a_server_that_never_answers_is_cut_at_the_deadline(peer: Peer) -> None:
    silent = threading.Event()
    peer.answers.append(lambda handler: silent.wait(10) and None)
    began_s = time.monotonic()
    with FleetClient(peer.url, timeout_s=0.3) as client, pytest.raises(Unreachable, match=r"within 0\.3 s"):
        client.request("GET", "/api/x")
    assert time.monotonic() - began_s < 3
    silent.set()


def test_a_reply_that_trickles_is_cut_at_the_deadline(peer: Peer) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            handler.close_connection = True

    peer.answers.append(trickle)
    began_s = time.monotonic()
    with FleetClient(peer.url, timeout_s=0.4) as client, pytest.raises(Unreachable):
        client.request("GET", "/api/x")
    assert time.monotonic() - began_s < 3


def test_a_reply_without_end_is_cut_at_its_cap(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "REPLY_CAP_BYTES", 1000)
    peer.says(200, "x" * 2000)
    with FleetClient(peer.url) as client, pytest.raises(MeetingctlError, match="over 1000 bytes"):
        client.request("GET", "/api/x")


def test_nobody_there() -> None:
    with FleetClient("http://127.0.0.1:9") as client, pytest.raises(Unreachable) as caught:
        client.health()
    assert caught.value.message == "cannot reach http://127.0.0.1:9: connection refused"
    assert caught.value.hint == "meetingctl serve all"


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": ' * 70 + b"1" + b"}" * 70,
        b'{"total": Infinity}',
        b'{"n": 1e999}',
        b'{"n": %d}' % 2**64,
        b'{"n": %s}' % (b"1" * 5000),
    ],
)
def test_a_reply_that_is_no_json(content: bytes, peer: Peer) -> None:
    peer.answers.append((200, {"Content-Type": "text/html"}, content))
    with FleetClient(peer.url) as client, pytest.raises(MeetingctlError, match="no JSON"):
        client.whoami()


@pytest.mark.parametrize("value", [[], "text", {"devices": None}, {"devices": [1]}])
def test_json_of_another_shape(value: Any, peer: Peer) -> None:
    peer.says(200, value)
    with FleetClient(peer.url) as client, pytest.raises(MeetingctlError, match="expected"):
        list(client.list_devices())


def test_a_redirection_is_not_followed_with_the_key(peer: Peer) -> None:
    peer.says(302, {}, Location="http://127.0.0.1:9/elsewhere")
    with FleetClient(peer.url, api_key=Secret("mk_a_b")) as client, pytest.raises(MeetingctlError, match="302"):
        client.whoami()
    assert len(peer.requests) == 1


@pytest.mark.parametrize("tail", ["", "/", "/api", "/api/"])
def test_the_base_url_may_end_in_api(tail: str, peer: Peer) -> None:
    peer.says(200, {})
    with FleetClient(peer.url + tail) as client:
        client.whoami()
    assert peer.requests[0][1] == "/api/whoami"


@pytest.mark.parametrize("url", ["", "fleet.example", "ftp://x", "http://"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(InvalidInput, match="not a server URL"):
        FleetClient(url)


def test_credentials_travel_in_their_headers(peer: Peer) -> None:
    peer.says(200, {})
    with FleetClient(peer.url, api_key=Secret("mk_a_b")) as client:
        client.whoami()
    with FleetClient(peer.url, token_code=Secret("3FA9C1")) as client:
        client.send_heartbeat("cam-7")
    assert peer.requests[0][2]["authorization"] == "Bearer mk_a_b"
    assert "authorization" not in peer.requests[1][2]
    assert peer.requests[1][2]["x-token-code"] == "3FA9C1"


def test_a_device_key_cannot_leave_its_place_in_the_path(peer: Peer) -> None:
    peer.says(200, {})
    with FleetClient(peer.url) as client:
        client.delete_device("../keys?x=1#y")
    assert peer.requests[0][1] == "/api/devices/..%2Fkeys%3Fx%3D1%23y"


def test_a_device_is_read_without_its_secrets_unless_asked(peer: Peer) -> None:
    peer.says(200, {})
    with FleetClient(peer.url) as client:
        client.get_device("cam-7")
        client.get_device("cam-7", secrets=True)
    paths = [path for _, path, _, _ in peer.requests]
    assert paths == ["/api/devices/cam-7?secrets=0", "/api/devices/cam-7?secrets=1"]


def test_a_proxy_of_the_environment_is_not_used_for_loopback(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    peer.says(200, {})
    with FleetClient(peer.url) as client:
        assert client.whoami() == {}


def test_devices_come_page_by_page(peer: Peer) -> None:
    rows = [{"device_key": f"cam-{number}"} for number in range(250)]
    for start in (0, 100, 200):
        peer.says(200, {"devices": rows[start : start + 100], "total": 250})
    with FleetClient(peer.url) as client:
        assert list(client.list_devices(prefix="cam")) == rows
    assert [path.partition("?")[2] for _, path, _, _ in peer.requests] == [
        "limit=100&offset=0&prefix=cam",
        "limit=100&offset=100&prefix=cam",
        "limit=100&offset=200&prefix=cam",
    ]


def test_paging_ends_when_the_server_runs_dry(peer: Peer) -> None:
    peer.says(200, {"devices": [{"device_key": "a"}], "total": 9}).says(200, {"devices": [], "total": 9})
    with FleetClient(peer.url) as client:
        assert len(list(client.list_devices())) == 1


@pytest.mark.parametrize("total", [10**15, 2**63 - 1])
def test_a_page_that_is_not_full_is_the_last_one(total: int, peer: Peer) -> None:
    peer.says(200, {"devices": [{"device_key": "a"}], "total": total})
    with FleetClient(peer.url) as client:
        assert len(list(client.list_devices())) == 1
    assert len(peer.requests) == 1


def test_a_list_without_end_ends_with_the_deadline(peer: Peer) -> None:
    peer.says(200, {"devices": [{"device_key": "a"}] * 100, "total": 10**15})
    with FleetClient(peer.url, timeout_s=0.3) as client, pytest.raises(Unreachable) as caught:
        list(client.list_devices())
    assert caught.value.message in {
        "devices: the list did not end within 0.3 s",
        f"no answer from {peer.url} within 0.3 s",
    }


def test_a_slow_reader_of_a_list_is_no_fault_of_the_server(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in (0, 100):
        peer.says(200, {"devices": [{"device_key": str(start + n)} for n in range(100)], "total": 200})
    with FleetClient(peer.url) as client:
        devices = client.list_devices()
        next(devices)
        now_s = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now_s + 3600)
        assert sum(1 for _ in devices) == 199


def test_a_server_that_sends_all_at_once_is_asked_once(peer: Peer) -> None:
    peer.says(200, {"devices": [{"device_key": str(n)} for n in range(150)], "total": 10**6})
    with FleetClient(peer.url) as client:
        assert len(list(client.list_devices())) == 150
        assert len(list(client.list_devices(limit=7))) == 7


_STRANGE: list[tuple[Callable[[FleetClient], Any], Any]] = [
    (lambda client: list(client.list_devices()), {"devices": [], "total": "many"}),
    (lambda client: list(client.list_devices()), {"devices": [], "total": 1.5}),
    (lambda client: list(client.list_devices()), {"devices": [], "total": -1}),
    (lambda client: list(client.list_devices()), {"devices": [{"tags": 7}], "total": 1}),
    (lambda client: client.get_device("cam-7"), {"local_ports": {"ssh": 65536}}),
    (lambda client: client.get_services("cam-7"), {"services": "ssh"}),
    (lambda client: client.generate_key(), {"devicekey": None}),
    (lambda client: client.generate_key(), {"devicekey": ["x"]}),
    (lambda client: client.open_tunnel("cam-7", "ssh"), {"url": "http://gate.example:9050"}),
    (lambda client: client.open_tunnel("cam-7", "ssh"), {"port": "9050", "url": "x"}),
    (lambda client: client.open_tunnel("cam-7", "ssh"), {"port": True, "url": "x"}),
    (lambda client: client.open_tunnel("cam-7", "ssh"), {"port": 9050, "url": "http://[x"}),
    (lambda client: client.open_tunnel("cam-7", "ssh"), {"port": 9050, "url": "ssh device@" + "x" * 64}),
    (lambda client: client.get_tunnel(9050), {"port": 9050, "expires_at": "tomorrow"}),
    (lambda client: client.list_tunnels(), {"tunnels": [{}]}),
    (lambda client: client.close_all_tunnels(), {"closed": [1]}),
    (lambda client: client.tunnel_stats(), {"stats": [], "agents": ["x"]}),
    (lambda client: client.create_key("ci", role="viewer"), {"id": "a"}),
    (lambda client: client.list_logs("cam-7", limit=1), [1]),
    (lambda client: client.list_logs("cam-7", limit=1), {}),
    (lambda client: client.health(), {"status": ["ok"]}),
    (lambda client: list(client.list_audit()), {"records": [{"time": "x"}]}),
    (lambda client: list(client.list_audit()), {"records": [{"id": "x"}]}),
    (lambda client: list(client.list_audit()), {"records": [{"id": 1}, {"id": 2}]}),
]


@pytest.mark.parametrize(("ask", "value"), _STRANGE)
def test_fields_of_another_kind_are_one_clear_error(ask: Callable[[FleetClient], Any], value: Any, peer: Peer) -> None:
    peer.says(200, value)
    with FleetClient(peer.url) as client, pytest.raises(MeetingctlError) as caught:
        ask(client)
    assert ": the server answered with something else: expected " in caught.value.message
    assert caught.value.hint == "meetingctl doctor"


def test_an_audit_log_that_turns_in_a_circle_is_refused(peer: Peer) -> None:
    peer.says(200, {"records": [{"id": 9}, {"id": 8}], "next": 8})
    with FleetClient(peer.url) as client, pytest.raises(MeetingctlError, match="from new to old"):
        list(client.list_audit(limit=None))


def test_text_that_is_no_unicode_can_be_written(peer: Peer) -> None:
    peer.answers.append((200, {}, b'{"note": "a\\ud800b", "name": "\\ud83d\\ude00"}'))
    with FleetClient(peer.url) as client:
        assert client.get_device("cam-7") == {"note": "a?b", "name": "\U0001f600"}


def test_audit_pages_stop_at_the_limit(peer: Peer) -> None:
    peer.says(200, {"records": [{"id": 9}, {"id": 8}], "next": 8}).says(200, {"records": [{"id": 7}], "next": 7})
    with FleetClient(peer.url) as client:
        assert [record["id"] for record in client.list_audit(limit=3)] == [9, 8, 7]
    assert "before=8" in peer.requests[1][1]


def test_the_whole_audit_log_comes_in_big_pages(peer: Peer) -> None:
    peer.says(200, {"records": [{"id": 9}, {"id": 8}], "next": 8}).says(200, {"records": [{"id": 7}], "next": None})
    with FleetClient(peer.url) as client:
        assert [record["id"] for record in client.list_audit(limit=None)] == [9, 8, 7]
    assert "limit=1000" in peer.requests[0][1]


def test_health_compares_clocks(peer: Peer) -> None:
    peer.says(200, {"status": "ok"})
    with FleetClient(peer.url) as client:
        health = client.health()
    assert health.facts == {"status": "ok"}
    assert health.clock_skew_s is not None
    assert abs(health.clock_skew_s) < 5


@pytest.mark.parametrize("attempt", range(12))
def test_pauses_stay_below_the_cap(attempt: int) -> None:
    assert all(0 <= choose_wait_s(attempt, None) <= client_module.BACKOFF_CAP_S for _ in range(50))
    assert choose_wait_s(attempt, 7.0) == 7.0


def test_it_loads_no_library_that_writes_to_a_terminal() -> None:
    program = (
        "import sys, meetingctl.client; loaded = {'rich', 'pygments', 'click', 'httpx._main'} & set(sys.modules); "
        "assert not loaded, loaded; import httpx; httpx.Client().close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
