"""The proxy's data plane: one thread that moves the bytes of all agents and visitors.

Public methods are called from the control plane's thread and return at once; what happens is told back through
`notify`, which must be safe to call from here.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol, cast

from meetingctl.core.clock import now_ms
from meetingctl.core.site import site_of
from meetingctl.tunnel import codec
from meetingctl.tunnel.caps import Agreed, kinds_from_agent
from meetingctl.tunnel.directory import AgentKind, Outcome, Tunnel, Visit
from meetingctl.tunnel.group import LinkGroup
from meetingctl.tunnel.link import Link
from meetingctl.tunnel.reactor import Reactor
from meetingctl.tunnel.rules import LinkRules, ProxyLimits
from meetingctl.tunnel.sharing import choose_displaced
from meetingctl.tunnel.sockets import close_with_reset, set_visitor_options
from meetingctl.tunnel.stream import Stream

_ENDED_KEPT = 16_384


@dataclass(slots=True, eq=False)
class Session:
    """One authenticated agent connection. `link` is set and used by the data plane only; others may read figures."""

    device_key: str
    generation: int
    order: int
    peer: str
    kind: AgentKind
    connected_at_ms: int = field(default_factory=now_ms)
    connected_s: float = field(default_factory=time.monotonic)
    # Local ports that the agent turned visitors away from; the control plane's own.
    refused_ports: set[int] = field(default_factory=set)
    link: Link | None = None


@dataclass(slots=True)
class Visitor:
    """A visitor's connection at a public port, before or while it has a stream."""

    sock: socket.socket
    peer: str
    tunnel: Tunnel
    opened_at_ms: int = field(default_factory=now_ms)
    opened_s: float = field(default_factory=time.monotonic)

    def visit(self, outcome: Outcome, reason: str, *, bytes_in: int = 0, bytes_out: int = 0) -> Visit:
        """Return the record of this visitor, who leaves now."""
        return Visit(
            device_key=self.tunnel.device_key,
            port=self.tunnel.port,
            service=self.tunnel.service,
            local_port=self.tunnel.local_port,
            peer=self.peer,
            opened_at_ms=self.opened_at_ms,
            duration_ms=int((time.monotonic() - self.opened_s) * 1000),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            outcome=outcome,
            reason=reason,
        )


class PlaneListener(Protocol):
    """Who hears of the data plane's events, on the control plane's thread."""

    def on_session_lost(self, session: Session, reason: str, detail: str) -> None:
        """An agent's connection ended."""

    def on_visitor_returned(self, visitor: Visitor) -> None:
        """The agent was gone before the visitor could be given a stream."""


