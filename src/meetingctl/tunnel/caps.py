"""What the two ends may use beyond the base protocol: each side lists it, and what both list is on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meetingctl.tunnel import codec
from meetingctl.tunnel.credit import LARGEST_CREDIT_BYTES, SMALLEST_WINDOW_BYTES

VERSION = 2
PROXY_WINDOW_BYTES = 1 << 20
AGENT_WINDOW_BYTES = 256 << 10
OLD_AGENT_FRAME_BYTES = 16 << 10
LEAST_FRAME_BYTES = 1 << 10

_BASE_KINDS = frozenset({codec.DATA, codec.CLOSE})


@dataclass(frozen=True, slots=True)
class Agreed:
    """The terms of one control connection, seen from one end. Windows are 0 without flow control."""

    is_new: bool = False
    flow: bool = False
    eof: bool = False
    ping: bool = False
    send_window_bytes: int = 0
    receive_window_bytes: int = 0
    send_frame_bytes: int = OLD_AGENT_FRAME_BYTES
    receive_frame_bytes: int = codec.MAX_FRAME_BYTES


BASE = Agreed()


def offer_caps(window_bytes: int, *, sid: str | None = None) -> dict[str, object]:
    """Return what this end can do, as the handshake lists it. `window_bytes` is what it grants to each stream."""
    caps: dict[str, object] = {
        "v": VERSION,
        "fc": {"win": window_bytes},
        "eof": 1,
        "ping": 1,
        "maxframe": codec.MAX_FRAME_BYTES,
    }
    if sid is not None:
        caps["sid"] = sid
    return caps


def negotiate(ours: Mapping[str, object], theirs: Mapping[str, object] | None) -> Agreed:
    """Return the terms that both lists allow; anything malformed counts as not listed."""
    if theirs is None or _number(theirs.get("v"), 0) < VERSION:
        return BASE
    our_window, their_window = _window(ours), _window(theirs)
    flow = our_window > 0 and their_window > 0
    most = min(_number(ours.get("maxframe"), codec.MAX_FRAME_BYTES), _number(theirs.get("maxframe"), 0) or 1 << 31)
    frame_bytes = min(max(most, LEAST_FRAME_BYTES), codec.MAX_FRAME_BYTES)
    return Agreed(
        is_new=True,
        flow=flow,
        eof=bool(ours.get("eof")) and bool(theirs.get("eof")),
        ping=bool(ours.get("ping")) and bool(theirs.get("ping")),
        send_window_bytes=their_window if flow else 0,
        receive_window_bytes=our_window if flow else 0,
        send_frame_bytes=frame_bytes,
        receive_frame_bytes=frame_bytes,
    )


def agreed_caps(ours: Mapping[str, object], theirs: Mapping[str, object]) -> dict[str, object] | None:
    """Return what the proxy answers: its own entries for what the agent listed too, None for the base protocol."""
    terms = negotiate(ours, theirs)
    if not terms.is_new:
        return None
    on = {"fc": terms.flow, "eof": terms.eof, "ping": terms.ping}
    return {key: value for key, value in ours.items() if on.get(key, True)} | {"maxframe": terms.receive_frame_bytes}


def kinds_from_agent(terms: Agreed) -> frozenset[int]:
    """Return the frame kinds that a proxy accepts."""
    return _BASE_KINDS | _extra_kinds(terms)


def kinds_from_proxy(terms: Agreed) -> frozenset[int]:
    """Return the frame kinds that an agent accepts."""
    return _BASE_KINDS | {codec.OPEN} | _extra_kinds(terms)


def _extra_kinds(terms: Agreed) -> frozenset[int]:
    negotiated = {codec.WINDOW: terms.flow, codec.END: terms.eof, codec.PING: terms.ping, codec.PONG: terms.ping}
    return frozenset(kind for kind, is_on in negotiated.items() if is_on)


def _window(caps: Mapping[str, object]) -> int:
    """Return the granted window, 0 when there is no usable one."""
    flow = caps.get("fc")
    window = _number(flow.get("win"), 0) if isinstance(flow, dict) else 0
    return window if SMALLEST_WINDOW_BYTES <= window <= LARGEST_CREDIT_BYTES else 0


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
