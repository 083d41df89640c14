import asyncio
import socket

import pytest

from meetingctl.core.errors import AuthError, HostKeyChanged, MeetingctlError, Unreachable
from meetingctl.remote.banner import HungUp, open_greeted, read_banner
from meetingctl.remote.route import reach
from meetingctl.remote.seen import SeenDevices
from meetingctl.remote.ways import Direct, Route, has_life, host_of_url, plan_ways

DIRECT = Route("192.0.2.7", 22, "direct", "test")
TUNNEL = Route("127.0.0.1", 9050, "tunnel", "test")


def plan(device, *, is_pinned=True, server=(), via="auto"):
    return plan_ways(device, is_pinned=is_pinned, server_addresses=server, via=via)


def test_a_pinned_device_is_tried_directly_first_and_lan_before_the_rest():
    found = plan({"ip_address": "198.51.100.4", "ip_lan": "192.168.1.7", "local_ports": {"ssh": 2222}})
    assert found.ways == ("direct", "tunnel")
    assert found.direct == (Direct("192.168.1.7", 2222, "ip_lan"), Direct("198.51.100.4", 2222, "ip_address"))


def test_the_first_contact_prefers_the_tunnel():
    assert plan({"ip_lan": "192.168.1.7"}, is_pinned=False).ways == ("tunnel", "direct")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "fe80::1", "224.0.0.1", "203.0.113.9", "no address"]
)
def test_addresses_that_lead_elsewhere_are_passed_over_with_a_reason(address):
    found = plan({"ip_lan": address}, server={"203.0.113.9"})
    assert found.ways == ("tunnel",)
    assert found.direct == ()
    assert len(found.passed_over) == 1
    assert address in found.passed_over[0]


def test_one_way_can_be_asked_for():
    device = {"ip_lan": "192.168.1.7", "ip_address": "192.168.1.7"}
    assert plan(device, via="tunnel").ways == ("tunnel",)
    assert plan(device, via="direct").ways == ("direct",)
    assert len(plan(device).direct) == 1
    assert plan({}, via="direct").ways == ()


@pytest.mark.parametrize(
    ("device", "options", "why"),
    [
        ({"ip_lan": "192.168.1.7"}, {}, "a direct address first, because a pinned host key tells"),
        ({"ip_lan": "192.168.1.7"}, {"is_pinned": False}, "the tunnel first, because no pinned host key vouches"),
        ({"ip_lan": "127.0.0.1"}, {"is_pinned": False}, "the tunnel only: no direct address is worth a try"),
        ({}, {}, "the tunnel only: no direct address is worth a try"),
        ({"ip_lan": "192.168.1.7"}, {"via": "tunnel"}, "tunnel only, as asked for"),
        ({"ip_lan": "192.168.1.7"}, {"via": "direct"}, "direct only, as asked for"),
    ],
)
def test_a_plan_says_why_it_begins_where_it_does(device, options, why):
    assert plan(device, **options).why.startswith(why)


def test_a_try_is_named_by_the_addresses_that_it_asks():
    found = plan({"ip_lan": "fd00::7", "ip_address": "198.51.100.4"})
    assert found.name("direct") == "[fd00::7]:22 (ip_lan), 198.51.100.4:22 (ip_address)"
    assert found.name("tunnel") == "the tunnel"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ssh -p 9050 device@gate.example", "gate.example"),
        ("ssh -p 9050 device@fd00::7", "fd00::7"),
        ("scp -P 9050 device@[fd00::7]:", "fd00::7"),
        ("tcp://gate.example:9050", "gate.example"),
    ],
)
def test_the_host_is_read_from_every_form_of_address(url, host):
    assert host_of_url(url) == host


@pytest.mark.parametrize(
    ("end", "lasts"), [(None, True), ("1970-01-01 00:10:01", True), ("1970-01-01 00:09:59", False)]
)
def test_a_tunnel_near_its_end_is_not_begun_in(end, lasts):
    assert has_life({"expires_at": end}, 0) is lasts


def test_an_address_without_a_host_is_an_error():
    with pytest.raises(MeetingctlError):
        host_of_url("nonsense")


async def routes(*found):
    for item in found:
        if isinstance(item, Exception):
            raise item
        yield item


def reach_with(found, outcomes):
    """Walk the routes; `outcomes` says what using each of them gives."""
    notes: list[str] = []

    async def use(route):
        outcome = outcomes[route]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return asyncio.run(reach("cam-7", routes(*found), use, notes.append)), notes


def test_a_stranger_at_the_direct_address_is_passed_over():
    result, notes = reach_with([DIRECT, TUNNEL], {DIRECT: HostKeyChanged("another key"), TUNNEL: "in"})
    assert result == "in"
    assert any("another key" in note for note in notes)


def test_another_key_in_the_tunnel_is_refused():
    with pytest.raises(HostKeyChanged):
        reach_with([TUNNEL, DIRECT], {TUNNEL: HostKeyChanged("another key"), DIRECT: "never"})


def test_a_refused_login_is_final():
    with pytest.raises(AuthError):
        reach_with([DIRECT, TUNNEL], {DIRECT: AuthError("denied"), TUNNEL: "never"})


def test_without_a_next_way_the_stranger_is_the_error():
    with pytest.raises(HostKeyChanged):
        reach_with([DIRECT], {DIRECT: HostKeyChanged("another key")})


async def open_and_close(host: str, port: int, *, timeout_s: float) -> str:
    """Read the greeting, see that it is still to be read, and hang up."""
    line, connection = await open_greeted(host, port, timeout_s=timeout_s)
    with connection:
        assert line.encode() in connection.recv(8192)
    return line


READERS = [read_banner, open_and_close]


async def _serve_once(answer: bytes, *, hold: bool, read=read_banner) -> Unreachable | str:
    released = asyncio.Event()

    async def talk(reader, writer):
        writer.write(answer)
        await writer.drain()
        if hold:
            await released.wait()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            return await read("127.0.0.1", port, timeout_s=0.5)
        except Unreachable as error:
            return error
        finally:
            released.set()


@pytest.mark.parametrize("read", READERS)
def test_a_banner_may_follow_other_lines(read):
    assert asyncio.run(_serve_once(b"hello\r\nSSH-2.0-test\r\n", hold=True, read=read)) == "SSH-2.0-test"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("answer", "hold"), [(b"", True), (b"", False), (b"HTTP/1.1 400\r\n\r\n", False), (b"x" * 20_000, False)]
)
def test_what_is_no_ssh_server_is_unreachable(answer, hold, read):
    assert isinstance(asyncio.run(_serve_once(answer, hold=hold, read=read)), Unreachable)


@pytest.mark.parametrize("read", READERS)
def test_a_server_that_hangs_up_is_told_from_one_that_says_nothing(read):
    assert isinstance(asyncio.run(_serve_once(b"", hold=False, read=read)), HungUp)
    assert not isinstance(asyncio.run(_serve_once(b"", hold=True, read=read)), HungUp)


@pytest.mark.parametrize("read", READERS)
def test_a_closed_port_is_unreachable(read):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreachable):
        asyncio.run(read("127.0.0.1", port, timeout_s=2))


def test_what_a_list_said_is_used_once():
    seen = SeenDevices()
    row = {"device_key": "cam-1", "ip_lan": "192.168.1.7", "ip_address": None, "local_ports": {}, "note": "x"}
    seen.keep(row)
    seen.keep({"device_key": "cam-2", "note": "an older server says less"})
    assert seen.find("cam-1") == {"ip_lan": "192.168.1.7", "ip_address": None, "local_ports": {}}
    assert (seen.find("cam-1"), seen.find("cam-2")) == (None, None)
