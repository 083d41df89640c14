"""Open a control connection: dial the proxy and shake hands, with deadlines, on the calling thread."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable

from meetingctl.core.errors import Unreachable
from meetingctl.core.net import join_endpoint
from meetingctl.core.secret import Secret
from meetingctl.tunnel.caps import AGENT_WINDOW_BYTES, BASE, Agreed, negotiate, offer_caps
from meetingctl.tunnel.codec import WireError
from meetingctl.tunnel.handshake import MAX_LINE_BYTES, encode_hello, parse_reply

_SLICE_S = 0.25


def dial(
    host: str,
    port: int,
    *,
    device_key: str,
    token: Secret,
    with_caps: bool,
    timeout_s: float,
    is_stopping: Callable[[], bool],
) -> tuple[socket.socket, Agreed, bytes]:
    """Return an authenticated connection, its terms, and bytes that came right behind the reply.

    Raises: AuthError when the proxy refuses; Unreachable when it cannot be reached, is silent or talks nonsense.
    """
    name = join_endpoint(host, port)
    sock = _connect(host, port, name=name, timeout_s=timeout_s, is_stopping=is_stopping)
    try:
        caps = offer_caps(AGENT_WINDOW_BYTES) if with_caps else None
        sock.sendall(encode_hello(device_key, token.reveal(), caps))
        line, early = _read_line(sock, time.monotonic() + timeout_s, is_stopping)
        answer = parse_reply(line)
        terms = BASE if caps is None else negotiate(caps, answer)
        return sock, terms, early
    except (OSError, WireError) as exc:
        sock.close()
        raise Unreachable(f"no tunnel server at {name}: {exc}", hint="check the address of the tunnel server") from exc
    except BaseException:
        sock.close()
        raise


def _connect(host: str, port: int, *, name: str, timeout_s: float, is_stopping: Callable[[], bool]) -> socket.socket:
    """Try the addresses of the host in turn. The time is per address, a stop is noticed within a quarter second."""
    error: OSError = OSError("no address")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        found, error = [], OSError(f"cannot resolve the name: {exc}")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            deadline_s = time.monotonic() + timeout_s
            if (code := sock.connect_ex(address)) not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code).lower())
            _await(sock, select.POLLOUT, deadline_s, is_stopping)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code).lower())
            return sock
        except OSError as exc:
            sock.close()
            error = exc
    raise Unreachable(
        f"no tunnel server at {name}: {error.strerror or error}", hint="check the address of the tunnel server"
    ) from error


def _read_line(sock: socket.socket, deadline_s: float, is_stopping: Callable[[], bool]) -> tuple[bytes, bytes]:
    received = b""
    while (at := received.find(b"\n")) < 0:
        if len(received) >= MAX_LINE_BYTES:
            raise WireError("the reply line is too long")
        _await(sock, select.POLLIN, deadline_s, is_stopping)
        chunk = sock.recv(MAX_LINE_BYTES - len(received))
        if not chunk:
            raise WireError("closed without an answer")
        received += chunk
    return received[:at], received[at + 1 :]


def _await(sock: socket.socket, event: int, deadline_s: float, is_stopping: Callable[[], bool]) -> None:
    """Wait for readiness. Raises: TimeoutError at the deadline, ConnectionAbortedError when the agent stops."""
    poll = select.poll()
    poll.register(sock, event)
    while not is_stopping():
        rest_s = deadline_s - time.monotonic()
        if rest_s <= 0:
            raise TimeoutError("timed out")
        if poll.poll(min(rest_s, _SLICE_S) * 1000):
            return
    raise ConnectionAbortedError("stopped")
