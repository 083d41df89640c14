"""WS-Discovery: what is answered, how it matches, and who is not helped by it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from meetingctl.core.netlink import Interface, read_interfaces
from meetingctl.device.onvif.addresses import address_facing, address_for, endpoint_uuid, main_mac, preferred_address
from meetingctl.device.onvif.discovery import (
    Order,
    Question,
    Self,
    Throttle,
    is_match,
    may_be_question,
    parse_question,
    write_answer,
    write_bye,
    write_hello,
)
from meetingctl.device.onvif.multicast import Announcer
from meetingctl.device.onvif.soap import NAMESPACES, qname

from .live import free_udp_port

SCOPES = [
    "onvif://www.onvif.org/Profile/Streaming",
    "onvif://www.onvif.org/hardware/D1-566",
    "onvif://www.onvif.org/name/Cam%20%231",
]
ENDPOINT = "urn:uuid:6f2c2d3e-8f5b-5c58-9d0b-0d0d6a1f7c11"
WHO = Self(ENDPOINT, SCOPES, "http://10.0.0.7:8080/onvif/device_service")
D = NAMESPACES["d"]


def probe(inner: str = "", *, message_id: str = "urn:uuid:1") -> bytes:
    declared = " ".join(f'xmlns:{key}="{NAMESPACES[key]}"' for key in ("s", "a", "d", "dn", "tds"))
    return (
        f"<s:Envelope {declared}><s:Header><a:MessageID>{message_id}</a:MessageID>"
        f"<a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To><a:Action>{D}/Probe</a:Action></s:Header>"
        f"<s:Body><d:Probe>{inner}</d:Probe></s:Body></s:Envelope>"
    ).encode()


def matches(inner: str) -> bool:
    question = parse_question(probe(inner))
    return question is not None and is_match(question, ENDPOINT, SCOPES)


@pytest.mark.parametrize(
    ("inner", "is_ours"),
    [
        ("", True),
        ("<d:Types/>", True),
        ("<d:Types>dn:NetworkVideoTransmitter</d:Types>", True),
        ("<d:Types>tds:Device dn:NetworkVideoTransmitter</d:Types>", True),
        (f'<d:Types xmlns:x="{NAMESPACES["dn"]}">x:NetworkVideoTransmitter</d:Types>', True),
        ('<d:Types xmlns:dn="http://else.where">dn:NetworkVideoTransmitter</d:Types>', False),
        ("<d:Types>dn:NetworkVideoDisplay</d:Types>", False),
        ("<d:Types>zz:NetworkVideoTransmitter</d:Types>", False),
        ("<d:Types>NetworkVideoTransmitter</d:Types>", False),
        (
            '<d:Types xmlns:p="http://schemas.microsoft.com/windows/2006/08/wdp/print">p:PrintDeviceType</d:Types>',
            False,
        ),
        ("<d:Scopes>onvif://www.onvif.org/Profile/Streaming</d:Scopes>", True),
        ("<d:Scopes>ONVIF://WWW.ONVIF.ORG/Profile</d:Scopes>", True),
        ("<d:Scopes>onvif://www.onvif.org/</d:Scopes>", True),
        ("<d:Scopes>onvif://www.onvif.org/hardware/D1</d:Scopes>", False),
        ("<d:Scopes>onvif://www.onvif.org/hardware/D1-566/</d:Scopes>", True),
        ("<d:Scopes>onvif://www.onvif.org/profile/Streaming</d:Scopes>", False),
        ("<d:Scopes>onvif://www.onvif.org/name/Cam%20#1</d:Scopes>", False),
        ("<d:Scopes>onvif://www.onvif.org/name/Cam%20%231</d:Scopes>", True),
        ("<d:Scopes>onvif://www.onvif.org/Profile onvif://www.onvif.org/location/x</d:Scopes>", False),
        ("<d:Scopes>http://[</d:Scopes>", False),
        (f'<d:Scopes MatchBy="{D}/rfc2396">onvif://www.onvif.org/Profile</d:Scopes>', True),
        (f'<d:Scopes MatchBy="{D}/rfc3986">onvif://www.onvif.org/Profile</d:Scopes>', True),
        (f'<d:Scopes MatchBy="{D}/strcmp0">onvif://www.onvif.org/Profile</d:Scopes>', False),
        (f'<d:Scopes MatchBy="{D}/strcmp0">onvif://www.onvif.org/Profile/Streaming</d:Scopes>', True),
        (f'<d:Scopes MatchBy="{D}/uuid">onvif://www.onvif.org/Profile</d:Scopes>', False),
    ],
)
def test_a_probe_matches_as_the_specification_says(inner: str, is_ours: bool) -> None:
    assert matches(inner) is is_ours


def test_an_answer_tells_who_and_to_whom() -> None:
    order = Order(1234)
    question = parse_question(probe(message_id="urn:uuid:abc"))
    assert question is not None
    root = etree.fromstring(write_answer(question, WHO, order))
    assert root.findtext(f".//{qname('a:RelatesTo')}") == "urn:uuid:abc"
    assert root.findtext(f".//{qname('a:Action')}") == f"{D}/ProbeMatches"
    assert root.findtext(f".//{qname('d:XAddrs')}") == WHO.address
    assert root.findtext(f".//{qname('d:Scopes')}") == " ".join(SCOPES)
    types = root.find(f".//{qname('d:Types')}")
    assert types is not None
    assert [types.nsmap[word.partition(":")[0]] for word in (types.text or "").split()] == [
        NAMESPACES["dn"],
        NAMESPACES["tds"],
    ]
    numbers = [
        etree.fromstring(data).find(f".//{qname('d:AppSequence')}")
        for data in (write_hello(WHO, order), write_bye(WHO, order))
    ]
    assert [(item.get("InstanceId"), item.get("MessageNumber")) for item in numbers if item is not None] == [
        ("1234", "2"),
        ("1234", "3"),
    ]


def test_resolve_is_for_our_endpoint_only() -> None:
    for endpoint, expected in ((ENDPOINT, True), ("urn:uuid:0", False), ("", False)):
        inner = f"<a:EndpointReference><a:Address>{endpoint}</a:Address></a:EndpointReference>"
        data = probe(inner).replace(b"d:Probe>", b"d:Resolve>")
        question = parse_question(data)
        assert question is not None
        assert is_match(question, ENDPOINT, SCOPES) is expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        b"<a/>",
        probe("<!-- -->" + "x" * 9000),
        b"<!DOCTYPE x>" + probe(),
        probe(message_id=""),
        probe().replace(b"Probe", b"Hello"),
        probe().decode().encode("utf-16"),
        probe(f'<d:Types a="{"x" * 7000}">' + "</d:Types>" + "<a:b>" * 40 + "</a:b>" * 40),
    ],
)
def test_junk_is_no_question(data: bytes) -> None:
    assert parse_question(data) is None


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    assert parse_question(data) is None or isinstance(parse_question(data), Question)
    parse_question(probe().replace(b"Probe", data[:20]))


def test_what_is_too_much_is_not_even_read() -> None:
    many = " ".join(f"onvif://www.onvif.org/name/{number}" for number in range(33))
    assert parse_question(probe(f"<d:Scopes>{many}</d:Scopes>")) is None
    types = " ".join(["dn:NetworkVideoTransmitter"] * 33)
    assert parse_question(probe(f"<d:Types>{types}</d:Types>")) is None
    assert not may_be_question(b"x" * 100)
    assert not may_be_question(b"Probe" * 2000)
    reading = Throttle(20, 60)
    assert sum(reading.allows("10.0.0.9", 5.0) for _ in range(100)) == 20
    assert sum(reading.allows(f"10.0.1.{number}", 5.0) for number in range(100)) == 40


def test_one_source_gets_ten_answers_a_second_and_all_together_forty() -> None:
    throttle = Throttle()
    assert [throttle.allows("10.0.0.9", 1.0) for _ in range(12)].count(True) == 10
    assert not throttle.allows("10.0.0.9", 1.9)
    assert throttle.allows("10.0.0.9", 2.1)
    many = Throttle()
    assert sum(many.allows(f"10.0.{number >> 8}.{number & 255}", 1.0) for number in range(2000)) == 40
    assert len(many._answers) <= 512


WIRED = Interface("eth0", "b8:27:eb:00:00:01", (("10.0.0.7", 24),), index=2)
WIFI = Interface("wlan0", "b8:27:eb:00:00:02", (("192.168.4.1", 24), ("10.9.9.9", 8)), index=3)
LOCAL = Interface("lo", "00:00:00:00:00:00", (("127.0.0.1", 8),), is_loopback=True, index=1)
PRIORITY = ("eth0", "wlan1", "wlan0")


def test_the_preferred_address_follows_the_priority() -> None:
    assert preferred_address((LOCAL, WIFI, WIRED), PRIORITY) == "10.0.0.7"
    assert preferred_address((LOCAL, WIFI, WIRED), ("wlan0",)) == "192.168.4.1"
    unplugged = Interface("eth0", WIRED.mac, (), index=2)
    assert preferred_address((LOCAL, unplugged, WIFI), PRIORITY) == "192.168.4.1"
    other = Interface("usb0", "", (("172.16.0.1", 16),))
    assert preferred_address((LOCAL, other), PRIORITY) == "172.16.0.1"
    assert preferred_address((LOCAL,), PRIORITY) == "127.0.0.1"


def test_a_client_is_told_the_address_that_it_reached() -> None:
    everything = (LOCAL, WIFI, WIRED)
    assert address_for("192.168.4.1", everything, PRIORITY) == "192.168.4.1"
    assert address_for("::ffff:192.168.4.1", everything, PRIORITY) == "192.168.4.1"
    assert address_for("fe80::1%eth0", everything, PRIORITY) == "10.0.0.7"
    assert address_for("127.0.0.1", everything, PRIORITY) == "10.0.0.7"
    assert address_for("127.0.0.1", everything, PRIORITY, is_everywhere=False) == "127.0.0.1"
    assert address_for("127.0.0.1", (LOCAL,), PRIORITY) == "127.0.0.1"
    assert address_facing("10.0.0.200", everything) == "10.0.0.7"
    assert address_facing("10.200.0.1", everything) == "10.9.9.9"
    assert address_facing("8.8.8.8", everything) == ""


def test_the_endpoint_stays_the_same_and_is_not_that_of_a_cloned_card() -> None:
    assert endpoint_uuid("100000001", "a", "m") == endpoint_uuid("100000001", "b", "n")
    assert endpoint_uuid("", "aa", "m") != endpoint_uuid("", "bb", "m")
    assert main_mac((LOCAL, WIFI, WIRED)) == WIRED.mac


def test_the_version_grows_when_something_else_is_told() -> None:
    async def follow() -> list[int]:
        scopes, versions = list(SCOPES), []
        announcer = Announcer(lambda address: Self(ENDPOINT, tuple(scopes), f"http://{address}/"), port=free_udp_port())
        try:
            for more, interfaces in (("", (LOCAL,)), ("", (LOCAL,)), ("new", (LOCAL,)), ("", ()), ("", (LOCAL,))):
                scopes.extend([more] if more else [])
                announcer.update(interfaces)
                versions.append(announcer._self_at("127.0.0.1").version)
        finally:
            announcer.close()
        return [version - versions[0] for version in versions]

    assert asyncio.run(follow()) == [0, 0, 1, 2, 3]


def test_the_kernel_tells_our_interfaces() -> None:
    found = {item.name: item for item in read_interfaces()}
    assert found["lo"].is_loopback
    assert ("127.0.0.1", 8) in found["lo"].addresses
