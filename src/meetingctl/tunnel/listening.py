"""Listening sockets on an asyncio loop: accept in batches, survive a shortage of descriptors."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_ACCEPTS_PER_WAKE = 64
_SHORTAGE_PAUSE_S = 0.25


class Listening:
    """One listening socket; every accepted, non-blocking connection goes to `on_accept` with the peer's address."""

    def __init__(self, host: str, port: int, *, backlog: int, on_accept: Callable[[socket.socket, str], None]) -> None:
        """Bind and listen. Raises: OSError."""
        self._on_accept = on_accept
        self._loop = asyncio.get_running_loop()
        self._is_watched = False
        self._sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._sock.setblocking(False)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind((host, port))
            self._sock.listen(backlog)
        except OSError:
            self._sock.close()
            raise
        self._watch()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are really bound."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Stop listening; connections in the backlog are reset."""
        self._unwatch()
        self._sock.close()

    def _watch(self) -> None:
        if self._sock.fileno() >= 0 and not self._is_watched:
            self._is_watched = True
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            if not self._is_watched:
                return
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:
                # Mostly a shortage of descriptors: without a pause the loop would do nothing else.
                log.warning("cannot accept a connection", extra={"error": exc.strerror})
                self._unwatch()
                self._loop.call_later(_SHORTAGE_PAUSE_S, self._watch)
                return
            sock.setblocking(False)
            self._on_accept(sock, plain_address(address[0]))


def plain_address(text: str) -> str:
    """Write an IPv4 address that arrived at an IPv6 socket as IPv4, and drop a zone."""
    return text.partition("%")[0].removeprefix("::ffff:") if "." in text else text.partition("%")[0]


async def resolve_host(host: str) -> str:
    """Return the address of a host name, IPv4 first: existing agents know nothing else. Raises: OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = sorted((info[0] != socket.AF_INET, str(info[4][0])) for info in found)
    return addresses[0][1]
