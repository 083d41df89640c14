"""One connection's flood of tiny frames leaves the others their turns."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from meetingctl.tunnel import codec
from meetingctl.tunnel.caps import BASE, kinds_from_agent
from meetingctl.tunnel.group import LinkGroup
from meetingctl.tunnel.link import Link
from meetingctl.tunnel.reactor import Reactor
from meetingctl.tunnel.rules import LinkRules
from meetingctl.tunnel.stream import Stream

FLOOD = codec.encode_frame(codec.DATA, 0) * 2000


class Owner:
    """Remembers why links ended."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def on_link_lost(self, link: Link, reason: str, detail: str) -> None:
        self.lost.append(reason)

    def on_open(self, link: Link, stream_id: int, opening: codec.Opening) -> None:
        raise NotImplementedError

    def on_stream_end(self, stream: Stream, outcome: str, reason: str) -> None:
        raise NotImplementedError


class Bench:
    """A loop that the test turns by hand, with links whose far ends it holds."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.reactor = Reactor()
        self.group = LinkGroup(self.reactor, LinkRules(receive_turn_frames=100))
        self.owner = Owner()
        self._stack = stack
        stack.callback(self.reactor.close)

    def link(self) -> tuple[Link, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            far = self._stack.enter_context(socket.create_connection(listener.getsockname()))
            near = self._stack.enter_context(listener.accept()[0])
        near.setblocking(False)
        link = Link(self.group, near, BASE, kinds=kinds_from_agent(BASE), owner=self.owner)
        self._stack.callback(link.fail, "test over")
        return link, far

    def run_until(self, condition: object) -> None:
        """Run the loop until `condition`, a callable, holds; it is looked at after each round."""
        assert callable(condition)
        rounds = 0

        def look() -> None:
            nonlocal rounds
            rounds += 1
            if condition() or rounds > 10_000:
                self.reactor.stop()
            else:
                self.reactor.defer(look)

        self.reactor.defer(look)
        self.reactor.run()
        assert condition()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        yield Bench(stack)


def test_a_neighbour_is_served_between_the_turns_of_a_flood(bench: Bench) -> None:
    flooder, _ = bench.link()
    neighbour, far = bench.link()
    far.sendall(codec.encode_frame(codec.DATA, 7, b"hello"))
    flooder.feed(memoryview(FLOOD + codec.encode_frame(codec.DATA, 7, b"last")))
    assert flooder.received_bytes == 0
    bench.run_until(lambda: neighbour.received_bytes == 5)
    assert flooder.received_bytes == 0


def test_all_frames_of_a_flood_are_acted_on_in_order(bench: Bench) -> None:
    link, far = bench.link()
    link.feed(memoryview(FLOOD + codec.encode_frame(codec.DATA, 7, b"12345")[:-2]))
    far.sendall(b"45" + codec.encode_frame(codec.DATA, 7, b"6"))
    bench.run_until(lambda: link.received_bytes == 6)
    assert not link.closed


def test_noise_behind_a_flood_ends_the_link(bench: Bench) -> None:
    link, _ = bench.link()
    link.feed(memoryview(FLOOD + b"\0" * 9))
    bench.run_until(lambda: link.closed)
    assert bench.owner.lost == ["protocol error"]


def test_a_link_that_ends_forgets_what_it_put_off(bench: Bench) -> None:
    link, _ = bench.link()
    link.feed(memoryview(FLOOD + codec.encode_frame(codec.DATA, 7, b"last")))
    link.fail("replaced")
    rounds = iter(range(50))
    bench.run_until(lambda: next(rounds) > 40)
    assert link.received_bytes == 0
    assert bench.owner.lost == ["replaced"]
