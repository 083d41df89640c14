"""Pure rules: which addresses a webhook may reach, which URLs it may have, when it tries again."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.client.hooks import may_reach, parse_hook_url, post_hook
from meetingctl.core.errors import Forbidden, InvalidInput, Unreachable
from meetingctl.core.net import parse_address, parse_networks
from meetingctl.server.webhooks.signing import RETRY_CAP_S, choose_retry_s, new_secret, signature


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2002:c0a8:101::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_private_addresses_are_out_of_bounds(address: str) -> None:
    assert not may_reach(parse_address(address), ())


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_reached(address: str) -> None:
    assert may_reach(parse_address(address), ())


def test_a_listed_network_is_reached() -> None:
    networks = parse_networks(["10.0.0.0/8", "fd00::/8"])
    assert may_reach(parse_address("10.9.8.7"), networks)
    assert may_reach(parse_address("fd00::5"), networks)
    assert not may_reach(parse_address("192.168.0.1"), networks)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "http://",
        "http:///path",
        "//example.org",
        "example.org",
        "http://user:pass@example.org/",
        "http://example.org/a b",
        "http://example.org/\r\nX: y",
        "http://example.org:99999/",
        "http://[::1",
        "https://example.org/" + "a" * 2048,
    ],
)
def test_bad_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse_hook_url(url)


def test_good_urls_are_taken() -> None:
    for url in ("https://hooks.example.org/a?b=c", "http://10.0.0.1:8080", "https://[2001:db8::1]:8443/x"):
        assert str(parse_hook_url(url)).startswith(url)


@given(st.integers(0, 1000), st.floats(0.01, 3600))
def test_pauses_grow_to_a_cap(attempts: int, first_s: float) -> None:
    pause_s = choose_retry_s(attempts, first_s)
    assert 0.75 * min(first_s, RETRY_CAP_S) <= pause_s <= RETRY_CAP_S


def test_pauses_grow() -> None:
    assert choose_retry_s(3, 10) > choose_retry_s(2, 10) > choose_retry_s(1, 10)


def test_a_signature_depends_on_everything() -> None:
    known = signature("secret", 1700000000, b"{}")
    assert known == "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
    others = {signature("other", 1700000000, b"{}"), signature("secret", 1700000001, b"{}")}
    assert len({known, *others, signature("secret", 1700000000, b"[]")}) == 4
    assert new_secret() != new_secret()


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path / "server.pem"))

    async def post() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            await post_hook(url, b"{}", {}, timeout_s=20, networks=parse_networks(["127.0.0.1"]))

    with pytest.raises(Unreachable, match=r"(?i)certificate"):
        asyncio.run(post())


def make_certificate(path: Path) -> Path:
    """Write a certificate for 127.0.0.1 that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.now(UTC) - timedelta(days=1)
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = builder.not_valid_before(start).not_valid_after(start + timedelta(days=9)).add_extension(names, False)
    pem = signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    path.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def test_nobody_listens() -> None:
    networks = parse_networks(["127.0.0.1"])
    with pytest.raises(Unreachable):
        asyncio.run(post_hook("http://127.0.0.1:1/", b"{}", {}, timeout_s=20, networks=networks))
    with pytest.raises(Forbidden, match="no public address"):
        asyncio.run(post_hook("http://127.0.0.1:1/", b"{}", {}, timeout_s=20))
