"""Find cameras on the local networks with WS-Discovery: one probe from each address, answers until a deadline."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from meetingctl.core.layout import WS_DISCOVERY_PORT
from meetingctl.core.netlink import read_interfaces

_GROUP = "239.255.255.250"
_DATAGRAM_BYTES = 64 * 1024
_MOST_FOUND = 4096
_SOAP = "{http://www.w3.org/2003/05/soap-envelope}"
_DISCOVERY = "http://schemas.xmlsoap.org/ws/2005/04/discovery"
_ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
_SCOPE = "onvif://www.onvif.org/"
_PROBE = """<?xml version="1.0" encoding="utf-8"?>\
<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="{addressing}" xmlns:d="{discovery}"\
 xmlns:dn="http://www.onvif.org/ver10/network/wsdl"><s:Header><a:MessageID>{message_id}</a:MessageID>\
<a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To><a:Action>{discovery}/Probe</a:Action></s:Header>\
<s:Body><d:Probe><d:Types>dn:NetworkVideoTransmitter</d:Types></d:Probe></s:Body></s:Envelope>"""


@dataclass(frozen=True, slots=True)
class Found:
    """A camera that answered: `addresses` are its service addresses, `scopes` its own words."""

    endpoint: str
    source: str
    addresses: tuple[str, ...]
    scopes: tuple[str, ...]

    def scope(self, name: str) -> str:
        """Return the value of a scope such as `name` or `hardware`, empty without it."""
        prefix = f"{_SCOPE}{name}/"
        return next((unquote(text.removeprefix(prefix)) for text in self.scopes if text.startswith(prefix)), "")

    def as_json(self) -> dict[str, Any]:
        """Return it as the command shows it."""
        return {
            "address": self.source,
            "name": self.scope("name"),
            "hardware": self.scope("hardware"),
            "endpoint": self.endpoint,
            "services": list(self.addresses),
        }


def find_cameras(*, timeout_s: float, port: int = WS_DISCOVERY_PORT, targets: Iterable[str] = ()) -> list[Found]:
    """Probe every local network, or only `targets` by unicast, and return who answered, by address."""
    message_id = f"urn:uuid:{uuid.uuid4()}"
    probe = _PROBE.format(addressing=_ADDRESSING, discovery=_DISCOVERY, message_id=message_id).encode()
    receivers = list(targets)
    found: dict[tuple[str, str], Found] = {}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for address in [""] if receivers else _own_addresses():
            with contextlib.suppress(OSError):
                sock = stack.enter_context(_open(address))
                for receiver in receivers or [_GROUP]:
                    sock.sendto(probe, (receiver, port))
                waiting.register(sock, selectors.EVENT_READ)
        ends_s = time.monotonic() + timeout_s
        while waiting.get_map() and (left_s := ends_s - time.monotonic()) > 0:
            for key, _ in waiting.select(left_s):
                with contextlib.suppress(OSError):
                    data, peer = key.fileobj.recvfrom(_DATAGRAM_BYTES)  # type: ignore[union-attr]
                    for item in parse_matches(data, message_id, str(peer[0])):
                        if len(found) < _MOST_FOUND:
                            found.setdefault((item.endpoint, item.source), item)
    return sorted(found.values(), key=lambda item: tuple(int(part) for part in item.source.split(".")))


def parse_matches(data: bytes, message_id: str, source: str) -> list[Found]:
    """Read an answer to our own probe; nothing for anything else."""
    if b"<!" in data:
        return []
    try:
        root = ET.fromstring(data)  # noqa: S314 - without a document type there is nothing to expand
    except (ET.ParseError, ValueError):
        return []
    relates = root.findtext(f"{_SOAP}Header/{{{_ADDRESSING}}}RelatesTo") or ""
    if relates.strip() != message_id:
        return []
    matches = root.iterfind(f"{_SOAP}Body/{{{_DISCOVERY}}}ProbeMatches/{{{_DISCOVERY}}}ProbeMatch")
    return [_read_match(item, source) for item in matches]


def _read_match(match: ET.Element, source: str) -> Found:
    def words(name: str) -> tuple[str, ...]:
        return tuple((match.findtext(f"{{{_DISCOVERY}}}{name}") or "").split())

    path = f"{{{_ADDRESSING}}}EndpointReference/{{{_ADDRESSING}}}Address"
    return Found((match.findtext(path) or "").strip(), source, words("XAddrs"), words("Scopes"))


def _own_addresses() -> list[str]:
    own = [address for item in read_interfaces() if item.is_up for address, _ in item.addresses]
    return own or [""]


def _open(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        if address:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sock.bind((address, 0))
    except OSError:
        sock.close()
        raise
    return sock
