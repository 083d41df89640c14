"""Public ports: open only while the agent is there, closed to strangers, and changed without touching live streams."""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from dataclasses import replace

import pytest

from meetingctl.core.clock import now_ms
from meetingctl.tunnel.directory import Tunnel
from meetingctl.tunnel.rules import ProxyLimits

from .conftest import MakeBed, StartAgent, either_agent
from .support import FREE, KEY, TOKEN, Bed, connect, echo, read_all, read_exactly, service, wait_until


def is_refused(port: int) -> bool:
    """Say whether nobody listens."""
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def is_reset(port: int) -> bool:
    """Say whether a visitor is accepted and thrown out, with or without a word."""
    try:
        with connect(port) as visitor:
            return visitor.recv(1) == b""
    except (ConnectionResetError, BrokenPipeError):
        return True


def say(visitor: socket.socket, text: bytes) -> bytes:
    visitor.sendall(text)
    return read_exactly(visitor, len(text))


def test_a_new_tunnel_listens_within_200_ms(bed: Bed, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        wait_until(lambda: bed.directory.reports and bed.directory.reports[-1].agents)
        opened_s = []
        for _ in range(7):
            started_s = time.monotonic()
            port = bed.open(local_port)
            wait_until(lambda port=port: not is_refused(port))  # type: ignore[misc]
            opened_s.append(time.monotonic() - started_s)
        assert statistics.median(opened_s) < 0.2


@either_agent
def test_nobody_listens_without_the_agent(bed: Bed, kind: str, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        port = bed.open(local_port)
        wait_until(lambda: bed.tunnel(port))
        assert is_refused(port)
        start_agent(bed, kind, local_port)
        bed.wait_listening(port, timeout_s=1)
        with connect(port) as visitor:
            assert say(visitor, b"hi") == b"hi"


@either_agent
def test_visitors_wait_over_a_blip_and_are_served(make_bed: MakeBed, kind: str, start_agent: StartAgent) -> None:
    bed = make_bed()
    with service(echo) as local_port:
        agent = start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        agent.close()
        wait_until(lambda: not bed.agents())
        with connect(port) as visitor:
            visitor.sendall(b"patience")
            wait_until(lambda: bed.tunnel(port)["held_visitors"] == 1)
            time.sleep(0.6)
            start_agent(bed, kind, local_port)
            assert read_exactly(visitor, 8) == b"patience"


def test_a_blip_that_lasts_resets_the_waiting_and_closes_the_port(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(limits=replace(FREE, blip_s=0.5, held_visitors=3))
    with service(echo) as local_port:
        agent = start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        agent.close()
        wait_until(lambda: not bed.agents())
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(connect(port)) for _ in range(3)]
            wait_until(lambda: bed.tunnel(port)["held_visitors"] == 3)
            assert is_reset(port)
            for visitor in held:
                with pytest.raises(ConnectionResetError):
                    read_all(visitor)
        wait_until(lambda: is_refused(port))
        wait_until(lambda: len(bed.directory.visits) == 4)
        assert {(visit.outcome, visit.reason) for visit in bed.directory.visits} == {("refused", "agent offline")}


@either_agent
def test_only_listed_addresses_get_in(make_bed: MakeBed, kind: str, start_agent: StartAgent) -> None:
    bed = make_bed(tunnel_linger_s=0.2)
    with service(echo) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port, allow_from=("192.0.2.0/24", "2001:db8::/32"))
        bed.wait_listening(port)
        assert is_reset(port)
        tunnel = bed.directory.tunnels[port]
        bed.want(replace(tunnel, allow_from=("127.0.0.0/8",)))
        wait_until(lambda: bed.tunnel(port)["allow_from"] == ["127.0.0.0/8"])
        with connect(port) as visitor:
            assert say(visitor, b"hi") == b"hi"
            bed.want(replace(tunnel, allow_from=()))
            wait_until(lambda: bed.tunnel(port)["allow_from"] == [])
            assert is_reset(port)
            assert say(visitor, b"still") == b"still"
        wait_until(lambda: len(bed.directory.visits) >= 3)
        assert "address not allowed" in {visit.reason for visit in bed.directory.visits}


@either_agent
def test_an_expired_tunnel_takes_no_visitor_and_then_ends_its_streams(
    make_bed: MakeBed, kind: str, start_agent: StartAgent
) -> None:
    bed = make_bed(limits=replace(FREE, expired_streams_s=0.4))
    with service(echo) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port, expires_at_ms=now_ms() + 400)
        bed.wait_listening(port)
        with connect(port) as visitor:
            assert say(visitor, b"before") == b"before"
            wait_until(lambda: is_refused(port), timeout_s=2)
            bed.unwant(port)
            assert say(visitor, b"after") == b"after"
            with pytest.raises(ConnectionResetError):
                read_all(visitor)
        wait_until(lambda: any(visit.reason == "expired" for visit in bed.directory.visits))


