"""The loop: readiness, timers, calls from other threads, and faults that stay where they happen."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from meetingctl.tunnel.reactor import READ, Reactor

from .support import wait_until


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    thread = threading.Thread(target=reactor.run, daemon=True)
    thread.start()
    yield reactor
    reactor.stop()
    thread.join(5)
    reactor.close()


class Collector:
    """Collects what arrives; a message of `boom` is a fault."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.crashes = 0

    def on_ready(self, mask: int) -> None:
        chunk = self.sock.recv(100)
        if chunk == b"boom":
            raise ZeroDivisionError
        self.received += chunk

    def on_crash(self) -> None:
        self.crashes += 1


def test_readiness_arrives(reactor: Reactor) -> None:
    left, right = socket.socketpair()
    with left, right:
        collector = Collector(right)
        reactor.call_threadsafe(reactor.register, right.fileno(), collector, READ)
        left.send(b"hello")
        wait_until(lambda: collector.received == b"hello")
        reactor.call_threadsafe(reactor.unregister, right.fileno())


def test_a_fault_ends_one_connection_only(reactor: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    pairs = [socket.socketpair() for _ in range(2)]
    collectors = [Collector(right) for _, right in pairs]
    for collector in collectors:
        reactor.call_threadsafe(reactor.register, collector.sock.fileno(), collector, READ)
    pairs[0][0].send(b"boom")
    wait_until(lambda: collectors[0].crashes == 1)
    pairs[1][0].send(b"alive")
    wait_until(lambda: collectors[1].received == b"alive")
    reactor.call_threadsafe(reactor.unregister, pairs[1][1].fileno())
    for left, right in pairs:
        left.close()
        right.close()


def test_timers_fire_in_order_and_not_early(reactor: Reactor) -> None:
    fired: list[tuple[str, float]] = []
    start_s = time.monotonic()

    def note(name: str) -> None:
        fired.append((name, time.monotonic() - start_s))

    reactor.call_threadsafe(reactor.call_later, 0.06, lambda: note("second"))
    reactor.call_threadsafe(reactor.call_later, 0.03, lambda: note("first"))
    wait_until(lambda: len(fired) == 2)
    assert [name for name, _ in fired] == ["first", "second"]
    assert fired[0][1] >= 0.03
    assert fired[1][1] >= 0.06


def test_deferred_calls_run_once_at_the_end_of_the_round(reactor: Reactor) -> None:
    order: list[str] = []

    def work() -> None:
        reactor.defer(lambda: order.append("deferred"))
        order.append("first")

    reactor.call_threadsafe(work)
    reactor.call_threadsafe(order.append, "second")
    wait_until(lambda: "deferred" in order and "second" in order)
    assert order[0] == "first"
    assert order.count("deferred") == 1
