"""The socket under an RTSP exchange: one connection, one question, one deadline."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from meetingctl.core.errors import AuthError, Busy, InvalidInput, MeetingctlError, NotFound, Unreachable
from meetingctl.core.layout import RTSP_PORT
from meetingctl.core.secret import Secret
from meetingctl.device.rtsp.auth import Login
from meetingctl.device.rtsp.exchange import Exchange
from meetingctl.device.rtsp.message import Response
from meetingctl.device.rtsp.sdp import Media, parse_sdp


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a stream is; `path` has no leading slash."""

    host: str
    port: int = RTSP_PORT
    path: str = ""
    login: Login | None = None

    @property
    def url(self) -> str:
        """Return the address without the login."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"rtsp://{host}:{self.port}/{self.path}"


def parse_url(text: str) -> Endpoint:
    """Read `rtsp://user:password@host:port/path`; the login is percent-encoded. Raises: InvalidInput."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme != "rtsp":
        raise InvalidInput("not an RTSP address", hint="use rtsp://host:554/path")
    login = Login(unquote(parts.username), Secret(unquote(parts.password or ""))) if parts.username else None
    path = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(host, port or 554, path, login)


def check_options(endpoint: Endpoint, *, timeout_s: float) -> None:
    """Ask whether an RTSP server answers; it proves neither the login nor a working source.

    Raises: Unreachable; MeetingctlError for an answer other than 200.
    """
    response = ask("OPTIONS", endpoint, timeout_s=timeout_s)
    if response.status != 200:
        raise MeetingctlError(f"{endpoint.url}: OPTIONS answered {response.status} {response.reason[:80]}")


def describe(endpoint: Endpoint, *, timeout_s: float) -> tuple[Media, ...]:
    """Ask what the stream consists of, which makes an idle server open its source.

    Raises: Unreachable when nothing answers in time, AuthError for 401 and 403, NotFound for 404, Busy for 503 (the
    source cannot be opened), MeetingctlError for anything else.
    """
    response = ask("DESCRIBE", endpoint, timeout_s=timeout_s)
    match response.status:
        case 200:
            if media := parse_sdp(response.body):
                return media
            raise MeetingctlError(f"{endpoint.url}: the description names no media")
        case 401 | 403:
            what = "wrong user or password" if endpoint.login else "a login is needed"
            raise AuthError(f"{endpoint.url}: {what}", hint="meetingctl device config get RTSP_USER")
        case 404:
            raise NotFound(f"{endpoint.url}: no such stream", hint="meetingctl device config get RTSP_PATH")
        case 503:
            raise Busy(f"{endpoint.url}: the source of the stream cannot be opened (503)")
    raise MeetingctlError(f"{endpoint.url}: DESCRIBE answered {response.status} {response.reason[:80]}")


def ask(method: str, endpoint: Endpoint, *, timeout_s: float) -> Response:
    """Ask one question and return the final answer, whatever its status.

    `timeout_s` is for everything together; only the look-up of a host name is not bounded by it.
    Raises: Unreachable, MeetingctlError when the peer does not speak RTSP.
    """
    exchange = Exchange(method, endpoint.url, endpoint.login, cnonce=secrets.token_hex(8))
    deadline_s = time.monotonic() + timeout_s
    outgoing = exchange.start()
    try:
        with contextlib.closing(socket.create_connection((endpoint.host, endpoint.port), timeout_s)) as sock:
            while True:
                sock.settimeout(_left(deadline_s))
                sock.sendall(outgoing)
                outcome = _receive(sock, exchange, deadline_s)
                if isinstance(outcome, Response):
                    return outcome
                outgoing = outcome
    except TimeoutError:
        raise Unreachable(f"{endpoint.url}: no answer to {method} within {timeout_s:g} s") from None
    except OSError as exc:
        raise Unreachable(f"{endpoint.url}: {(exc.strerror or str(exc)).lower()}") from exc


def _receive(sock: socket.socket, exchange: Exchange, deadline_s: float) -> bytes | Response:
    while True:
        sock.settimeout(_left(deadline_s))
        data = sock.recv(65536)
        if not data:
            raise ConnectionResetError("the peer closed the connection without an answer")
        if (outcome := exchange.receive(data)) is not None:
            return outcome


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
