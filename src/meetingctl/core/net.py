"""Addresses, networks and ports as text: parse or refuse."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from meetingctl.core.errors import InvalidInput

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")


def parse_address(text: str) -> IpAddress:
    """Read an IPv4 or IPv6 address; an IPv4-mapped IPv6 address becomes IPv4. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def is_address(text: object) -> bool:
    """Say whether the value is the text of an IP address."""
    if not isinstance(text, str) or not 2 <= len(text) <= 45:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_mac(text: object) -> bool:
    """Say whether the value is a MAC address with colons."""
    return isinstance(text, str) and _MAC.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Say whether a host text is `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return parse_address(host).is_loopback
    except ValueError:
        return False


def parse_networks(texts: Iterable[str]) -> tuple[IpNetwork, ...]:
    """Read CIDRs or single addresses. Raises: InvalidInput naming the bad one."""
    networks: list[IpNetwork] = []
    for text in texts:
        try:
            networks.append(_unmapped(ipaddress.ip_network(text.strip(), strict=False)))
        except ValueError as exc:
            raise InvalidInput(
                f"not a network: {text[:64]!r}", hint="use for example 10.0.0.0/24 or 192.0.2.7"
            ) from exc
    return tuple(networks)


def _unmapped(network: IpNetwork) -> IpNetwork:
    """Turn `::ffff:10.0.0.0/104` into `10.0.0.0/8`, as addresses are."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


def address_in(address: str, networks: Sequence[IpNetwork]) -> bool:
    """Say whether the address lies in one of the networks; garbage lies in none."""
    try:
        parsed = parse_address(address)
    except ValueError:
        return False
    return any(parsed.version == network.version and parsed in network for network in networks)


def parse_endpoint(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Split `HOST:PORT`, `[V6]:PORT` or, with a default port, `HOST`. Raises: InvalidInput."""
    hint = "use HOST:PORT, for example 127.0.0.1:8470"
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]]+))(?::(\d{1,5}))?", text.strip())
    if match is None:
        raise InvalidInput(f"not an address: {text[:128]!r}", hint=hint)
    host, port_text = match[1] or match[2], match[3]
    if port_text is None and default_port is None:
        raise InvalidInput(f"no port in {text[:128]!r}", hint=hint)
    port = int(port_text) if port_text is not None else int(default_port or 0)
    if port > 65535:
        raise InvalidInput(f"port out of range in {text[:128]!r}", hint="ports go from 0 to 65535")
    return host, port


def join_endpoint(host: str, port: int) -> str:
    """Write `HOST:PORT`, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_port_range(text: str) -> range:
    """Read `9050-9130` or a single port. Raises: InvalidInput."""
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text.strip())
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if not 1 <= first <= last <= 65535:
        raise InvalidInput(f"not a port range: {text[:32]!r}", hint="use for example 9050-9130")
    return range(first, last + 1)
