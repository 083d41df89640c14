"""A whole server: start, first key, one at a time, busy ports, draining, and being killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import httpx
import pytest
from planes import CODE, Live, wait_for

from meetingctl.core.errors import ConfigError, Conflict
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.server.run import bind_listener, check_mode, told_host

BOOTSTRAP = "b" * 40
_SERVE = """
import sys
from pathlib import Path
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.server.run import serve_all
settings = Settings(api_listen="127.0.0.1:0", bootstrap_token=Secret(sys.argv[2]), heartbeat_interval_s=0.001)
serve_all(settings, Path(sys.argv[1]), frozenset({"api"}))
"""


def test_first_start_makes_a_key_and_leaves_it_for_the_command_line(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Live(data_dir) as live:
        key = live.plane.first_key
        assert key is not None
        path = data_dir / "credentials.toml"
        kept = tomllib.loads(path.read_text())["default"]
        assert kept == {"server_url": live.url, "api_key": key}
        assert path.stat().st_mode & 0o777 == 0o600
        assert data_dir.stat().st_mode & 0o077 == 0
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{live.url}/api/whoami", headers=headers, trust_env=False).json()["role"] == "admin"
    with Live(data_dir) as again:
        assert again.plane.first_key is None, "shown once"
        kept = tomllib.loads(path.read_text())["default"]
        assert kept == {"server_url": again.url, "api_key": key}, "the address follows, the key stays"


def test_bootstrap_token_is_the_first_key_and_is_not_written(tmp_path: Path) -> None:
    with Live(tmp_path, bootstrap_token=Secret(BOOTSTRAP)) as live:
        assert live.plane.first_key is None
        headers = {"authorization": f"Bearer {BOOTSTRAP}"}
        assert httpx.get(f"{live.url}/api/whoami", headers=headers, trust_env=False).json()["role"] == "admin"
    assert not (tmp_path / "credentials.toml").exists()
    assert BOOTSTRAP.encode() not in (tmp_path / "meetingctl.db").read_bytes()
    with Live(tmp_path, bootstrap_token=Secret(BOOTSTRAP)):
        pass


@pytest.mark.parametrize("weak", ["short", "x" * 257, "with blanks " * 3, "é" * 20])
def test_a_weak_bootstrap_token_is_refused(tmp_path: Path, weak: str) -> None:
    with pytest.raises(ConfigError, match="16 to 256"):
        Live(tmp_path, bootstrap_token=Secret(weak))


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Live(tmp_path):
        with pytest.raises(Conflict, match="another server uses") as caught:
            Live(tmp_path)
        assert "--data" in caught.value.hint
    with Live(tmp_path):
        pass


def test_a_busy_port_is_named_with_the_option_to_change_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} on 127.0.0.1 is taken") as caught:
            Live(tmp_path, api_listen=f"127.0.0.1:{port}")
        assert "--listen" in caught.value.hint
    with Live(tmp_path, api_listen=f"127.0.0.1:{port}"):
        pass


def test_an_address_that_is_not_ours_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        bind_listener("203.0.113.77:0")


@pytest.mark.parametrize(
    ("listen", "allowed", "starts"),
    [("127.0.0.1:0", (), True), ("[::1]:0", (), True), ("0.0.0.0:0", (), False), ("0.0.0.0:0", ("10.0.0.0/8",), True)],
)
def test_legacy_open_needs_loopback_or_a_list(listen: str, allowed: tuple[str, ...], starts: bool) -> None:
    settings = Settings(mode="legacy-open", api_listen=listen, legacy_allow_from=allowed)
    if starts:
        check_mode(settings)
    else:
        with pytest.raises(ConfigError, match="let everybody in") as caught:
            check_mode(settings)
        assert "--allow-from" in caught.value.hint


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make"):
        Live(tmp_path / "file" / "data")


def test_start_fails_whole_or_not_at_all(tmp_path: Path) -> None:
    """After a refused start nothing is held: neither the port nor the folder."""
    listener = bind_listener("127.0.0.1:0")
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(ConfigError):
        Live(tmp_path, api_listen=f"127.0.0.1:{port}", bootstrap_token=Secret("weak"))
    with Live(tmp_path, api_listen=f"127.0.0.1:{port}") as live:
        assert live.port == port


class Server:
    """A server in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        argv = [sys.executable, "-c", _SERVE, str(data_dir), BOOTSTRAP]
        self.log = data_dir.parent / "log"
        with self.log.open("ab") as log:
            start = log.tell()
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

        def address() -> str | None:
            assert self.process.poll() is None, self.log.read_text()
            found = re.search(r"^api +(http://\S+)", self.log.read_bytes()[start:].decode(), re.MULTILINE)
            return found[1] if found else None

        self.url = wait_for(address, "the server says where it is")

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=15)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def server(tmp_path: Path):
    made = Server(tmp_path / "data")
    with made.client(authorization=f"Bearer {BOOTSTRAP}") as client:
        for number in range(8):
            body = {"devicekey": f"cam-{number}", "token_code": CODE, "device_type": "t", "distribution": "d"}
            assert client.post("/api/devices/manual-create", json=body).status_code == 200
    yield made
    made.stop()


