from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from meetingctl.device.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Return $NOTIFY_SOCKET and what listens there."""
    name = str(tmp_path / "n") if request.param == "path" else f"@meetingctl-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.settimeout(10)
        yield name, listener


def test_messages_reach_systemd(systemd: tuple[str, socket.socket]) -> None:
    address, listener = systemd
    notifier = Notifier(address)
    notifier.ready("looking\nat things")
    notifier.alive()
    notifier.stopping()
    assert [listener.recv(1000) for _ in range(3)] == [
        b"READY=1\nSTATUS=looking at things",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier("").ready()
    Notifier(str(tmp_path / "gone")).alive()


def test_a_full_socket_does_not_hold_up_the_daemon(systemd: tuple[str, socket.socket]) -> None:
    notifier = Notifier(systemd[0])
    for _ in range(5000):
        notifier.alive("x" * 100)
