"""The end of a visitor's connection: its answer arrives whole although it is still talking."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from meetingctl.tunnel.farewell import Farewell
from meetingctl.tunnel.reactor import Reactor

from .support import read_all, wait_until


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    thread = threading.Thread(target=reactor.run, daemon=True)
    thread.start()
    yield reactor
    reactor.stop()
    thread.join(5)
    reactor.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=5) as visitor,
    ):
        ours, _ = listener.accept()
        ours.setblocking(False)
        with ours:
            yield ours, visitor


def test_the_answer_is_read_whole_beside_unread_questions(
    reactor: Reactor, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, visitor = pair
    visitor.sendall(b"unread")
    ours.send(b"answer")
    reactor.call_threadsafe(Farewell, reactor, ours, 5.0)
    wait_until(lambda: visitor.recv(1, socket.MSG_PEEK))
    visitor.sendall(b"more")
    assert read_all(visitor) == b"answer"
    assert ours.fileno() >= 0
    visitor.close()
    wait_until(lambda: ours.fileno() < 0)


def test_a_visitor_that_stays_is_left_after_the_limit(
    reactor: Reactor, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, visitor = pair
    reactor.call_threadsafe(Farewell, reactor, ours, 0.1)
    assert read_all(visitor) == b""
    wait_until(lambda: ours.fileno() < 0)