def test_sigterm_answers_what_is_in_flight_and_ends_clean(server: Server) -> None:
    body = b'{"ip_lan": "10.0.0.7"}'
    head = (
        f"POST /api/devices/cam-1/online HTTP/1.1\r\nHost: x\r\nX-Token-Code: {CODE}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(head + body[:5])
        time.sleep(0.3)  # the request is under way before the signal
        server.process.send_signal(signal.SIGTERM)

        def refuses_new() -> bool:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(refuses_new, "no new connection is taken")
        assert server.process.poll() is None
        connection.sendall(body[5:])
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert server.process.wait(15) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(tmp_path: Path, number: int) -> None:
    server = Server(tmp_path / "data")
    try:
        with server.client() as client:
            client.get("/api")
            began_s = time.monotonic()
            server.process.send_signal(number)
            assert server.process.wait(10) == 0
        assert time.monotonic() - began_s < 3, "an idle keep-alive connection holds nothing up"
    finally:
        server.stop()


def test_kill_9_under_load_loses_no_acknowledged_heartbeat(server: Server, tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    stop = threading.Event()

    def beat(number: int) -> None:
        key, count = f"cam-{number}", 0
        with server.client(**{"x-token-code": CODE}) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"/api/devices/{key}/online", json={"note": str(count)})
                except httpx.TransportError:
                    return
                if answer.status_code == 200:
                    acknowledged[key] = count
                count += 1

    threads = [threading.Thread(target=beat, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) == 8 and min(acknowledged.values()) > 20, "every device beats")
    os.kill(server.process.pid, signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join(20)
    server.process.wait(10)
    with sqlite3.connect(tmp_path / "data" / "meetingctl.db") as database:
        query = "SELECT device_key, status_note FROM devices JOIN presence ON presence.device_id = devices.id"
        stored = {key: int(note) for key, note in database.execute(query)}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    for key, count in acknowledged.items():
        assert stored[key] in (count, count + 1), "the one after it may be stored without an answer"
    again = Server(tmp_path / "data")
    again.stop()


def read_end(connection: socket.socket) -> bytes:
    """Read until the server closes; a reset counts as the end."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_a_request_head_without_end_is_refused_and_costs_little(tmp_path: Path) -> None:
    with Live(tmp_path) as live, socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
        connection.sendall(b"GET /api HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):  # a server without a bound takes it all
            connection.sendall(b"x-padding: 0123456789\r\n" * 2_000_000)
        assert httpx.get(f"{live.url}/api", trust_env=False).status_code == 200


def test_a_connection_that_asks_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meetingctl.server.bounded_http.HEAD_DEADLINE_S", 0.3)
    with Live(tmp_path) as live:
        for opening in (b"", b"GET /api HTTP/1.1\r\nhost: x\r\n"):
            with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
                connection.sendall(opening)
                assert read_end(connection) == b""
        assert httpx.get(f"{live.url}/api", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("bind", "host", "told"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "127.0.0.1", "192.0.2.7"),
        ("192.0.2.7", "fleet.example.org", "fleet.example.org"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_visitors_are_told_the_name_or_the_address_of_the_ports(bind: str, host: str, told: str) -> None:
    assert told_host(Settings(tunnel_bind=bind, tunnel_public_host=host)) == told
