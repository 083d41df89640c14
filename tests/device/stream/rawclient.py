"""An RTSP viewer on a bare socket: it plays over TCP and looks at RTP packets."""

from __future__ import annotations

import re
import socket
import time
from typing import Self

IDR = 5


class RawViewer:
    """Play the first track of a stream without login. Every wait has the deadline of the socket."""

    def __init__(self, port: int, path: str = "stream", *, timeout_s: float = 30.0) -> None:
        self._url = f"rtsp://127.0.0.1:{port}/{path}"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._buffer = b""
        self._cseq = 0
        self._session = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, method: str, url: str = "", **headers: str) -> tuple[int, str]:
        """Send a request and return status and text of its answer; media before it is dropped."""
        self._cseq += 1
        lines = [f"{method} {url or self._url} RTSP/1.0", f"CSeq: {self._cseq}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self._session:
            lines.append(f"Session: {self._session}")
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while True:
            if self._peek(1) == b"$":
                self._frame()
                continue
            text = self._answer()
            if f"CSeq: {self._cseq}" in text:
                return int(text.split()[1]), text

    def play(self, **headers: str) -> None:
        """Describe, set up the first track over TCP, play with these headers."""
        status, text = self.ask("DESCRIBE", Accept="application/sdp")
        assert status == 200, text
        controls = re.findall(r"^a=control:(\S+)", text, re.MULTILINE)
        control = next(item for item in controls if item != "*")
        track = control if control.startswith("rtsp://") else f"{self._url}/{control}"
        status, text = self.ask("SETUP", track, Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        assert status == 200, text
        self._session = re.search(r"Session: ([^;\s]+)", text).group(1)  # type: ignore[union-attr]
        status, text = self.ask("PLAY", **headers)
        assert status == 200, text

    def wait_keyframe(self) -> float:
        """Return the seconds until the first packet of a keyframe comes."""
        began_s = time.monotonic()
        while True:
            channel, packet = self._frame()
            if channel == 0 and IDR in nal_types(packet):
                return time.monotonic() - began_s

    def timestamps_s(self, seconds: float) -> list[float]:
        """Return the RTP timestamps of the video that come within so many seconds."""
        ends_s, found = time.monotonic() + seconds, []
        while time.monotonic() < ends_s:
            channel, packet = self._frame()
            if channel == 0:
                found.append(int.from_bytes(packet[4:8], "big") / 90_000)
        return found

    def leave(self) -> None:
        """End the session in order."""
        self.ask("TEARDOWN")

    def _frame(self) -> tuple[int, bytes]:
        head = self._take(4)
        assert head[:1] == b"$", head
        return head[1], self._take(int.from_bytes(head[2:4], "big"))

    def _answer(self) -> str:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = self._take(int(length.group(1))) if length else b""
        return (head + b"\r\n\r\n" + body).decode().replace("\r\n", "\n")

    def _peek(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive()
        return self._buffer[:count]

    def _take(self, count: int) -> bytes:
        taken = self._peek(count)
        self._buffer = self._buffer[count:]
        return taken

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += data


def nal_types(packet: bytes) -> set[int]:
    """Return the NAL unit types in an RTP packet. Source: RFC 6184 sections 5.6 to 5.8."""
    payload = packet[12 + 4 * (packet[0] & 15) :]
    kind = payload[0] & 31
    if kind == 28:
        return {payload[1] & 31}
    if kind == 24:
        found, rest = set(), payload[1:]
        while len(rest) > 2:
            found.add(rest[2] & 31)
            rest = rest[2 + int.from_bytes(rest[:2], "big") :]
        return found
    return {kind}
