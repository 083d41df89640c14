"""Interfaces and IPv4 addresses of this machine, from the kernel. Source: rtnetlink(7)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("=IHHII")
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_DONE, _ERROR = 3, 2
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_UP, _LOOPBACK = 0x1, 0x8
_IFLA_ADDRESS, _IFLA_NAME, _IFA_ADDRESS, _IFA_LOCAL = 1, 3, 1, 2
_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface with its IPv4 addresses, each with the length of its prefix."""

    name: str
    mac: str = ""
    addresses: tuple[tuple[str, int], ...] = ()
    is_up: bool = True
    is_loopback: bool = False
    index: int = 0

    def holds(self, address: str) -> bool:
        """Say whether an address is one of this interface or lies in one of its subnets."""
        return any(_in_subnet(address, own, prefix) for own, prefix in self.addresses)


def read_interfaces() -> tuple[Interface, ...]:
    """Ask the kernel. Returns nothing when it does not answer, or is no Linux."""
    if not hasattr(socket, "AF_NETLINK"):
        return ()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(_TIMEOUT_S)
            links = list(_dump(sock, _RTM_GETLINK, _RTM_NEWLINK, 16))
            rows = list(_dump(sock, _RTM_GETADDR, _RTM_NEWADDR, 8))
    except OSError:
        return ()
    addresses: dict[int, list[tuple[str, int]]] = {}
    for head, attributes in rows:
        family, prefix, _, _, index = struct.unpack("=BBBBI", head)
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if family == socket.AF_INET and raw:
            addresses.setdefault(index, []).append((socket.inet_ntoa(raw), prefix))
    return tuple(_interface(head, attributes, addresses) for head, attributes in links)


def _interface(head: bytes, attributes: dict[int, bytes], addresses: dict[int, list[tuple[str, int]]]) -> Interface:
    _, _, index, flags, _ = struct.unpack("=BxHiII", head)
    mac = ":".join(f"{byte:02x}" for byte in attributes.get(_IFLA_ADDRESS, b""))
    name = attributes.get(_IFLA_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
    return Interface(name, mac, tuple(addresses.get(index, ())), bool(flags & _UP), bool(flags & _LOOPBACK), int(index))


def _dump(sock: socket.socket, ask: int, answer: int, head_bytes: int) -> Iterator[tuple[bytes, dict[int, bytes]]]:
    """Yield the fixed part and the attributes of each row of a table."""
    sock.send(_HEADER.pack(_HEADER.size + 16, ask, _DUMP, 1, 0) + bytes(16))
    while True:
        packet = sock.recv(65536)
        offset = 0
        while offset + _HEADER.size <= len(packet):
            length, kind, *_ = _HEADER.unpack_from(packet, offset)
            if kind in {_DONE, _ERROR} or length < _HEADER.size:
                return
            if kind == answer:
                row = packet[offset + _HEADER.size : offset + length]
                yield row[:head_bytes], dict(_attributes(row[head_bytes:]))
            offset += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _in_subnet(address: str, own: str, prefix: int) -> bool:
    try:
        return ipaddress.IPv4Address(address) in ipaddress.IPv4Network(f"{own}/{prefix}", strict=False)
    except ValueError:
        return False
