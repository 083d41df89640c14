"""The Unix socket through which programs on the device ask a daemon: one line in, one JSON line out."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from meetingctl.core.errors import Busy, MeetingctlError, Unreachable, error_for_status
from meetingctl.core.layout import ONVIF_SOCKET, ONVIF_UNIT, STREAM_STATE_SOCKET, STREAM_UNIT
from meetingctl.device.system import System

_LINE_BYTES = 256
_PEER_TIMEOUT_S = 2.0
_ANSWER_BYTES = 1 << 20
_ALLOWED_MODE = 0o660  # root and the group of the web page

log = logging.getLogger(__name__)

Answer = Callable[[str], dict[str, Any]]


class Daemon(NamedTuple):
    """A daemon that can be asked: what people call it, its socket on the device, its unit."""

    name: str
    socket: str
    unit: str


STREAM = Daemon("stream daemon", STREAM_STATE_SOCKET, STREAM_UNIT)
ONVIF = Daemon("ONVIF service", ONVIF_SOCKET, ONVIF_UNIT)


class ControlSocket:
    """Listen below `path` and answer one caller after the other, in a thread of its own."""

    def __init__(self, path: Path, answer: Answer, daemon: Daemon = STREAM) -> None:
        """`answer` is called in the thread. Raises: Busy when another daemon answers there, OSError."""
        self._path = path
        self._answer = answer
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_answered(path):
            raise Busy(f"another {daemon.name} answers at {path}", hint=f"systemctl status {daemon.unit}")
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        path.chmod(_ALLOWED_MODE)
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        self._thread.join(_PEER_TIMEOUT_S)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                line = _read(peer, _LINE_BYTES, _PEER_TIMEOUT_S, until=b"\n")
                peer.settimeout(_PEER_TIMEOUT_S)
                peer.sendall(self._reply(line.partition(b"\n")[0].decode("ascii", "replace").strip()) + b"\n")

    def _reply(self, line: str) -> bytes:
        try:
            body = self._answer(line)
        except MeetingctlError as error:
            body = {"ok": False, "error": {"code": error.code, "message": error.message, "hint": error.hint}}
            body["status"] = error.http_status
        return json.dumps(body).encode()


def ask_daemon(system: System, line: str, *, timeout_s: float = 5.0, daemon: Daemon = STREAM) -> dict[str, Any]:
    """Ask a running daemon (the stream daemon knows `status`, `reload` and `keyframe`) and return its answer.

    Raises: Unreachable when none runs, or the error that the daemon answered with.
    """
    path = system.path(daemon.socket)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(timeout_s)
            peer.connect(str(path))
            peer.sendall(line.encode() + b"\n")
            body = json.loads(_read(peer, _ANSWER_BYTES, timeout_s))
    except (OSError, ValueError, RecursionError) as exc:
        raise Unreachable(
            f"the {daemon.name} does not answer at {daemon.socket}", hint=f"systemctl status {daemon.unit}"
        ) from exc
    if not isinstance(body, dict):
        raise Unreachable(f"{daemon.socket}: not a {daemon.name}")
    if isinstance(error := body.get("error"), dict):
        status = body.get("status")
        raise error_for_status(
            status if type(status) is int else 500, str(error.get("message")), hint=error.get("hint")
        )
    return body


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_PEER_TIMEOUT_S)
        try:
            peer.connect(str(path))
        except OSError:
            return False
        return True


def _read(peer: socket.socket, most_bytes: int, within_s: float, *, until: bytes | None = None) -> bytes:
    """Read to the end, or to some bytes. The time counts for all of it. Raises: OSError."""
    ends_s = time.monotonic() + within_s
    data = b""
    while len(data) < most_bytes and (until is None or until not in data):
        if (left_s := ends_s - time.monotonic()) <= 0:
            raise TimeoutError(f"no whole message within {within_s:g} s")
        peer.settimeout(left_s)
        if not (chunk := peer.recv(min(65536, most_bytes))):
            break
        data += chunk
    return data
