"""Durations, names, addresses, secrets, times: parse or refuse."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core import clock, duration, ids, net
from meetingctl.core.errors import InvalidInput
from meetingctl.core.secret import Secret, hide_url_password, same_secret, sha256_hex
from meetingctl.core.services import TUNNEL_SERVICES, service_url


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1h30m", 5400), ("2d", 172800), ("250ms", 0.25), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration.parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-5", "5x", "1h-3m", "nan", "inf", "9" * 40, True])
def test_durations_refuse_the_rest(text: str) -> None:
    with pytest.raises(InvalidInput):
        duration.parse_duration_s(text)


@given(st.integers(0, 10**7))
def test_a_written_duration_reads_back_within_its_two_units(seconds: int) -> None:
    back = duration.parse_duration_s(duration.format_duration(seconds))
    assert 0 <= seconds - back <= seconds * 0.05 + 0.5


@pytest.mark.parametrize("key", ["cam-1", "A", "0" * 128, "A.b_c-d", "3FA9C1D2" * 4])
def test_device_keys(key: str) -> None:
    assert ids.parse_device_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "-x", ".x", "a/b", "a b", "x" * 129, "généré", "Generate-Key", "manual-create", "a\n", "a\0"]
)
def test_device_keys_refuse_the_rest(key: str) -> None:
    with pytest.raises(InvalidInput):
        ids.parse_device_key(key)


def test_made_names_are_what_existing_devices_hold() -> None:
    assert ids.is_device_key(ids.new_device_key())
    assert len(ids.new_device_key()) == 32
    code = ids.new_token_code()
    assert ids.parse_token_code(code.lower()) == code
    with pytest.raises(InvalidInput):
        ids.parse_token_code("12345")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:22", ("::1", 22)), ("host.example:0", ("host.example", 0))],
)
def test_endpoints_read_and_write(text: str, endpoint: tuple[str, int]) -> None:
    assert net.parse_endpoint(text) == endpoint
    assert net.join_endpoint(*endpoint) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:99999", "a b:1", "::1:22", "host:1:2"])
def test_endpoints_refuse_the_rest(text: str) -> None:
    with pytest.raises(InvalidInput):
        net.parse_endpoint(text)


def test_port_ranges() -> None:
    assert net.parse_port_range("9050-9130") == range(9050, 9131)
    assert net.parse_port_range("80") == range(80, 81)
    for bad in ("", "0", "5-4", "1-70000", "a-b"):
        with pytest.raises(InvalidInput):
            net.parse_port_range(bad)


def test_a_mapped_address_is_its_ipv4_address() -> None:
    networks = net.parse_networks(["10.0.0.0/8", "2001:db8::/32"])
    assert net.address_in("::ffff:10.1.2.3", networks)
    assert net.address_in("2001:db8::5", networks)
    assert not net.address_in("192.0.2.1", networks)
    assert not net.address_in("nonsense", networks)


@given(st.ip_addresses())
def test_every_address_is_an_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert net.is_address(str(address))


@pytest.mark.parametrize("text", ["", "1", "300.1.1.1", None, 7, "x" * 60])
def test_what_is_no_address(text: object) -> None:
    assert not net.is_address(text)


def test_macs() -> None:
    assert net.is_mac("00:1A:2b:3C:4D:5E")
    assert not net.is_mac("00-1A-2B-3C-4D-5E")
    assert not net.is_mac("00:1A:2B:3C:4D:5E\n")


def test_a_secret_does_not_show() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} { {'a': secret} }"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert not Secret("")


@given(st.text(), st.text())
def test_secrets_compare_by_value(left: str, right: str) -> None:
    assert same_secret(left, right) == (left == right)
    assert len(sha256_hex(left)) == 64


def test_times_on_the_wire() -> None:
    assert clock.wire_text(0) == "1970-01-01 00:00:00"
    assert clock.wire_text(None) is None
    assert clock.iso_text(1_700_000_000_123) == "2023-11-14T22:13:20Z"


@given(st.integers(0, 4_000_000_000))
def test_wire_times_read_back(seconds: int) -> None:
    assert clock.parse_wire(clock.wire_text(seconds * 1000) or "") == seconds * 1000


def test_every_service_has_an_address_form() -> None:
    assert service_url("ssh", "meet.example", 9050) == "ssh -p 9050 device@meet.example"
    assert service_url("scp", "meet.example", 9050) == "scp -P 9050 device@meet.example:"
    assert service_url("http", "::1", 9050) == "http://[::1]:9050"
    for service in TUNNEL_SERVICES:
        assert "9051" in service_url(service, "h", 9051)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@db/fleet", "postgresql://u:***@db/fleet"),
        ("postgresql+psycopg://u:hun/te@r?2@db:5432/fleet", "postgresql+psycopg://u:***@db:5432/fleet"),
        ("postgresql://:hunter2@db/fleet", "postgresql://:***@db/fleet"),
        ("postgresql://db/fleet?user=u&password=hunter2&sslpassword=hunter2", None),
        ("postgresql://u@db/fleet", "postgresql://u@db/fleet"),
        ("http://127.0.0.1:8470", "http://127.0.0.1:8470"),
        ("sqlite:////srv/a@b.db", "sqlite:////srv/a@b.db"),
    ],
)
def test_a_password_in_a_url_is_not_shown(url: str, shown: str | None) -> None:
    assert hide_url_password(url) == (shown or "postgresql://db/fleet?user=u&password=***&sslpassword=***")
