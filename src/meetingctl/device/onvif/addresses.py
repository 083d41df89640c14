"""Which of our addresses a client is given, and who we are on the network. Pure."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Sequence

from meetingctl.core.netlink import Interface

# After the interfaces of NETWORK_INTERFACE_PRIORITY; the names of a virtual machine and of newer systems.
_ALSO = ("enp0s3", "end0")
_BUILT_IN = ("eth0", "end0", "enp", "eno", "ens", "eth", "wlan", "wl")
_SPACE = uuid.UUID("6f2c2d3e-8f5b-5c58-9d0b-0d0d6a1f7c11")


def preferred_address(interfaces: Sequence[Interface], priority: Sequence[str]) -> str:
    """Return the address to announce where no client tells which one it sees; loopback when there is no other."""
    usable = {item.name: item for item in interfaces if item.is_up and item.addresses and not item.is_loopback}
    for name in (*priority, *_ALSO):
        if name in usable:
            return usable[name].addresses[0][0]
    for item in usable.values():
        for address, _ in item.addresses:
            if not ipaddress.IPv4Address(address).is_link_local:
                return address
    return "127.0.0.1"


def address_for(
    local: str, interfaces: Sequence[Interface], priority: Sequence[str], *, is_everywhere: bool = True
) -> str:
    """Return the address for a client that reached us at `local`: that one, unless it cannot be meant for others.

    A client on this machine is told what others are, where we listen `is_everywhere`.
    """
    try:
        parsed = ipaddress.ip_address(local.partition("%")[0])
    except ValueError:
        return preferred_address(interfaces, priority)
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_unspecified or parsed.version == 6 or (parsed.is_loopback and is_everywhere):
        return preferred_address(interfaces, priority)
    return str(parsed)


def address_facing(peer: str, interfaces: Sequence[Interface]) -> str:
    """Return our address in the subnet of a peer, the longest prefix first; empty when it is in none."""
    found = [
        (prefix, address)
        for item in interfaces
        if item.is_up
        for address, prefix in item.addresses
        if Interface("", addresses=((address, prefix),)).holds(peer)
    ]
    return max(found)[1] if found else ""


def main_mac(interfaces: Sequence[Interface]) -> str:
    """Return the MAC of the first built-in interface, empty without one."""
    named = [item for item in interfaces if item.mac and not item.is_loopback and item.mac != "00:00:00:00:00:00"]
    for prefix in _BUILT_IN:
        for item in sorted(named, key=lambda item: item.name):
            if item.name.startswith(prefix):
                return item.mac
    return ""


def endpoint_uuid(serial: str, mac: str, machine_id: str) -> str:
    """Return the address of this device as an endpoint, the same at each start: `urn:uuid:...`.

    A cloned card has the machine-id of its original, so that comes last.
    """
    source = next((text for text in (serial, mac, machine_id) if text), "unknown")
    return f"urn:uuid:{uuid.uuid5(_SPACE, source)}"
