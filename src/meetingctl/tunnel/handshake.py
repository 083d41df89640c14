"""The lines that open a control connection, without I/O: one JSON object each, LF at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from meetingctl.core.errors import AuthError
from meetingctl.tunnel.codec import WireError

MAX_LINE_BYTES = 4096


class Hello(NamedTuple):
    """What an agent says first. `caps` is None from an agent that knows the base protocol only."""

    device_key: str
    token: str
    caps: Mapping[str, object] | None


def encode_hello(device_key: str, token: str, caps: Mapping[str, object] | None) -> bytes:
    """Return the request line of an agent."""
    hello: dict[str, object] = {"token": token, "name": device_key}
    if caps is not None:
        hello["caps"] = caps
    return _encode_line(hello)


def parse_hello(line: bytes) -> Hello:
    """Read the request line. Raises: WireError when it is no object with a name and a token."""
    hello = _parse_line(line)
    device_key, token, caps = hello.get("name"), hello.get("token"), hello.get("caps")
    if not isinstance(device_key, str) or not isinstance(token, str):
        raise WireError("the handshake has no name and token")
    return Hello(device_key, token, caps if isinstance(caps, dict) else None)


def encode_welcome(device_key: str, caps: Mapping[str, object] | None) -> bytes:
    """Return the reply line that accepts an agent."""
    welcome: dict[str, object] = {"status": "authenticated", "device_key": device_key}
    if caps is not None:
        welcome["caps"] = caps
    return _encode_line(welcome)


def encode_refusal(reason: str) -> bytes:
    """Return the reply line that refuses an agent; without `status: error` old agents believe they are connected."""
    reason = reason[:256]
    return _encode_line({"status": "error", "error": "auth_failed", "reason": reason, "message": reason})


def parse_reply(line: bytes) -> Mapping[str, object] | None:
    """Return the caps that the proxy agreed to, None for the base protocol.

    Raises: AuthError for everything but `authenticated`; WireError when the line is no JSON object.
    """
    reply = _parse_line(line)
    if reply.get("status") != "authenticated":
        reason = reply.get("reason") or reply.get("message") or reply.get("error") or "no reason given"
        raise AuthError(
            f"the tunnel server refused this device: {str(reason)[:256]}",
            hint="check the device key and the token code, and that the device is authorized",
        )
    caps = reply.get("caps")
    return caps if isinstance(caps, dict) else None


def _encode_line(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise WireError("the handshake line is no JSON") from exc
    if not isinstance(fields, dict):
        raise WireError("the handshake line is no JSON object")
    return fields
