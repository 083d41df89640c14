"""What a proxy says of its agents and tunnels: for the registry, and ready for JSON."""

from __future__ import annotations

import hashlib
from typing import Any

from meetingctl.core.clock import iso_text
from meetingctl.tunnel.directory import AgentLink
from meetingctl.tunnel.plane import Session
from meetingctl.tunnel.publicport import PublicPort

# The registry stores no more of a proxy's name, and compares it whole.
_NAME_CHARS = 64
_DIGEST_CHARS = 8


def short_name(name: str) -> str:
    """Return a proxy's name as the registry keeps it: a long one ends in a digest, so that two of a host stay two."""
    if len(name) <= _NAME_CHARS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: _NAME_CHARS - _DIGEST_CHARS - 1]}-{digest}"


def describe_link(session: Session) -> AgentLink:
    """Return the present figures of an agent's connection."""
    link = session.link
    return AgentLink(
        device_key=session.device_key,
        generation=session.generation,
        peer=session.peer,
        kind=session.kind,
        connected_at_ms=session.connected_at_ms,
        streams=len(link.streams) if link else 0,
        bytes_in=link.sent_bytes if link else 0,
        bytes_out=link.received_bytes if link else 0,
    )


def describe_agent(session: Session) -> dict[str, Any]:
    """Return the same with the round-trip time."""
    facts = describe_link(session)
    rtt_ms = session.link.rtt_ms if session.link else None
    return {
        "device_key": facts.device_key,
        "online": True,
        "kind": facts.kind,
        "peer": facts.peer,
        "since": iso_text(facts.connected_at_ms),
        "streams": facts.streams,
        "bytes_in": facts.bytes_in,
        "bytes_out": facts.bytes_out,
        "rtt_ms": None if rtt_ms is None else round(rtt_ms, 3),
    }


def describe_tunnel(
    public_port: PublicPort, session: Session | None, *, live: tuple[int, int, int], past: tuple[int, ...]
) -> dict[str, Any]:
    """Return a tunnel with its figures.

    `live` holds the number of streams now, `past` that of ended visits, each with the bytes to and from the device.
    """
    tunnel = public_port.tunnel
    streams, live_in, live_out = live
    visits, past_in, past_out = past
    return {
        "port": tunnel.port,
        "device_key": tunnel.device_key,
        "service": tunnel.service,
        "local_port": tunnel.local_port,
        "expires_at": iso_text(tunnel.expires_at_ms),
        "allow_from": None if tunnel.allow_from is None else list(tunnel.allow_from),
        "online": session is not None,
        "listening": public_port.is_listening,
        "agent": None if session is None else describe_agent(session),
        "streams": streams,
        "held_visitors": public_port.held_visitors,
        "visits": visits,
        "bytes_in": past_in + live_in,
        "bytes_out": past_out + live_out,
    }
