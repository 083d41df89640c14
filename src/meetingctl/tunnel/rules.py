"""Limits of the tunnel that are no settings: one table per end, each value with its unit."""

from __future__ import annotations

from dataclasses import dataclass, field

from meetingctl.tunnel.grace import GraceRules


@dataclass(frozen=True, slots=True)
class LinkRules:
    """How one end treats its control connections and streams."""

    # What the local sockets are called in reasons, and what those of the peer are called.
    local: str = "visitor"
    remote: str = "service"
    grace: GraceRules = field(default_factory=GraceRules)
    # How long an answer may follow a half-close that the peer cannot be told of; None closes the stream at once.
    linger_s: float | None = 3.0
    # With half-close negotiated the peer knows; this only ends what everybody forgot.
    half_open_s: float = 3600.0
    # A closed stream whose socket takes no byte of the rest for this long is cut.
    drain_s: float = 60.0
    # After the last byte the socket is read a little longer: closing with unread bytes would destroy that last byte.
    farewell_s: float | None = 2.0
    dial_s: float = 10.0
    stall_s: float = 60.0
    ping_s: float = 20.0
    keepalive_s: tuple[float, float] | None = (30.0, 45.0)
    turn_bytes: int = 128 << 10
    base_turn_bytes: int = 64 << 10
    # What one connection may have read and acted on before the others get their turn.
    receive_turn_bytes: int = 256 << 10
    receive_turn_frames: int = 256
    control_queue_bytes: int = 256 << 10
    unsent_bytes: int = 128 << 10
    sweep_s: float = 0.1

    @property
    def life_sweep_s(self) -> float:
        """Return how often idle connections are looked at."""
        return self.ping_s / 8

    def answer_s(self, has_eof: bool) -> float:
        """Return how long a half-closed stream may stay silent."""
        return self.half_open_s if has_eof or self.linger_s is None else self.linger_s


# The agent's sockets lead to services on its own machine: what does not move there is broken, not slow.
AGENT_RULES = LinkRules(
    local="service", remote="visitor", linger_s=None, drain_s=3.0, farewell_s=None, keepalive_s=None
)


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """What the proxy allows. Counts are starting values; a rate of 0 switches its check off."""

    handshake_s: float = 10.0
    handshake_pending: int = 4096
    handshake_pending_per_address: int = 256
    refusal_drain_s: float = 1.0
    handshakes_per_device_per_min: int = 30
    failures_per_device: int = 5
    failures_per_address: int = 20
    # Lines that were no credential at all; they close an address only for devices that never succeeded from it.
    noise_per_address: int = 100
    failure_window_s: float = 900.0
    # Refused agents in the audit log: one record per address and interval, a few per second in all.
    refusal_interval_s: float = 60.0
    refusals_per_s: float = 5.0
    streams_per_old_agent: int = 64
    streams_per_new_agent: int = 1024
    streams_per_tunnel: int = 256
    # When all are taken, silence this long lets a stream of the one who holds more than half of them be ended.
    displaced_idle_s: float = 10.0
    visitors_per_tunnel_per_s: float = 50.0
    visitors_per_address_per_s: float = 20.0
    visitor_burst: int = 100
    blip_s: float = 10.0
    held_visitors: int = 64
    expired_streams_s: float = 60.0
    takeovers: int = 4
    takeover_window_s: float = 60.0
    # An agent that drops this fast, this often in a row, cannot read the reply line.
    too_old_life_s: float = 2.0
    too_old_lives: int = 3
    visits_kept: int = 4096
    events_kept: int = 1024
    # Of each kind that comes with every connection.
    events_per_device_per_min: int = 5
    visits_per_report: int = 512
    events_per_report: int = 256
    refused_visits_per_s: float = 10.0
    report_interval_s: float = 0.5
    change_interval_s: float = 0.02
    close_s: float = 5.0
