"""Bytes through a real proxy and each kind of agent: whole, in order, with their ends, and gone when the visitor is."""

from __future__ import annotations

import hashlib
import random
import socket
import statistics
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from meetingctl.tunnel.rules import LinkRules

from .conftest import MakeBed, StartAgent
from .support import FREE, Bed, connect, echo, open_descriptors, read_all, read_exactly, service, wait_until

RAGGED_STREAMS = 40
RAGGED_BYTES = 400_000


def ragged_parts(seed: int, total: int) -> list[bytes]:
    """Cut seeded bytes into writes of 1 byte to 1 MiB."""
    chance = random.Random(seed)
    whole = chance.randbytes(total)
    parts, at = [], 0
    while at < total:
        size = min(int(2 ** chance.uniform(0, 20)), total - at)
        parts.append(whole[at : at + size])
        at += size
    return parts


def swap_digests(sock: socket.socket) -> None:
    """Read `seed, length` and that many bytes; answer their digest, and send as many of its own."""
    seed, length = struct.unpack("!II", read_exactly(sock, 8))
    digest = hashlib.sha256()
    sender = threading.Thread(target=lambda: [sock.sendall(part) for part in ragged_parts(seed + 1, length)])
    sender.start()
    left = length
    while left:
        chunk = sock.recv(min(left, 1 << 16))
        assert chunk, "ended early"
        digest.update(chunk)
        left -= len(chunk)
    sender.join()
    sock.sendall(digest.digest())


def swap(port: int, seed: int, length: int) -> bool:
    """Send and receive ragged bytes at once and compare both directions."""
    with connect(port, timeout_s=60) as visitor:
        parts = ragged_parts(seed, length)
        visitor.sendall(struct.pack("!II", seed, length))
        sender = threading.Thread(target=lambda: [visitor.sendall(part) for part in parts])
        sender.start()
        received = read_exactly(visitor, length)
        digest = read_exactly(visitor, 32)
        sender.join()
        return digest == hashlib.sha256(b"".join(parts)).digest() and received == b"".join(
            ragged_parts(seed + 1, length)
        )


def test_ragged_parallel_streams_arrive_whole(bed: Bed, kind: str, start_agent: StartAgent) -> None:
    with service(swap_digests) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        chance = random.Random(1)
        lengths = [chance.randint(1, 2 * RAGGED_BYTES) for _ in range(RAGGED_STREAMS - 1)] + [3 << 20]
        with ThreadPoolExecutor(RAGGED_STREAMS) as pool:
            results = list(pool.map(lambda case: swap(port, *case), enumerate(lengths)))
        assert results == [True] * RAGGED_STREAMS
        wait_until(lambda: bed.streams() == 0, what="all streams gone")


def test_a_visitor_that_ends_its_direction_still_gets_the_whole_answer(
    bed: Bed, kind: str, start_agent: StartAgent
) -> None:
    def answer_slowly(sock: socket.socket) -> None:
        question = read_exactly(sock, 5) if kind != "new" else read_all(sock)
        time.sleep(0.3)
        sock.sendall(question * 100_000)

    with service(answer_slowly) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            visitor.sendall(b"hello")
            visitor.shutdown(socket.SHUT_WR)
            assert read_all(visitor) == b"hello" * 100_000
        wait_until(lambda: bed.streams() == 0)


def test_a_service_that_ends_its_direction_is_still_heard_with_our_agent(bed: Bed, start_agent: StartAgent) -> None:
    heard: list[bytes] = []

    def greet_and_listen(sock: socket.socket) -> None:
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        heard.append(read_all(sock))

    with service(greet_and_listen) as local_port:
        start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            assert read_all(visitor) == b"bye"
            visitor.sendall(b"last words")
        wait_until(lambda: heard == [b"last words"])
        wait_until(lambda: bed.streams() == 0)


def test_the_end_of_an_answer_is_not_lost_while_the_visitor_still_talks(
    bed: Bed, kind: str, start_agent: StartAgent
) -> None:
    def answer_and_leave(sock: socket.socket) -> None:
        sock.recv(10)
        sock.sendall(b"x" * 300_000)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1000):
            pass

    with service(answer_and_leave) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            visitor.sendall(b"go")
            read_exactly(visitor, 1)
            visitor.sendall(b"more" * 1000)
            time.sleep(0.05)
            assert len(read_all(visitor)) == 299_999


