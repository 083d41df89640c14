"""The server end of the reverse tunnel: agents in, public ports out, in step with the registry.

The control plane runs on asyncio; the bytes move on the thread of `plane`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import random
import resource
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from meetingctl.core.descriptors import raise_descriptor_limit
from meetingctl.core.errors import ConfigError, Conflict
from meetingctl.core.events import AGENT_REFUSED, AGENT_UP, PORT_REFUSED
from meetingctl.core.net import join_endpoint, parse_endpoint
from meetingctl.core.settings import Settings
from meetingctl.tunnel.caps import Agreed
from meetingctl.tunnel.directory import (
    PORT_NOT_ALLOWED,
    Admission,
    Desired,
    Directory,
    Outcome,
    Tunnel,
    Visit,
)
from meetingctl.tunnel.figures import describe_agent, describe_link, describe_tunnel, short_name
from meetingctl.tunnel.gate import DeviceHistory
from meetingctl.tunnel.grace import GraceRules
from meetingctl.tunnel.ledger import Ledger
from meetingctl.tunnel.listening import resolve_host
from meetingctl.tunnel.pace import EventPace
from meetingctl.tunnel.plane import DataPlane, Session, Visitor
from meetingctl.tunnel.publicport import PublicPort, VisitorRates
from meetingctl.tunnel.reception import Reception
from meetingctl.tunnel.rules import LinkRules, ProxyLimits
from meetingctl.tunnel.sockets import close_with_reset

log = logging.getLogger(__name__)

_TICK_S = 0.25
_LONGEST_RETRY_S = 10.0
_SYNC_S = 10.0
# A tunnel that leaves the registry this close to its end has expired; before, somebody deleted it.
_EXPIRY_SKEW_S = 5.0
_HISTORIES_KEPT = 10_000
_ENOUGH_DESCRIPTORS = 4096
_AGENT_LOST = "agent lost"
_AGENT_STALLED = "agent stalled"
_SHARED_KEY = "two devices share one key"
_PACED = frozenset({AGENT_UP, _AGENT_LOST, _AGENT_STALLED, _SHARED_KEY})


class Proxy:
    """Accept agents, open the tunnels that the directory wants, and report what happened."""

    def __init__(
        self,
        *,
        settings: Settings,
        directory: Directory,
        name: str = "proxy",
        limits: ProxyLimits | None = None,
        rules: LinkRules | None = None,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._name = short_name(name)
        self._limits = limits or ProxyLimits()
        self._rules = rules or LinkRules(
            grace=GraceRules(grace_s=settings.tunnel_grace_s), linger_s=settings.tunnel_linger_s
        )
        self._reception = Reception(directory, self._limits, on_agent=self._add_agent, on_refused=self._note_refusal)
        self._ledger = Ledger(self._limits)
        self._pace = EventPace(per_min=self._limits.events_per_device_per_min)
        self._rates = VisitorRates(self._limits)
        self._sessions: dict[str, Session] = {}
        self._ports: dict[int, PublicPort] = {}
        self._taken_ports: set[int] = set()
        self._ending: dict[tuple[int, str], float] = {}
        self._histories: dict[str, DeviceHistory] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._address: tuple[str, int] | None = None
        self._bind = settings.tunnel_bind

    # Life.

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where agents dial in."""
        if self._address is None:
            raise RuntimeError("the proxy is not started")
        return self._address

    async def start(self) -> None:
        """Listen and serve. Raises: Conflict when the port is taken, ConfigError when the address cannot be bound."""
        loop = asyncio.get_running_loop()
        host, port = parse_endpoint(self._settings.tunnel_listen)
        try:
            host = await resolve_host(host)
            self._bind = await resolve_host(self._settings.tunnel_bind)
            self._address = self._reception.open(host, port)
        except OSError as exc:
            leaf = Conflict if exc.errno == errno.EADDRINUSE else ConfigError
            raise leaf(
                f"cannot listen for agents at {join_endpoint(host, port)}: {exc.strerror or exc}",
                hint="choose another address with --listen or MEETINGCTL_TUNNEL_LISTEN",
            ) from exc
        _raise_descriptor_limit()
        self._wake = asyncio.Event()
        notify = functools.partial(_call_soon_unless_closed, loop)
        self._plane = DataPlane(self._rules, self._limits, listener=self, notify=notify)
        self._plane.start()
        self._tasks = [asyncio.ensure_future(self._keep_in_step()), asyncio.ensure_future(self._keep_time())]
        log.info("tunnel proxy up", extra={"listen": join_endpoint(*self._address)})

    async def close(self) -> None:
        """Stop listening, end all streams, and hand the last records to the directory."""
        if self._address is None:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reception.close()
        for public_port in self._ports.values():
            public_port.close("proxy stopped")
        await asyncio.to_thread(self._plane.close, self._limits.close_s)
        self._sessions.clear()
        self._ingest_visits()
        with contextlib.suppress(Exception):  # boundary: the registry may be gone already
            async with asyncio.timeout(self._limits.close_s):
                await self._directory.sync(self._ledger.report(self._name, ()))
        self._ports.clear()
        self._address = None
        log.info("tunnel proxy down")

    # Agents come and go.

    def _add_agent(
        self, admission: Admission, order: int, sock: socket.socket, peer: str, terms: Agreed, early: bytes
    ) -> None:
        """Make a connection the device's session; the newest authenticated one wins."""
        key = admission.device_key
        session = Session(key, admission.generation, order, peer, "new" if terms.is_new else "old")
        former = self._sessions.get(key)
        if former is not None and former.order > order:
            sock.close()
            return
        self._sessions[key] = session
        if former is not None:
            self._plane.drop_session(former, "replaced")
            if self._history(key).note_takeover(time.monotonic(), self._limits):
                self._note_event(key, _SHARED_KEY, f"last from {former.peer} and {peer}")
        self._plane.add_session(session, sock, terms, early)
        self._note_event(key, AGENT_UP, f"{session.kind} agent from {peer}")
        for public_port in self._ports_of(key):
            self._attach(public_port, session)

    def on_session_lost(self, session: Session, reason: str, detail: str) -> None:
        """Start the blip of the device's ports, unless another session took over."""
        if reason in {"protocol error", "stalled", "silent"}:
            self._ledger.kills[reason] += 1
        if self._sessions.get(session.device_key) is not session:
            return
        key, now_s = session.device_key, time.monotonic()
        del self._sessions[key]
        if reason == "stalled":
            self._note_event(key, _AGENT_STALLED, detail)
        self._note_event(key, _AGENT_LOST, ": ".join(filter(None, (reason, detail))))
        spoke = session.link is not None and session.link.received_bytes > 0
        if self._history(key).note_life(now_s - session.connected_s, spoke=spoke, limits=self._limits):
            self._note_event(key, "agent too old", "it drops each connection right after the handshake")
        for public_port in self._ports_of(key):
            public_port.detach(now_s)

    def on_visitor_returned(self, visitor: Visitor) -> None:
        """Keep a visitor whose agent was gone a moment too early."""
        public_port = self._ports.get(visitor.tunnel.port)
        if public_port is not None and public_port.tunnel.device_key == visitor.tunnel.device_key:
            public_port.hold(visitor)
        else:
            close_with_reset(visitor.sock)
            self._turn_away(visitor, "refused", "agent offline")

    def _drop_agent(self, device_key: str, reason: str) -> None:
        for public_port in self._ports_of(device_key):
            public_port.session = None
            public_port.close(reason)
        if session := self._sessions.pop(device_key, None):
            self._plane.drop_session(session, reason)
            self._note_event(device_key, _AGENT_LOST, reason)

    def _history(self, device_key: str) -> DeviceHistory:
        if len(self._histories) >= _HISTORIES_KEPT and device_key not in self._histories:
            del self._histories[next(iter(self._histories))]
        return self._histories.setdefault(device_key, DeviceHistory())

    def _note_refusal(self, device_key: str, address: str) -> None:
        """Report a refused credential; the reception has logged it."""
        self._ledger.note_event(device_key, AGENT_REFUSED, address)
        self._wake.set()

    def _note_event(self, device_key: str, kind: str, detail: str = "") -> None:
        if kind in _PACED:
            passed = self._pace.pass_on(device_key, kind, detail, time.monotonic())
            if passed is None:
                self._wake.set()
                return
            detail = passed
        self._ledger.note_event(device_key, kind, detail)
        log.info("tunnel event", extra={"device": device_key, "event": kind, "detail": detail})
        self._wake.set()

    # Tunnels come and go.

    def _apply(self, desired: Desired) -> None:
        for device_key, reason in desired.drop:
            self._drop_agent(device_key, reason)
        wanted = {tunnel.port: tunnel for tunnel in desired.tunnels}
        for port, public_port in list(self._ports.items()):
            if port not in wanted or not _is_same_way(public_port.tunnel, wanted[port]):
                self._remove_port(public_port)
        for port, tunnel in wanted.items():
            if port in self._ports:
                self._ports[port].set_tunnel(tunnel)
            else:
                self._add_port(tunnel)

    def _add_port(self, tunnel: Tunnel) -> None:
        public_port = PublicPort(
            tunnel,
            bind=self._bind,
            limits=self._limits,
            rates=self._rates,
            pass_on=self._plane.add_visitor,
            turn_away=self._turn_away,
        )
        self._ports[tunnel.port] = public_port
        if not public_port.is_expired:
            self._ending.pop((tunnel.port, tunnel.device_key), None)
        if session := self._sessions.get(tunnel.device_key):
            self._attach(public_port, session)

    def _remove_port(self, public_port: PublicPort) -> None:
        tunnel = public_port.tunnel
        ends_at_ms = tunnel.expires_at_ms
        if ends_at_ms is not None and time.time() >= ends_at_ms / 1000 - _EXPIRY_SKEW_S:
            public_port.close("expired")
            self._end_later(tunnel)
        else:
            public_port.close("tunnel closed")
            self._plane.drop_visitors(tunnel.port, tunnel.device_key, "tunnel closed")
        del self._ports[tunnel.port]
        self._taken_ports.discard(tunnel.port)
        self._ledger.forget_port(tunnel.port)

    def _end_later(self, tunnel: Tunnel) -> None:
        """Give the live streams of an expired tunnel their last minute."""
        self._ending.setdefault((tunnel.port, tunnel.device_key), time.monotonic() + self._limits.expired_streams_s)

    def _attach(self, public_port: PublicPort, session: Session) -> None:
        self._try_port(public_port, functools.partial(public_port.attach, session))

    def _try_port(self, public_port: PublicPort, action: Callable[[], None]) -> None:
        """Run what may have to listen; say once when another program has the port, and try again at each tick."""
        port = public_port.tunnel.port
        try:
            action()
        except OSError as exc:
            if port not in self._taken_ports:
                self._taken_ports.add(port)
                self._note_event(public_port.tunnel.device_key, "port taken", f"{port}: {exc.strerror or exc}")
        else:
            self._taken_ports.discard(port)

    def _ports_of(self, device_key: str) -> list[PublicPort]:
        return [public_port for public_port in self._ports.values() if public_port.tunnel.device_key == device_key]

    def _turn_away(self, visitor: Visitor, outcome: Outcome, reason: str) -> None:
        self._ledger.note_visit(visitor.visit(outcome, reason), time.monotonic())

    # Time.

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = time.monotonic()
            for public_port in list(self._ports.values()):
                self._try_port(public_port, functools.partial(public_port.check_time, now_s))
                if public_port.is_expired:
                    self._end_later(public_port.tunnel)
                else:
                    self._ending.pop((public_port.tunnel.port, public_port.tunnel.device_key), None)
            for (port, device_key), ends_s in list(self._ending.items()):
                if now_s >= ends_s:
                    del self._ending[port, device_key]
                    self._plane.drop_visitors(port, device_key, "expired")
            self._ingest_visits()

    def _ingest_visits(self) -> None:
        now_s = time.monotonic()
        while self._plane.ended:
            visit = self._plane.ended.popleft()
            self._ledger.note_visit(visit, now_s)
            if visit.reason == PORT_NOT_ALLOWED:
                self._note_refused_port(visit)

    def _note_refused_port(self, visit: Visit) -> None:
        """Report a port that the agent keeps closed, once per connection of the agent: it cannot change in between."""
        session = self._sessions.get(visit.device_key)
        if session is not None and visit.local_port not in session.refused_ports:
            session.refused_ports.add(visit.local_port)
            self._note_event(visit.device_key, PORT_REFUSED, str(visit.local_port))

    # In step with the directory.

    async def _keep_in_step(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            self._ingest_visits()
            report = self._ledger.report(self._name, tuple(map(describe_link, self._sessions.values())))
            try:
                async with asyncio.timeout(_SYNC_S):
                    desired = await self._directory.sync(report)
                self._ledger.confirm(report)
                self._apply(desired)
            except Exception as exc:  # boundary: tunnels outlive a registry that is down for a while
                failures += 1
                log.warning("tunnel registry failed", extra={"error": str(exc) or type(exc).__name__})
                most_s = min(self._settings.tunnel_poll_s * 2**failures, _LONGEST_RETRY_S)
                await asyncio.sleep(random.uniform(most_s / 2, most_s))  # noqa: S311 - spreads load, hides nothing
                continue
            failures = 0
            if not self._ledger.is_large:
                await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        """Return soon after a change in the directory, somewhat later after one here, at the latest after a poll."""
        started_s = time.monotonic()
        change = asyncio.ensure_future(self._directory.wait_change(self._settings.tunnel_poll_s))
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((change, wake), timeout=self._settings.tunnel_poll_s, return_when="FIRST_COMPLETED")
            if not change.done():
                rest_s = self._limits.report_interval_s - (time.monotonic() - started_s)
                await asyncio.wait((change,), timeout=max(0.0, rest_s))
            has_failed = change.done() and change.exception() is not None
            await asyncio.sleep(self._settings.tunnel_poll_s if has_failed else self._limits.change_interval_s)
        finally:
            for task in (change, wake):
                task.cancel()
            await asyncio.gather(change, wake, return_exceptions=True)

    # Figures.

    def snapshot(self) -> dict[str, Any]:
        """Return live figures per agent and tunnel, ready for JSON."""
        return {
            "name": self._name,
            "listen": None if self._address is None else join_endpoint(*self._address),
            "agents": [describe_agent(session) for session in self._sessions.values()],
            "tunnels": [self._describe_tunnel(public_port) for public_port in self._ports.values()],
            "pending_handshakes": self._reception.pending,
        }

    def _describe_tunnel(self, public_port: PublicPort) -> dict[str, Any]:
        port = public_port.tunnel.port
        return describe_tunnel(
            public_port,
            self._sessions.get(public_port.tunnel.device_key),
            live=self._plane.live_streams(port),
            past=tuple(self._ledger.port_totals.get(port, (0, 0, 0))),
        )

    def counters(self) -> dict[str, Mapping[tuple[str, ...], int]]:
        """Return running totals: name -> label values -> count.

        visits: (service, outcome, reason); handshakes: (outcome,); kills: (reason,); bytes: ("in",) towards the devices
        and ("out",) from them.
        """
        bytes_in, bytes_out = self._plane.carried_bytes
        return {
            "visits": {labels: count for labels, count in self._ledger.visits.items()},
            "handshakes": {(outcome,): count for outcome, count in self._reception.outcomes.items()},
            "kills": {(reason,): count for reason, count in self._ledger.kills.items()},
            "bytes": {("in",): bytes_in, ("out",): bytes_out},
        }


def _is_same_way(left: Tunnel, right: Tunnel) -> bool:
    """Say whether two tunnels lead to the same place; what else differs can change under live streams."""
    return (left.device_key, left.service, left.local_port) == (right.device_key, right.service, right.local_port)


def _raise_descriptor_limit() -> None:
    limit = raise_descriptor_limit()
    if limit != resource.RLIM_INFINITY and limit < _ENOUGH_DESCRIPTORS:
        log.warning(
            "few file descriptors: each agent takes 1, each stream 1 more", extra={"limit": limit, "hint": "ulimit -Hn"}
        )


def _call_soon_unless_closed(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *args)
