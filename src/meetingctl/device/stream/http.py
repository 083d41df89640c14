"""The loopback HTTP of the stream daemon: state, figures, one picture, HLS, and the controls of a CSI camera.

GET /status /metrics /snapshot.jpg /hls/live.m3u8 /controls, POST /set_controls /motion. Only on 127.0.0.1: the web page
of the device and its tools are the readers. Source of /controls and /set_controls: seed 002 section 5.9.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from meetingctl.core.errors import Busy, Forbidden, InvalidInput, MeetingctlError, NotFound, TooLarge
from meetingctl.device.stream.figures import prometheus_text
from meetingctl.device.stream.motion import read_report

_MOST_REQUESTS = 16  # at work in the daemon
_MOST_CONNECTIONS = 48  # also those that still send their request or fetch their answer
_MOST_THREADS = 2 * _MOST_CONNECTIONS  # also those that are about to end
_WORK_WAIT_S = 5.0
_ROOM_WAIT_S = 0.5
_BODY_BYTES = 16 * 1024
_PEER_TIMEOUT_S = 10.0
_CONNECTION_S = 20.0  # for all that waits for the peer; a route may take its own time
_BACKLOG = 128
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})

log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """What a route answers."""

    body: bytes
    type: str = "application/json"
    status: int = 200


class Routes(NamedTuple):
    """What the server can be asked; called in its threads."""

    status: Callable[[], Mapping[str, Any]]
    snapshot: Callable[[], bytes]
    hls_file: Callable[[str], bytes]
    controls: Callable[[], Mapping[str, Any]]
    set_controls: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    report_motion: Callable[[bool], None]


def answer(routes: Routes, method: str, path: str, body: bytes) -> Reply:
    """Answer one request. Raises: NotFound, InvalidInput and whatever a route raises."""
    match method, path.partition("?")[0]:
        case "GET", "/status":
            return _json(routes.status())
        case "GET", "/metrics":
            return Reply(prometheus_text(routes.status()).encode(), "text/plain; version=0.0.4; charset=utf-8")
        case "GET", "/snapshot.jpg":
            return Reply(routes.snapshot(), "image/jpeg")
        case "GET", "/controls":
            return _json({"success": True, "controls": routes.controls()})
        case "POST", "/set_controls":
            return _json({"success": True, "applied": routes.set_controls(_object(body))})
        case "POST", "/motion":
            routes.report_motion(read_report(_object(body)))
            return _json({"success": True})
        case "GET", name if name.startswith("/hls/"):
            kind = "application/vnd.apple.mpegurl" if name.endswith(".m3u8") else "video/mp2t"
            return Reply(routes.hls_file(name.removeprefix("/hls/")), kind)
    raise NotFound(f"{method} {path[:80]}: no such thing", hint="GET /status, /metrics, /snapshot.jpg, /controls")


def check_caller(host: str, origin: str | None) -> None:
    """Refuse web pages of elsewhere that make a browser on this machine ask. Raises: Forbidden."""
    if host.rsplit(":", 1)[0] not in _LOOPBACK_NAMES and host not in _LOOPBACK_NAMES:
        raise Forbidden(f"host {host[:80]!r} is not this machine")
    if origin is not None:
        raise Forbidden("not for web pages")


class LoopbackHttp:
    """Serve `routes` on a loopback port until `close`; at most 16 requests at a time.

    Whoever sends or fetches slowly is cut off after 20 s, and at once when 48 others have come meanwhile.
    """

    def __init__(self, host: str, port: int, routes: Routes, on_close: Callable[[], None]) -> None:
        """`port` 0 takes a free one. Raises: Busy when it is in use."""
        self._on_close = on_close
        waiting = Waiting(_MOST_CONNECTIONS, _CONNECTION_S)
        try:
            self._server = _Server((host, port), _request_class(routes, waiting), waiting)
        except OSError as exc:
            raise Busy(f"port {port} of {host} is in use", hint=f"ss -ltnp 'sport = :{port}'") from exc
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_PEER_TIMEOUT_S)
        self._on_close()


class Waiting:
    """The connections that wait for their peers, oldest first; a full house costs the oldest its place."""

    def __init__(self, most: int, within_s: float, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._within_s = within_s
        self._now_s = now_s
        self._lock = threading.Lock()
        self._since_s: dict[socket.socket, float] = {}

    def add(self, connection: socket.socket) -> None:
        """Count a new connection; cut off the oldest when there are too many."""
        with self._lock:
            self._since_s[connection] = self._now_s()
            for oldest in list(self._since_s)[: -self._most]:
                self._cut(oldest)

    def forget(self, connection: socket.socket) -> None:
        """Leave out a connection that is about to close."""
        with self._lock:
            self._since_s.pop(connection, None)

    def cut_late(self) -> None:
        """Cut off those that have waited for too long."""
        with self._lock:
            latest_s = self._now_s() - self._within_s
            for connection in [one for one, since_s in self._since_s.items() if since_s <= latest_s]:
                self._cut(connection)

    @contextlib.contextmanager
    def paused(self, connection: socket.socket) -> Iterator[None]:
        """Leave a connection out while it is we who work; then it is the newest."""
        self.forget(connection)
        try:
            yield
        finally:
            self.add(connection)

    def _cut(self, connection: socket.socket) -> None:
        """End what its thread waits for; the thread closes it. The lock is held, so it is not closed yet."""
        del self._since_s[connection]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = _BACKLOG

    def __init__(self, address: tuple[str, int], handler: type, waiting: Waiting) -> None:
        self._waiting = waiting
        self._room = threading.BoundedSemaphore(_MOST_THREADS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(timeout=_ROOM_WAIT_S):
            self.shutdown_request(request)
            return
        self._waiting.add(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def shutdown_request(self, request: Any) -> None:
        self._waiting.forget(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self._waiting.cut_late()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away is no news."""


