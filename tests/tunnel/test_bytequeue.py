"""The queue of bytes that a socket has not accepted."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meetingctl.tunnel.bytequeue import ByteQueue


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(parts=st.lists(st.binary(max_size=200_000), max_size=6))
def test_bytes_leave_in_order_and_are_counted(parts: list[bytes], pair: tuple[socket.socket, socket.socket]) -> None:
    queue, (left, right) = ByteQueue(), pair
    for part in parts:
        queue.append(memoryview(part))
    whole, received = b"".join(parts), b""
    assert len(queue) == len(whole)
    while queue:
        before = len(queue)
        sent = queue.send_to(left)
        assert len(queue) == before - sent
        while len(received) < len(whole) - len(queue):
            received += right.recv(1 << 20)
    assert received == whole


def test_tiny_parts_cost_their_bytes() -> None:
    queue = ByteQueue()
    for _ in range(100_000):
        queue.append(b"x")
    assert sum(sys.getsizeof(chunk) for chunk in queue._chunks) < 200_000