class DataPlane:
    """Own the loop, the links and the live streams."""

    def __init__(
        self, rules: LinkRules, limits: ProxyLimits, *, listener: PlaneListener, notify: Callable[..., object]
    ) -> None:
        self._limits = limits
        self._listener = listener
        self._notify = notify
        self._reactor = Reactor()
        self._group = LinkGroup(self._reactor, rules)
        self._is_closing = False
        self._live: dict[int, set[Stream]] = {}
        self._thread = threading.Thread(target=self._reactor.run, name="tunnel-data", daemon=True)
        self.ended: deque[Visit] = deque(maxlen=_ENDED_KEPT)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """End all links and streams, then the thread."""
        self._reactor.call_threadsafe(self._end_all)
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._reactor.close()

    @property
    def carried_bytes(self) -> tuple[int, int]:
        """Payload bytes so far, towards the devices and from them."""
        return self._group.sent_bytes, self._group.received_bytes

    def live_streams(self, port: int) -> tuple[int, int, int]:
        """Return the number of live streams at a public port, and their bytes to and from the device."""
        streams = list(self._live.get(port, ()))
        return len(streams), sum(s.sent_bytes for s in streams), sum(s.received_bytes for s in streams)

    def add_session(self, session: Session, sock: socket.socket, terms: Agreed, early: bytes) -> None:
        """Take over an authenticated connection; `early` are bytes that came right behind the handshake."""
        self._reactor.call_threadsafe(self._add_session, session, sock, terms, early)

    def drop_session(self, session: Session, reason: str) -> None:
        """End an agent's connection and all its streams."""
        self._reactor.call_threadsafe(self._drop_session, session, reason)

    def add_visitor(self, session: Session, visitor: Visitor) -> None:
        """Give a visitor a stream to the session's agent."""
        self._reactor.call_threadsafe(self._add_visitor, session, visitor)

    def drop_visitors(self, port: int, device_key: str, reason: str) -> None:
        """End the live streams of a tunnel."""
        self._reactor.call_threadsafe(self._drop_visitors, port, device_key, reason)

    def _add_session(self, session: Session, sock: socket.socket, terms: Agreed, early: bytes) -> None:
        if self._is_closing:
            sock.close()
            return
        try:
            link = Link(self._group, sock, terms, kinds=kinds_from_agent(terms), owner=self, label=session)
        except OSError as exc:
            sock.close()
            self._notify(self._listener.on_session_lost, session, "connection lost", exc.strerror or str(exc))
            return
        session.link = link
        if terms.ping:
            link.ping()
        if early:
            link.feed(memoryview(early))

    def _drop_session(self, session: Session, reason: str) -> None:
        if session.link is not None:
            session.link.fail(reason)

    def _add_visitor(self, session: Session, visitor: Visitor) -> None:
        link = session.link
        if link is None or link.closed:
            self._notify(self._listener.on_visitor_returned, visitor)
            return
        limits, port = self._limits, visitor.tunnel.port
        most = limits.streams_per_new_agent if link.terms.is_new else limits.streams_per_old_agent
        if len(link.streams) >= most:
            link.make_room()
        site = site_of(visitor.peer)
        has_room = self._make_room(link.streams.values(), site, most) and self._make_room(
            self._live.get(port, ()), site, limits.streams_per_tunnel
        )
        # Ending a stream sends a frame, and the frame too many ends the link.
        if not has_room or link.closed:
            close_with_reset(visitor.sock)
            self.ended.append(visitor.visit("refused", "too many streams"))
            return
        try:
            set_visitor_options(visitor.sock, unsent_bytes=self._group.rules.unsent_bytes)
        except OSError:
            visitor.sock.close()
            self.ended.append(visitor.visit("reset", "visitor reset"))
            return
        stream = link.open_stream(visitor.sock, visitor.tunnel.local_port, label=visitor)
        if not stream.closed:
            self._live.setdefault(port, set()).add(stream)

    def _make_room(self, taken: Collection[Stream], site: str, most: int) -> bool:
        """Say whether there is room for one more stream; the largest holder may have to give one."""
        if len(taken) < most:
            return True
        streams = list(taken)
        held = [(site_of(cast(Visitor, stream.label).peer), stream.silent_s(self._reactor.now_s)) for stream in streams]
        index = choose_displaced(held, site, most=most, least_idle_s=self._limits.displaced_idle_s)
        if index is None:
            return False
        streams[index].link.abort(streams[index], codec.RESET, "reset", "gave way to another visitor")
        return True

    def _drop_visitors(self, port: int, device_key: str, reason: str) -> None:
        for stream in list(self._live.get(port, ())):
            if cast(Visitor, stream.label).tunnel.device_key == device_key:
                stream.link.abort(stream, codec.RESET, "reset", reason)

    def _end_all(self) -> None:
        self._is_closing = True
        self._reactor.stop()
        for link in list(self._group.links):
            link.fail("proxy stopped")

    def on_link_lost(self, link: Link, reason: str, detail: str) -> None:
        """Pass the loss on."""
        self._notify(self._listener.on_session_lost, cast(Session, link.label), reason, detail)

    def on_open(self, link: Link, stream_id: int, opening: codec.Opening) -> None:
        """Agents do not open streams: the decoder has refused the frame before."""
        raise NotImplementedError

    def on_stream_end(self, stream: Stream, outcome: Outcome, reason: str) -> None:
        """Write the record of the visit."""
        visitor = cast(Visitor, stream.label)
        port = visitor.tunnel.port
        if live := self._live.get(port):
            live.discard(stream)
            if not live:
                del self._live[port]
        self.ended.append(visitor.visit(outcome, reason, bytes_in=stream.sent_bytes, bytes_out=stream.received_bytes))
