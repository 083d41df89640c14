"""The device end of the reverse tunnel: dial the proxy, serve streams to local ports, come back after every loss."""

from __future__ import annotations

import errno
import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import AuthError, MeetingctlError
from meetingctl.tunnel import codec
from meetingctl.tunnel.agentconfig import AgentConfig
from meetingctl.tunnel.caps import Agreed, kinds_from_proxy
from meetingctl.tunnel.dialling import dial
from meetingctl.tunnel.directory import Outcome
from meetingctl.tunnel.group import LinkGroup
from meetingctl.tunnel.heartbeat import Heartbeat
from meetingctl.tunnel.link import Link
from meetingctl.tunnel.reactor import Reactor
from meetingctl.tunnel.rules import AGENT_RULES, LinkRules
from meetingctl.tunnel.stream import Stream

log = logging.getLogger(__name__)

MOST_STREAMS = 1024
_STOP_CHECK_S = 0.25
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """Where the agent stands. `state` is connecting, online, waiting or stopped; `kind` is new with caps, else old."""

    state: str = "connecting"
    kind: str = ""
    error: str = ""
    since_ms: int = 0
    retry_s: float = 0.0
    streams: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rtt_ms: float | None = None


def backoff_s(attempt: int, config: AgentConfig, spread: float, *, is_api_up: bool = False) -> float:
    """Return the pause before an attempt: jitter from half the first pause to a doubling ceiling.

    `spread` is from 0 to 1. While heartbeats get through the ceiling is lower: the tunnel server cannot be far away.
    """
    most_s = min(config.backoff_most_s, config.backoff_api_up_s) if is_api_up else config.backoff_most_s
    ceiling_s: float = min(most_s, config.backoff_first_s * (1 << min(attempt, 30)))
    least_s = min(ceiling_s, config.backoff_first_s) / 2
    return least_s + spread * (ceiling_s - least_s)


