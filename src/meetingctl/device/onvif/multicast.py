"""WS-Discovery on the wire: one UDP socket that is a member of the group on every interface."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from meetingctl.core.layout import WS_DISCOVERY_PORT
from meetingctl.core.netlink import Interface
from meetingctl.device.onvif import discovery
from meetingctl.device.onvif.addresses import address_facing

_IP_PKTINFO = 8
_IP_MULTICAST_ALL = 49
_PKTINFO = struct.Struct("=I4s4s")
_MREQN = struct.Struct("=4s4sI")
_LONGEST_DELAY_S = 0.5
_MOST_WAITING = 64
_DATAGRAMS_AT_ONCE = 4  # then others have a turn
_MOST_READ_OF_ONE = 20  # a second; to read a datagram costs a hundred times as much as to drop it
_MOST_READ_OF_ALL = 60

log = logging.getLogger(__name__)

Describe = Callable[[str], discovery.Self]


class Announcer:
    """Answers and announces until `close`; belongs to the event loop."""

    def __init__(self, describe: Describe, *, port: int = WS_DISCOVERY_PORT) -> None:
        """`describe` tells who we are to a client that reaches us at an address. Raises: OSError."""
        self._describe = describe
        self._port = port
        self._order = discovery.Order(int(time.time()))
        self._throttle = discovery.Throttle()
        self._reading = discovery.Throttle(_MOST_READ_OF_ONE, _MOST_READ_OF_ALL)
        self._interfaces: tuple[Interface, ...] = ()
        self._told: tuple[object, ...] | None = None
        # Later than that of an earlier start, whatever that one had come to.
        self._version = int(time.time())
        self._joined: set[int] = set()
        self._waiting = 0
        self._socket = _open_socket(port)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._receive)

    def update(self, interfaces: Iterable[Interface]) -> None:
        """Follow the interfaces of the moment: join where we are not, and say hello where an address is new."""
        old = {(item.index, address) for item in self._interfaces for address, _ in item.addresses}
        self._interfaces = tuple(item for item in interfaces if item.is_up and item.addresses)
        if self._has_news():
            old = set()
        present = {item.index for item in self._interfaces}
        self._joined &= present
        for item in self._interfaces:
            # An interface that lost its last address lost its membership too, and joining twice does no harm.
            self._join(item)
            for address, _ in item.addresses:
                if (item.index, address) not in old and not item.is_loopback:
                    self._send_to_group(item, address, discovery.write_hello)

    def _has_news(self) -> bool:
        """Say whether we describe ourselves otherwise than before; then the version is a new one."""
        addresses = [address for item in self._interfaces for address, _ in item.addresses]
        told = tuple((who.address, tuple(who.scopes)) for who in map(self._describe, addresses))
        is_first, has_changed = self._told is None, told != self._told
        self._told = told
        if has_changed and not is_first:
            self._version += 1
        return has_changed

    def _self_at(self, address: str) -> discovery.Self:
        return replace(self._describe(address), version=self._version)

    def close(self) -> None:
        """Say goodbye and stop."""
        for item in self._interfaces:
            for address, _ in item.addresses:
                if not item.is_loopback:
                    self._send_to_group(item, address, discovery.write_bye)
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _join(self, item: Interface) -> None:
        group = _MREQN.pack(socket.inet_aton(discovery.GROUP), socket.inet_aton("0.0.0.0"), item.index)  # noqa: S104
        try:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        except OSError as exc:
            if item.index not in self._joined and "in use" not in str(exc):
                log.debug("cannot join", extra={"interface": item.name, "error": str(exc)})
                return
        self._joined.add(item.index)

    def _send_to_group(
        self, item: Interface, address: str, write: Callable[[discovery.Self, discovery.Order], bytes]
    ) -> None:
        data = write(self._self_at(address), self._order)
        self._send(data, (discovery.GROUP, self._port), item.index, address)

    def _receive(self) -> None:
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                data, extra, _, peer = self._socket.recvmsg(discovery.LARGEST_DATAGRAM_BYTES + 1, 64)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                log.debug("discovery", extra={"error": str(exc)})
                return
            index, is_multicast = _arrival(extra)
            self._consider(data, peer, index, is_multicast)

    def _consider(self, data: bytes, peer: tuple[str, int], index: int, is_multicast: bool) -> None:
        if not discovery.may_be_question(data) or not self._is_near(peer[0]):
            return
        if not self._reading.allows(peer[0], time.monotonic()):
            return
        question = discovery.parse_question(data)
        here = [item for item in self._interfaces if item.index == index] or list(self._interfaces)
        address = address_facing(peer[0], here) or next((a for item in here for a, _ in item.addresses), "")
        if question is None or not address:
            return
        who = self._self_at(address)
        if not discovery.is_match(question, who.endpoint, who.scopes):
            return
        if self._waiting >= _MOST_WAITING or not self._throttle.allows(peer[0], time.monotonic()):
            return
        delay_s = random.uniform(0, _LONGEST_DELAY_S) if is_multicast and question.kind == "probe" else 0.0  # noqa: S311
        self._waiting += 1
        self._loop.call_later(delay_s, self._answer, question, who, peer, index, address)

    def _answer(
        self, question: discovery.Question, who: discovery.Self, peer: tuple[str, int], index: int, address: str
    ) -> None:
        self._waiting -= 1
        if self._socket.fileno() >= 0:
            self._send(discovery.write_answer(question, who, self._order), peer, index, address)

    def _send(self, data: bytes, peer: tuple[str, int], index: int, address: str) -> None:
        """Send from an address through an interface, so that no route is needed."""
        info = _PKTINFO.pack(index, socket.inet_aton(address), bytes(4))
        with contextlib.suppress(OSError):
            self._socket.sendmsg([data], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, peer)

    def _is_near(self, peer: str) -> bool:
        """Say whether a source may be answered: one of our networks or a private one, never the open internet."""
        parsed = ipaddress.IPv4Address(peer)
        return parsed.is_private or any(item.holds(peer) for item in self._interfaces)


def _open_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock


def _arrival(extra: list[tuple[int, int, bytes]]) -> tuple[int, bool]:
    """Return the interface that a datagram came in by, and whether it was sent to the group."""
    for level, kind, data in extra:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO.size:
            index, _, target = _PKTINFO.unpack_from(data)
            return int(index), ipaddress.IPv4Address(target).is_multicast
    return 0, False