@pytest.mark.parametrize("ending", ["reset", "close"])
def test_departed_visitors_are_gone_from_the_agent(
    make_bed: MakeBed, kind: str, start_agent: StartAgent, ending: str
) -> None:
    ended = threading.Semaphore(0)

    def talk(sock: socket.socket) -> None:
        try:
            while True:
                sock.sendall(b"x" * 1000)
                if sock.recv(1) == b"":
                    return
        finally:
            ended.release()

    bed = make_bed(tunnel_linger_s=0.5)
    with service(talk) as local_port:
        agent = start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        visitors = [connect(port) for _ in range(20)]
        for visitor in visitors:
            read_exactly(visitor, 1000)
        wait_until(lambda: bed.streams() == 20)
        for visitor in visitors:
            if ending == "reset":
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            visitor.close()
        wait_until(lambda: bed.streams() == 0, timeout_s=5, what="streams gone from the proxy")
        if kind == "old":
            wait_until(lambda: agent.open_streams == 0, timeout_s=5)
        else:
            wait_until(lambda: agent.status().streams == 0, timeout_s=5)
            for _ in range(20):
                assert ended.acquire(timeout=5)


@pytest.mark.parametrize("kind", ["old", "new"])
def test_visitors_that_vanish_in_mid_transfer_leave_nothing(
    make_bed: MakeBed, kind: str, start_agent: StartAgent
) -> None:
    def flood(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"x" * 65536)

    bed = make_bed(limits=replace(FREE, streams_per_old_agent=100))
    with service(flood) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        before = open_descriptors(), threading.active_count()
        visitors = [connect(port) for _ in range(20)]
        for visitor in visitors:
            read_exactly(visitor, 1)
        for visitor in visitors:
            visitor.close()
        wait_until(lambda: bed.streams() == 0, timeout_s=5)
        wait_until(lambda: (open_descriptors(), threading.active_count()) <= before, timeout_s=5)


def test_a_refused_service_ends_the_visit_at_once(bed: Bed, kind: str, start_agent: StartAgent) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        closed_port = reserved.getsockname()[1]
        start_agent(bed, kind, closed_port)
        port = bed.open(closed_port)
        bed.wait_listening(port)
        try:
            with connect(port) as visitor:
                assert read_all(visitor) == b""
        except ConnectionResetError:
            assert kind == "new"
        wait_until(lambda: bed.directory.visits)
        (visit,) = bed.directory.visits
        assert (visit.outcome, visit.port) == ("refused" if kind == "new" else "failed", port)


def test_our_agent_reaches_allowed_ports_only(bed: Bed, start_agent: StartAgent) -> None:
    with service(echo) as allowed, service(echo) as forbidden:
        start_agent(bed, "new", allowed)
        port = bed.open(forbidden)
        bed.wait_listening(port)
        with pytest.raises(ConnectionResetError), connect(port) as visitor:
            read_all(visitor)
        wait_until(lambda: bed.directory.visits)
        assert bed.directory.visits[0].reason == "port not allowed on the device"


def test_small_answers_of_an_agent_with_nagle_are_quick(bed: Bed, start_agent: StartAgent) -> None:
    def three_writes(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while sock.recv(1):
            for _ in range(3):
                sock.sendall(b"abc")
                time.sleep(0.001)

    with service(three_writes) as local_port:
        start_agent(bed, "old", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        times_s = []
        with connect(port) as visitor:
            for _ in range(30):
                started_s = time.perf_counter()
                visitor.sendall(b"?")
                read_exactly(visitor, 9)
                times_s.append(time.perf_counter() - started_s)
        assert statistics.median(times_s) < 0.035  # a delayed acknowledgement would cost 40 ms


def test_frames_to_an_old_agent_are_small_and_it_is_kept_awake(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(rules=LinkRules(keepalive_s=(0.1, 0.2), ping_s=0.4))
    with service(echo) as local_port:
        agent = start_agent(bed, "old", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            sender = threading.Thread(target=visitor.sendall, args=(b"x" * 500_000,))
            sender.start()
            assert len(read_exactly(visitor, 500_000)) == 500_000
            sender.join()
        assert agent.frames[0] == ("D", 0, 0) or agent.frames[0] == ("N", 1, 2)
        wait_until(lambda: ("D", 0, 0) in agent.frames)
        assert max(length for _, _, length in agent.frames) <= 16 << 10
        assert {kind for kind, _, _ in agent.frames} <= set("NDC")


def test_many_visitors_one_after_the_other_leave_nothing(make_bed: MakeBed, kind: str, start_agent: StartAgent) -> None:
    bed = make_bed(tunnel_linger_s=0.5)
    with service(echo) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        for count in range(100):
            with connect(port) as visitor:
                visitor.sendall(b"%d" % count)
                assert visitor.recv(10) == b"%d" % count
        wait_until(lambda: bed.streams() == 0)
        wait_until(lambda: bed.tunnel(port)["visits"] == 100)
        wait_until(lambda: len(bed.directory.visits) == 100)
        assert {visit.outcome for visit in bed.directory.visits} == {"ok"}
        assert sum(visit.bytes_in for visit in bed.directory.visits) == 190
        assert sum(visit.bytes_out for visit in bed.directory.visits) == 190
