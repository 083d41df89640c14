"""Tell systemd that a daemon is ready, alive or about to stop (the protocol of sd_notify(3))."""

from __future__ import annotations

import contextlib
import socket


class Notifier:
    """One end of $NOTIFY_SOCKET; without an address every message goes nowhere.

    A message that cannot be delivered is dropped: a daemon does its work whether or not somebody listens.
    """

    def __init__(self, address: str = "") -> None:
        """`address` is the value of $NOTIFY_SOCKET: a path, or `@name` in the abstract namespace."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def ready(self, status: str = "") -> None:
        """Say that start-up is finished."""
        self._send("READY=1", status)

    def alive(self, status: str = "") -> None:
        """Feed the watchdog of the unit (`WatchdogSec=`); call it at least twice in that time."""
        self._send("WATCHDOG=1", status)

    def stopping(self, status: str = "") -> None:
        """Say that the daemon is on its way out."""
        self._send("STOPPING=1", status)

    def _send(self, state: str, status: str) -> None:
        if not self._address:
            return
        lines = f"{state}\nSTATUS={' '.join(status.split())}" if status else state
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.sendto(lines.encode(), self._address)
