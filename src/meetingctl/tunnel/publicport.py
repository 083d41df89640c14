"""One public port: it listens while its agent is online, and holds visitors over a short blip."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from meetingctl.core.errors import InvalidInput
from meetingctl.core.limits import TokenBucket
from meetingctl.core.net import address_in, parse_networks
from meetingctl.core.site import site_of
from meetingctl.tunnel.directory import Outcome, Tunnel
from meetingctl.tunnel.listening import Listening
from meetingctl.tunnel.plane import Session, Visitor
from meetingctl.tunnel.rules import ProxyLimits
from meetingctl.tunnel.sockets import close_with_reset

log = logging.getLogger(__name__)

_BACKLOG = 128


class VisitorRates:
    """Limits of new visitors: per tunnel, and per address over all tunnels."""

    def __init__(self, limits: ProxyLimits) -> None:
        self._tunnels = _bucket(limits.visitors_per_tunnel_per_s, limits.visitor_burst)
        self._addresses = _bucket(limits.visitors_per_address_per_s, limits.visitor_burst)

    def allow(self, port: int, address: str, now_s: float) -> bool:
        """Count one visitor; False when there are too many."""
        return all(
            bucket is None or bucket.allow(subject, now_s)
            for bucket, subject in ((self._addresses, site_of(address)), (self._tunnels, port))
        )


def _bucket(per_s: float, burst: int) -> TokenBucket | None:
    return TokenBucket(interval_s=1 / per_s, burst=burst) if per_s > 0 else None


class PublicPort:
    """The listener of one tunnel and its waiting visitors.

    `pass_on` gets each admitted visitor with the session that serves it; `turn_away` the record of each refused one.
    """

    def __init__(
        self,
        tunnel: Tunnel,
        *,
        bind: str,
        limits: ProxyLimits,
        rates: VisitorRates,
        pass_on: Callable[[Session, Visitor], None],
        turn_away: Callable[[Visitor, Outcome, str], None],
    ) -> None:
        self._bind = bind
        self._limits = limits
        self._rates = rates
        self._pass_on = pass_on
        self._turn_away = turn_away
        self._listening: Listening | None = None
        self._held: list[Visitor] = []
        self._blip_until_s: float | None = None
        self.session: Session | None = None
        self.set_tunnel(tunnel)

    def set_tunnel(self, tunnel: Tunnel) -> None:
        """Change the end or the allow-list without touching live streams."""
        self.tunnel = tunnel
        try:
            self._networks = None if tunnel.allow_from is None else parse_networks(tunnel.allow_from)
        except InvalidInput as exc:
            log.error("tunnel lets nobody in", extra={"port": tunnel.port, "error": exc.message})
            self._networks = ()

    @property
    def is_listening(self) -> bool:
        return self._listening is not None

    @property
    def held_visitors(self) -> int:
        """Visitors that wait for the agent to come back."""
        return len(self._held)

    @property
    def is_expired(self) -> bool:
        """Say whether the tunnel has reached its end."""
        ends_at_ms = self.tunnel.expires_at_ms
        return ends_at_ms is not None and time.time() * 1000 >= ends_at_ms

    def attach(self, session: Session) -> None:
        """The agent is here: listen, and open the visitors that waited. Raises: OSError when the port is taken."""
        self.session = session
        self._blip_until_s = None
        held, self._held = self._held, []
        for visitor in held:
            self._pass_on(session, visitor)
        if self._listening is None and not self.is_expired:
            self._listening = Listening(self._bind, self.tunnel.port, backlog=_BACKLOG, on_accept=self._accept)

    def detach(self, now_s: float) -> None:
        """The agent is gone: hold new visitors for a while."""
        self.session = None
        self._blip_until_s = now_s + self._limits.blip_s

    def hold(self, visitor: Visitor) -> None:
        """Keep a visitor until the agent is back, or pass it on when it is back already."""
        if self.session is not None:
            self._pass_on(self.session, visitor)
        elif self._blip_until_s is not None and len(self._held) < self._limits.held_visitors:
            self._held.append(visitor)
        else:
            self._refuse(visitor, "agent offline")

    def check_time(self, now_s: float) -> None:
        """Close when the blip or the tunnel's life is over; listen when the port was taken before.

        Raises: OSError when the port is still taken.
        """
        if self._blip_until_s is not None and now_s >= self._blip_until_s:
            self.close("agent offline")
        elif self.is_expired:
            self.close("expired")
        elif self.session is not None and self._listening is None:
            self.attach(self.session)

    def close(self, reason: str) -> None:
        """Stop listening and turn away who waits; the session stays known."""
        self._blip_until_s = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        held, self._held = self._held, []
        for visitor in held:
            self._refuse(visitor, reason)

    def _accept(self, sock: socket.socket, address: str) -> None:
        visitor = Visitor(sock, address, self.tunnel)
        if self._networks is not None and not address_in(address, self._networks):
            self._refuse(visitor, "address not allowed")
        elif self.is_expired:
            self._refuse(visitor, "expired")
        elif not self._rates.allow(self.tunnel.port, address, time.monotonic()):
            self._refuse(visitor, "too many visitors")
        else:
            self.hold(visitor)

    def _refuse(self, visitor: Visitor, reason: str) -> None:
        close_with_reset(visitor.sock)
        self._turn_away(visitor, "refused", reason)