def test_a_renewed_tunnel_keeps_its_streams(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(limits=replace(FREE, expired_streams_s=0.5))
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        port = bed.open(local_port, expires_at_ms=now_ms() + 500)
        bed.wait_listening(port)
        with connect(port) as visitor:
            assert say(visitor, b"before") == b"before"
            wait_until(lambda: is_refused(port), timeout_s=2)
            bed.want(replace(bed.directory.tunnels[port], expires_at_ms=now_ms() + 60_000))
            bed.wait_listening(port)
            time.sleep(0.9)
            assert say(visitor, b"after") == b"after"


@either_agent
def test_a_deleted_tunnel_ends_at_once_and_others_go_on(bed: Bed, kind: str, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        start_agent(bed, kind, local_port)
        doomed, kept = bed.open(local_port), bed.open(local_port)
        bed.wait_listening(doomed)
        bed.wait_listening(kept)
        with connect(doomed) as leaving, connect(kept) as staying:
            assert say(leaving, b"a") == say(staying, b"a")
            bed.unwant(doomed)
            with pytest.raises(ConnectionResetError):
                read_all(leaving)
            assert is_refused(doomed)
            assert say(staying, b"still") == b"still"


def test_a_port_that_moves_to_another_device_starts_afresh(bed: Bed, start_agent: StartAgent) -> None:
    bed.directory.tokens["CAM-2"] = TOKEN
    with service(echo) as first, service(lambda sock: sock.sendall(b"second")) as second:
        start_agent(bed, "new", first)
        start_agent(bed, "new", second, key="CAM-2")
        port = bed.open(first)
        bed.wait_listening(port)
        with connect(port) as visitor:
            assert say(visitor, b"a") == b"a"
            bed.want(Tunnel(port=port, device_key="CAM-2", service="relay", local_port=second))
            with pytest.raises(ConnectionResetError):
                read_all(visitor)
        bed.wait_listening(port)
        with connect(port) as visitor:
            assert read_all(visitor) == b"second"


@either_agent
def test_a_revoked_device_loses_agent_and_streams_at_once(bed: Bed, kind: str, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            assert say(visitor, b"a") == b"a"
            bed.drop(KEY, "device revoked")
            with pytest.raises(ConnectionResetError):
                read_all(visitor)
        assert is_refused(port)
        wait_until(lambda: not bed.agents())
        wait_until(lambda: any(event.detail == "device revoked" for event in bed.directory.events))


def test_a_device_revoked_during_a_blip_loses_its_waiting_visitors(bed: Bed, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        agent = start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        agent.close()
        wait_until(lambda: not bed.agents())
        with connect(port) as visitor:
            bed.drop(KEY, "device revoked")
            with pytest.raises(ConnectionResetError):
                read_all(visitor)
        wait_until(lambda: is_refused(port))


def test_visitors_are_limited_per_address(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(limits=ProxyLimits(visitor_burst=5, visitors_per_address_per_s=0.1))
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                assert say(stack.enter_context(connect(port)), b"x") == b"x"
            assert is_reset(port)
        counters = bed.do(bed.proxy.counters)
        assert counters["visits"]["relay", "refused", "too many visitors"] == 1


def test_streams_are_limited_per_old_agent(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(limits=replace(FREE, streams_per_old_agent=4))
    with service(echo) as local_port:
        start_agent(bed, "old", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with contextlib.ExitStack() as stack:
            visitors = [stack.enter_context(connect(port)) for _ in range(4)]
            assert [say(visitor, b"x") for visitor in visitors] == [b"x"] * 4
            assert is_reset(port)
            assert [say(visitor, b"y") for visitor in visitors] == [b"y"] * 4


def test_a_taken_public_port_is_reported_once_and_opened_when_free(bed: Bed, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        with socket.socket() as squatter:
            squatter.bind(("127.0.0.1", 0))
            squatter.listen()
            port = squatter.getsockname()[1]
            bed.want(Tunnel(port=port, device_key=KEY, service="relay", local_port=local_port))
            wait_until(lambda: any(event.kind == "port taken" for event in bed.directory.events))
        bed.wait_listening(port)
        assert sum(event.kind == "port taken" for event in bed.directory.events) == 1


def test_tunnels_outlive_a_registry_that_is_down(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed()
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        bed.directory.fails = True
        bed.do(bed.directory.notify)
        with connect(port) as visitor:
            assert say(visitor, b"a") == b"a"
        time.sleep(0.3)
        with connect(port) as visitor:
            assert say(visitor, b"b") == b"b"
        bed.directory.fails = False
        wait_until(lambda: len(bed.directory.visits) == 2, timeout_s=15)


@either_agent
def test_the_snapshot_tells_what_is_going_on(bed: Bed, kind: str, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port, service="http")
        bed.wait_listening(port)
        with connect(port) as visitor:
            assert say(visitor, b"12345") == b"12345"
            wait_until(lambda: kind != "new" or bed.agents()[0]["rtt_ms"] is not None)
            figures = bed.tunnel(port)
        assert figures["agent"]["kind"] == ("new" if kind == "new" else "old")
        assert (figures["streams"], figures["bytes_in"], figures["bytes_out"]) == (1, 5, 5)
        assert (figures["device_key"], figures["service"], figures["online"]) == (KEY, "http", True)


@either_agent
def test_silent_connections_of_one_address_give_way_to_another(
    make_bed: MakeBed, kind: str, start_agent: StartAgent
) -> None:
    few = {"streams_per_tunnel": 4} if kind == "new" else {"streams_per_old_agent": 4}
    bed = make_bed(limits=replace(FREE, displaced_idle_s=0.3, **few))  # type: ignore[arg-type]
    with service(echo) as local_port, contextlib.ExitStack() as stack:
        start_agent(bed, kind, local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        greedy = [stack.enter_context(connect(port)) for _ in range(4)]
        wait_until(lambda: bed.streams() == 4)
        deadline_s = time.monotonic() + 0.5
        while time.monotonic() < deadline_s:
            assert say(greedy[3], b"in use") == b"in use"
        assert is_reset(port)
        neighbour = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0))
        assert say(stack.enter_context(neighbour), b"let me in") == b"let me in"
        assert say(greedy[3], b"still in use") == b"still in use"
        wait_until(lambda: any(visit.reason == "gave way to another visitor" for visit in bed.directory.visits))
