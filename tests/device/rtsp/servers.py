"""RTSP servers for tests: one that answers as told, and a real one (GStreamer) in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
Answer = Callable[[str], bytes | None]


@contextmanager
def answering(answer: Answer) -> Iterator[int]:
    """Serve on a free port of loopback; `answer` gets each request as text, None closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, answer), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        # close() alone does not wake a thread that waits in accept().
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _serve(listener: socket.socket, answer: Answer) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.settimeout(10)
                _converse(connection, answer)


def _converse(connection: socket.socket, answer: Answer) -> None:
    pending = b""
    while chunk := connection.recv(4096):
        pending += chunk
        while b"\r\n\r\n" in pending:
            request, _, pending = pending.partition(b"\r\n\r\n")
            reply = answer(request.decode())
            if reply is None:
                return
            connection.sendall(reply)


def cseq_of(request: str) -> str:
    return next(line.partition(":")[2].strip() for line in request.split("\r\n") if line.startswith("CSeq"))


def reply(request: str, status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"RTSP/1.0 {status}", f"CSeq: {cseq_of(request)}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body.encode())}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


SDP = "v=0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:stream=0\r\n"


@contextmanager
def gstreamer_server(*, methods: int) -> Iterator[int]:
    """Run a real server of a test picture at /stream; `methods` is 0 for no login, 1 basic, 2 digest, 3 both.

    The login is admin with the password `s3cret :@"`.
    """
    _require_gstreamer()
    script = Path(__file__).with_name("gst_server.py")
    with subprocess.Popen(
        [SYSTEM_PYTHON, str(script), str(methods)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.strip().isdigit(), "the GStreamer test server did not start"
            yield int(line)
        finally:
            process.kill()


def _require_gstreamer() -> None:
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if Path(SYSTEM_PYTHON).exists():
        if subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, timeout=100).returncode == 0:
            return
    reason = "needs GStreamer: apt install python3-gi python3-gst-1.0 gir1.2-gst-rtsp-server-1.0"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