def _request_class(routes: Routes, waiting: Waiting) -> type[BaseHTTPRequestHandler]:
    slots = threading.BoundedSemaphore(_MOST_REQUESTS)

    def work(method: str, path: str, body: bytes) -> Reply:
        if not slots.acquire(timeout=_WORK_WAIT_S):
            raise Busy(f"{_MOST_REQUESTS} requests are at work", hint="try again in a second")
        try:
            return answer(routes, method, path, body)
        finally:
            slots.release()

    class Request(BaseHTTPRequestHandler):
        timeout = _PEER_TIMEOUT_S
        server_version = "meetingctl"
        sys_version = ""

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length") or 0)
            except ValueError:
                length = -1
            if not 0 <= length <= _BODY_BYTES:
                self._send(_failure(TooLarge(f"at most {_BODY_BYTES} bytes")))
                return
            self._serve(self.rfile.read(length))

        def _serve(self, body: bytes) -> None:
            try:
                check_caller(self.headers.get("Host") or "", self.headers.get("Origin"))
                with waiting.paused(self.connection):
                    reply = work(self.command, self.path, body)
            except MeetingctlError as error:
                reply = _failure(error)
            except Exception:  # a boundary: the reader gets 500, the journal the traceback
                log.exception("loopback HTTP")
                reply = _failure(MeetingctlError("unexpected: see the log"))
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.type)
            self.send_header("Content-Length", str(len(reply.body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: Any) -> None:
            """Nothing: readers ask every few seconds."""

    return Request


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or len(value) > 100:
        raise InvalidInput("the body is no JSON object")
    return value


def _json(body: Mapping[str, Any]) -> Reply:
    return Reply(json.dumps(body).encode())


def _failure(error: MeetingctlError) -> Reply:
    body = {"success": False, "error": error.message, "code": error.code, "hint": error.hint}
    return Reply(json.dumps(body).encode(), status=error.http_status)
