"""A stand-in for the agent in the field (1.4.x), which follows the table of its behaviour line by line.

One thread per stream with 4096-byte reads and Nagle's algorithm on; blocking writes to services and blocking dials in
the only loop that reads frames; no half-close; a socket that another thread reads is closed without a shutdown.
"""

from __future__ import annotations

import json
import socket
import struct
import threading

_HEADER = struct.Struct("!BII")
_READ_BYTES = 4096
_REPLY_BYTES = 4096
_TIMEOUT_S = 120.0
_DIAL_S = 10.0


class OldAgent:
    """One device with the existing agent. `frames` records kind, stream id and length of what the proxy sent."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        device_key: str,
        token: str,
        backoff_first_s: float = 5.0,
        backoff_most_s: float = 60.0,
    ) -> None:
        self._server = (host, port)
        self._device_key = device_key
        self._token = token
        self._backoff_first_s = backoff_first_s
        self._backoff_most_s = backoff_most_s
        self._stop = threading.Event()
        self._control: socket.socket | None = None
        self._write_lock = threading.Lock()
        self._services: dict[int, socket.socket] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.refusals: list[dict[str, object]] = []
        self.connections = 0
        self.frames: list[tuple[str, int, int]] = []

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._shut(self._control)
        self._thread.join(5)
        for service in list(self._services.values()):
            self._shut(service)

    @property
    def open_streams(self) -> int:
        return len(self._services)

    def _run(self) -> None:
        backoff_s = self._backoff_first_s
        while not self._stop.is_set():
            try:
                if self._serve_once():
                    backoff_s = self._backoff_first_s
            except (OSError, EOFError, struct.error):
                pass
            if self._stop.wait(backoff_s):
                return
            backoff_s = min(self._backoff_most_s, backoff_s * 2)

    def _serve_once(self) -> bool:
        """Connect and serve; True when the handshake was taken for accepted."""
        # Row 11: IPv4 only. Row 10: Nagle stays on. Row 3: no keepalive.
        control = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._control = control
        accepted = False
        try:
            control.settimeout(10)
            control.connect(self._server)
            control.settimeout(_TIMEOUT_S)
            hello = json.dumps({"token": self._token, "name": self._device_key}).encode()
            control.sendall(hello + b"\n")
            reply = self._read_reply(control)
            # Row 2: only this is a refusal, anything else counts as success.
            if reply.get("status") == "error":
                self.refusals.append(reply)
                return False
            accepted = True
            self.connections += 1
            self._read_frames(control)
        except (OSError, EOFError):
            return accepted
        finally:
            # Row 8: closed, not shut down, as far as the services are concerned.
            for service in list(self._services.values()):
                service.close()
            self._services.clear()
            self._shut(control)
            control.close()
        return True

    def _read_reply(self, control: socket.socket) -> dict[str, object]:
        # Row 1: byte by byte up to 4096, so that frames right behind it are not swallowed.
        line = b""
        while not line.endswith(b"\n") and len(line) < _REPLY_BYTES:
            byte = control.recv(1)
            if not byte:
                raise EOFError
            line += byte
        reply = json.loads(line)
        assert isinstance(reply, dict)
        return reply

    def _read_frames(self, control: socket.socket) -> None:
        while not self._stop.is_set():
            # Row 4: any length is taken and the whole frame is buffered.
            kind, stream_id, length = _HEADER.unpack(self._read_exactly(control, _HEADER.size))
            payload = self._read_exactly(control, length)
            self.frames.append((chr(kind), stream_id, length))
            if kind == ord("N"):
                self._open(stream_id, struct.unpack("!H", payload[:2])[0])
            elif kind == ord("D"):
                service = self._services.get(stream_id)
                if service is not None and payload:
                    try:
                        # Row 6: blocks the only read loop.
                        service.sendall(payload)
                    except OSError:
                        self._forget(stream_id)
                        self._send(ord("C"), stream_id, b"")
            elif kind == ord("C"):
                # Row 8: the socket is closed under the thread that reads it.
                self._forget(stream_id)

    @staticmethod
    def _read_exactly(control: socket.socket, count: int) -> bytes:
        received = b""
        while len(received) < count:
            chunk = control.recv(count - len(received))
            if not chunk:
                raise EOFError
            received += chunk
        return received

    def _open(self, stream_id: int, port: int) -> None:
        try:
            # Row 7: dials in the read loop.
            service = socket.create_connection(("127.0.0.1", port), timeout=_DIAL_S)
        except OSError:
            self._send(ord("C"), stream_id, b"")
            return
        service.settimeout(None)
        self._services[stream_id] = service
        # Row 8: nobody waits for these threads; one whose service is silent stays until the service speaks.
        threading.Thread(target=self._pump, args=(stream_id, service), daemon=True).start()

    def _pump(self, stream_id: int, service: socket.socket) -> None:
        try:
            while chunk := service.recv(_READ_BYTES):
                # Row 8: also for a stream that was closed meanwhile.
                self._send(ord("D"), stream_id, chunk)
        except OSError:
            pass
        # Row 9: the end of the service closes both directions.
        self._forget(stream_id)
        self._send(ord("C"), stream_id, b"")

    def _send(self, kind: int, stream_id: int, payload: bytes) -> None:
        control = self._control
        if control is None:
            return
        try:
            with self._write_lock:
                control.sendall(_HEADER.pack(kind, stream_id, len(payload)) + payload)
        except OSError:
            # Row 5: a write that failed ends the tunnel, perhaps in the middle of a frame.
            self._shut(control)

    def _forget(self, stream_id: int) -> None:
        service = self._services.pop(stream_id, None)
        if service is not None:
            service.close()

    @staticmethod
    def _shut(sock: socket.socket | None) -> None:
        try:
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
