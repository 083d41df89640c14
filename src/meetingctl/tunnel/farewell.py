"""The end of a visitor's connection, after its stream is gone."""

from __future__ import annotations

import socket

from meetingctl.tunnel.reactor import READ, Reactor


class Farewell:
    """Read and discard until the other side has closed too or the time is over."""

    __slots__ = ("_reactor", "_sock")

    def __init__(self, reactor: Reactor, sock: socket.socket, limit_s: float) -> None:
        self._reactor = reactor
        self._sock = sock
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        reactor.register(sock.fileno(), self, READ)
        reactor.call_later(limit_s, self._close)

    def on_ready(self, mask: int) -> None:
        """Discard what came; close at the end of it."""
        try:
            if self._sock.recv_into(self._reactor.buffer):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close()

    def on_crash(self) -> None:
        """Close at once."""
        self._sock.close()

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.unregister(self._sock.fileno())
            self._sock.close()