class Agent:
    """Keep one device connected until told to stop. Run it on the calling thread, or start it on one of its own."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        on_status: Callable[[AgentStatus], None] | None = None,
        rules: LinkRules = AGENT_RULES,
    ) -> None:
        self._config = config
        self._on_status = on_status
        self._rules = rules
        self._status = AgentStatus()
        self._link: Link | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = ("", "")
        self._heartbeat: Heartbeat | None = None
        self._refused_ports: set[int] = set()
        self._reactor: Reactor | None = None
        self._reactor_lock = threading.Lock()

    def start(self) -> None:
        """Run on a thread of its own; end it with `close`."""
        self._thread = threading.Thread(target=self.run, args=(self._stop,), name="tunnel-agent", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Stop what `start` began."""
        self._stop.set()
        with self._reactor_lock:
            if self._reactor is not None and self._link is not None:
                self._reactor.call_threadsafe(self._link.fail, "stopped")
        if self._thread is not None:
            self._thread.join(timeout_s)

    def status(self) -> AgentStatus:
        """Return the present state with live figures; from any thread."""
        link = self._link
        if link is None:
            return self._status
        return replace(
            self._status,
            streams=len(link.streams),
            bytes_in=link.received_bytes,
            bytes_out=link.sent_bytes,
            rtt_ms=link.rtt_ms,
        )

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set, which is noticed within a quarter second."""
        config = self._config
        if config.api_url and config.heartbeat_s > 0:
            self._heartbeat = Heartbeat(
                config.api_url,
                device_key=config.device_key,
                token=config.token,
                interval_s=config.heartbeat_s,
                installed_version=config.installed_version,
                version_file=config.version_file,
            )
            self._heartbeat.start()
        try:
            self._keep_connected(stop)
        finally:
            if self._heartbeat is not None:
                self._heartbeat.close()
            self._tell(AgentStatus(state="stopped", since_ms=now_ms()))

    def _keep_connected(self, stop: threading.Event) -> None:
        attempt = 0
        self._tell(AgentStatus(state="connecting", since_ms=now_ms()))
        while not stop.is_set():
            # After a failure the listener knows already when the next attempt comes.
            self._status = AgentStatus(state="connecting", since_ms=now_ms())
            online_s = time.monotonic()
            try:
                error = self._serve_once(stop)
            except (MeetingctlError, OSError) as exc:
                error = str(exc)
                level = logging.ERROR if isinstance(exc, AuthError) else logging.WARNING
                self._log(level, "tunnel not connected", error=error)
                online_s = time.monotonic()
            if stop.is_set():
                return
            if time.monotonic() - online_s >= self._config.stable_s:
                attempt = 0
            pause_s = self._choose_pause_s(attempt)
            attempt += 1
            self._tell(AgentStatus(state="waiting", error=error, since_ms=now_ms(), retry_s=pause_s))
            self._wait(stop, pause_s, attempt)

    def _choose_pause_s(self, attempt: int) -> float:
        is_api_up = self._heartbeat is not None and self._heartbeat.is_accepted
        return backoff_s(attempt, self._config, random.random(), is_api_up=is_api_up)  # noqa: S311 - spreads load, hides nothing

    def _wait(self, stop: threading.Event, pause_s: float, attempt: int) -> None:
        """Wait before the next attempt. When heartbeats get through again meanwhile, the pause is chosen anew."""
        was_accepted = self._heartbeat is not None and self._heartbeat.is_accepted
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0 and not stop.wait(min(left_s, _STOP_CHECK_S)):
            is_accepted = self._heartbeat is not None and self._heartbeat.is_accepted
            if is_accepted and not was_accepted:
                until_s = min(until_s, time.monotonic() + self._choose_pause_s(attempt))
            was_accepted = is_accepted

    def _serve_once(self, stop: threading.Event) -> str:
        """Connect, serve until the connection or the agent ends, and return why. Raises: AuthError, Unreachable."""
        config = self._config
        sock, terms, early = dial(
            config.server_host,
            config.server_port,
            device_key=config.device_key,
            token=config.token,
            with_caps=config.with_caps,
            timeout_s=config.dial_s,
            is_stopping=stop.is_set,
        )
        self._reactor = reactor = Reactor()
        try:
            self._serve(reactor, sock, terms, early, stop)
        finally:
            with self._reactor_lock:
                self._reactor = None
            self._link = None
            sock.close()
            reactor.close()
        reason, detail = self._lost
        self._log(logging.INFO, "tunnel down", reason=reason, detail=detail)
        return ": ".join(filter(None, self._lost))

    def _serve(self, reactor: Reactor, sock: socket.socket, terms: Agreed, early: bytes, stop: threading.Event) -> None:
        group = LinkGroup(reactor, self._rules)
        link = Link(group, sock, terms, kinds=kinds_from_proxy(terms), owner=self)
        self._link = link

        def check_stop() -> None:
            if stop.is_set():
                link.fail("stopped")
            elif not link.closed:
                reactor.call_later(_STOP_CHECK_S, check_stop)

        check_stop()
        self._log(logging.INFO, "tunnel up", server=self._config.server_host, caps=terms.is_new)
        self._tell(AgentStatus(state="online", kind="new" if terms.is_new else "old", since_ms=now_ms()))
        if terms.ping:
            link.ping()
        if early:
            link.feed(memoryview(early))
        if not link.closed:
            reactor.run()

    def _tell(self, status: AgentStatus) -> None:
        self._status = status
        if self._on_status is not None:
            self._on_status(status)

    def _log(self, level: int, message: str, **facts: object) -> None:
        """Log what the listener is told as well; with a listener it is for those who look closer."""
        log.log(level if self._on_status is None else logging.DEBUG, message, extra=facts)

    def on_link_lost(self, link: Link, reason: str, detail: str) -> None:
        """Leave the loop; the next connection gets a new one."""
        self._lost = (reason, detail)
        link.reactor.stop()

    def on_open(self, link: Link, stream_id: int, opening: codec.Opening) -> None:
        """Dial a local service without waiting for it."""
        if opening.port not in self._config.ports:
            self._warn_about_port(opening.port)
            link.refuse_stream(stream_id, codec.NOT_ALLOWED)
            return
        if len(link.streams) >= MOST_STREAMS:
            link.refuse_stream(stream_id, codec.OVERLOAD)
            return
        host = self._config.service_host
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            link.refuse_stream(stream_id, codec.OVERLOAD)
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sock.connect_ex((host, opening.port)) not in (0, errno.EINPROGRESS):
            sock.close()
            link.refuse_stream(stream_id, codec.REFUSED)
            return
        link.accept_stream(stream_id, sock, credit_bytes=opening.credit_bytes)

    def _warn_about_port(self, port: int) -> None:
        if port not in self._refused_ports:
            self._refused_ports.add(port)
            log.warning(
                "visitor refused: agent_ports does not list the local port",
                extra={"port": port, "variable": "MEETINGCTL_AGENT_PORTS"},
            )

    def on_stream_end(self, stream: Stream, outcome: Outcome, reason: str) -> None:
        """Say what went wrong with a service."""
        if outcome in {"refused", "failed"}:
            log.debug("stream failed", extra={"stream": stream.stream_id, "reason": reason})
