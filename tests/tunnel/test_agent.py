"""Our agent on its own: configuration, back-off, refusals, heartbeats, and odd servers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import ConfigError
from meetingctl.core.events import PORT_REFUSED
from meetingctl.core.secret import Secret
from meetingctl.tunnel.agent import Agent, AgentStatus, backoff_s
from meetingctl.tunnel.agentconfig import AgentConfig, load_meeting_json

from .conftest import MakeBed, StartAgent
from .support import KEY, TOKEN, Bed, agent_config, connect, echo, read_exactly, service, wait_until


def config(port: int = 9001, **changes: Any) -> AgentConfig:
    facts: dict[str, Any] = {
        "server_host": "127.0.0.1",
        "server_port": port,
        "device_key": KEY,
        "token": Secret(TOKEN),
        "backoff_first_s": 0.05,
        "backoff_most_s": 0.1,
        "dial_s": 0.5,
    }
    return AgentConfig(**(facts | changes))


@contextlib.contextmanager
def running(agent: Agent) -> Iterator[Agent]:
    agent.start()
    try:
        yield agent
    finally:
        agent.close()


@given(st.integers(0, 10_000), st.floats(0, 1), st.booleans())
def test_backoff_has_jitter_below_a_minute_or_a_quarter_of_one_while_the_api_answers(
    attempt: int, spread: float, is_api_up: bool
) -> None:
    facts = config(backoff_first_s=1.0, backoff_most_s=60.0)
    pause_s = backoff_s(attempt, facts, spread, is_api_up=is_api_up)
    assert 0.5 <= pause_s <= min(15.0 if is_api_up else 60.0, 2.0 ** min(attempt, 10))


def test_meeting_json_is_read_as_provisioned_devices_have_it(tmp_path: Path) -> None:
    path = tmp_path / "meeting.json"
    path.write_text(
        json.dumps(
            {
                "enabled": True,
                "api_url": "https://meeting.example.org/api",
                "device_key": "0123456789ABCDEF0123456789ABCDEF",
                "token_code": "3fa9c1",
                "heartbeat_interval": 60,
                "tunnel_host": "meeting.example.org",
                "tunnel_port": 9001,
                "tunnel_ssl": False,
                "something": "else",
            }
        )
    )
    loaded = load_meeting_json(path)
    assert (loaded.server_host, loaded.server_port, loaded.heartbeat_s) == ("meeting.example.org", 9001, 60.0)
    assert loaded.token.reveal() == "3fa9c1"
    assert "3fa9c1" not in repr(loaded)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[" * 50_000, "not valid JSON"),
        ("[" * 100_000, "too much for such a file"),
        ("[]", "not a JSON object"),
        ("{}", "does not know its tunnel server"),
        ('{"tunnel_host":"h"}', "no device key"),
        ('{"tunnel_host":"h","device_key":"K"}', "no token code"),
        ('{"tunnel_host":"h","device_key":"K","token_code":"T"}', "not a token code"),
        ('{"tunnel_host":"h","device_key":"K","token_code":"T","tunnel_port":0}', "tunnel server"),
        ('{"tunnel_host":"h","device_key":"K","token_code":"T","tunnel_port":"x"}', "tunnel_port is no number"),
        ('{"tunnel_host":"h","device_key":"K","token_code":"T","tunnel_ssl":true}', "tunnel_ssl"),
        ('{"tunnel_host":5}', "tunnel_host is no text"),
    ],
)
def test_a_bad_meeting_json_is_a_clear_error(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "meeting.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_meeting_json(path)


def test_a_missing_meeting_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_meeting_json(tmp_path / "meeting.json")


def test_a_wrong_token_is_told_and_the_agent_keeps_trying(bed: Bed) -> None:
    seen: list[AgentStatus] = []
    agent = Agent(agent_config(bed, token=Secret("BAD000")), on_status=seen.append)
    with running(agent):
        wait_until(lambda: sum(status.state == "waiting" for status in seen) >= 2)
    waiting = next(status for status in seen if status.state == "waiting")
    assert "unknown device or wrong token" in waiting.error
    assert seen[-1].state == "stopped"


def refused_agent(bed: Bed, *, on_status: Callable[[AgentStatus], None] | None) -> Agent:
    return Agent(agent_config(bed, token=Secret("BAD000")), on_status=on_status)


def test_without_a_listener_each_failure_is_one_record(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="meetingctl.tunnel.agent")
    with running(refused_agent(bed, on_status=None)):
        wait_until(lambda: any(record.getMessage() == "tunnel not connected" for record in caplog.records))


def test_with_a_listener_no_failure_is_told_twice(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="meetingctl.tunnel.agent")
    seen: list[AgentStatus] = []
    with running(refused_agent(bed, on_status=seen.append)):
        wait_until(lambda: sum(status.state == "waiting" for status in seen) >= 2)
    assert sum(status.state == "connecting" for status in seen) == 1
    assert not [record for record in caplog.records if record.name == "meetingctl.tunnel.agent"]


def test_a_port_that_is_not_listed_is_named_once_with_its_setting(
    bed: Bed, start_agent: StartAgent, caplog: pytest.LogCaptureFixture
) -> None:
    start_agent(bed, "new", 22)
    port = bed.open(22022)
    bed.wait_listening(port)
    for _ in range(3):
        with contextlib.suppress(ConnectionResetError), connect(port) as visitor:  # the reset may come first
            assert visitor.recv(1) == b""
    told = [record for record in caplog.records if "agent_ports" in record.getMessage()]
    assert [vars(record)["port"] for record in told] == [22022]
    assert vars(told[0])["variable"] == "MEETINGCTL_AGENT_PORTS"
    wait_until(lambda: any(event.kind == PORT_REFUSED for event in bed.directory.events))
    assert [event.detail for event in bed.directory.events if event.kind == PORT_REFUSED] == ["22022"]


@pytest.mark.parametrize(
    "reply", [b'{"error":"auth_failed"}\n', b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"x" * 5000, b'{"status":1}\n']
)
def test_anything_but_authenticated_is_a_refusal(reply: bytes) -> None:
    def answer(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(reply)

    with service(answer) as port:
        seen: list[AgentStatus] = []
        with running(Agent(config(port), on_status=seen.append)):
            wait_until(lambda: any(status.state == "waiting" for status in seen))
        assert not any(status.state == "online" for status in seen)


def test_a_server_that_never_answers_is_given_up() -> None:
    def say_nothing(sock: socket.socket) -> None:
        while sock.recv(4096):
            pass

    with service(say_nothing) as port, running(Agent(config(port, dial_s=0.3))) as agent:
        wait_until(lambda: "timed out" in agent.status().error)


def test_a_stop_is_noticed_while_waiting_for_an_answer() -> None:
    with service(lambda sock: [sock.recv(1), time.sleep(0.5)]) as port:  # type: ignore[arg-type, return-value]
        agent = Agent(config(port, dial_s=30))
        agent.start()
        wait_until(lambda: agent.status().state == "connecting")
        started_s = time.monotonic()
        agent.close()
        assert time.monotonic() - started_s < 2
        assert agent.status().state == "stopped"


def test_run_returns_when_the_given_event_is_set(bed: Bed) -> None:
    stop = threading.Event()
    agent = Agent(agent_config(bed))
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    bed.wait_online()
    assert agent.status().state == "online"
    stop.set()
    thread.join(3)
    assert not thread.is_alive()


def test_an_agent_reaches_a_server_by_ipv6(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(listen="[::1]:0")
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        assert bed.agents()[0]["peer"] == "::1"
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            visitor.sendall(b"six")
            assert read_exactly(visitor, 3) == b"six"


class Api(ThreadingHTTPServer):
    """An API that records requests and answers from a table: path -> status and object."""

    daemon_threads = True

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers = answers
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api"

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self._thread.join(5)
        super().__exit__(*args)


class Answer(BaseHTTPRequestHandler):
    """Answers one request of `Api`."""

    server: Api

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        self.server.requests.append((self.path, dict(self.headers), body))
        status, answer = self.server.answers.get(self.path, (404, {"error": "Device not found"}))
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        return


def test_heartbeats_carry_the_token_and_say_who_is_there(bed: Bed) -> None:
    with Api({f"/api/devices/{KEY}/online": (200, {"ok": True})}) as api:
        agent = Agent(agent_config(bed, api_url=api.url, heartbeat_s=0.05, installed_version="1.2.3"))
        with running(agent):
            wait_until(lambda: len(api.requests) >= 3)
        _, headers, body = api.requests[0]
        assert headers["X-Token-Code"] == TOKEN
        assert body["ip_lan"] == "127.0.0.1"
        assert body["installed_version"] == "1.2.3"


def test_heartbeats_carry_the_version_that_is_installed_at_that_moment(bed: Bed, tmp_path: Path) -> None:
    version = tmp_path / "VERSION"
    version.write_text("1.0.0\n")
    with Api({f"/api/devices/{KEY}/online": (200, {"ok": True})}) as api:
        agent = Agent(agent_config(bed, api_url=api.url, heartbeat_s=0.05, version_file=str(version)))
        with running(agent):
            wait_until(lambda: api.requests)
            version.write_text("1.1.0\n")
            wait_until(lambda: api.requests[-1][2].get("installed_version") == "1.1.0")
            version.write_text("../../x\n")
            wait_until(lambda: "installed_version" not in api.requests[-1][2])
        assert api.requests[0][2]["installed_version"] == "1.0.0"


def test_a_failing_api_does_not_disturb_the_tunnel(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    with Api({}) as api, running(Agent(agent_config(bed, api_url=api.url, heartbeat_s=0.05))):
        wait_until(lambda: len(api.requests) >= 3)
        bed.wait_online()
    assert sum(record.getMessage() == "heartbeat failed" for record in caplog.records) == 1


def test_a_heartbeat_that_gets_through_again_shortens_the_wait(bed: Bed) -> None:
    """The API comes back while the agent waits for a minute: it tries again soon, and not after that minute."""
    path, seen = f"/api/devices/{KEY}/online", []
    with Api({path: (503, {"error": "down"})}) as api:
        pauses = {"backoff_first_s": 60.0, "backoff_most_s": 60.0, "backoff_api_up_s": 0.1}
        facts = agent_config(bed, token=Secret("BAD000"), api_url=api.url, heartbeat_s=0.05, **pauses)
        with running(Agent(facts, on_status=seen.append)):
            wait_until(lambda: any(status.state == "waiting" for status in seen) and api.requests)
            assert next(status.retry_s for status in seen if status.state == "waiting") >= 30
            api.answers[path] = (200, {"ok": True})
            wait_until(lambda: sum(status.state == "waiting" for status in seen) >= 2)
