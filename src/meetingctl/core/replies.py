"""What a server's JSON may be before anything is made of it. The server may be broken, hostile or another program.

Only the fields that a command computes with are looked at, wherever they stand; the others are shown as they come.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from meetingctl.core.clock import parse_wire

DEPTH_CAP = 64
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BETWEEN_NAMES = re.compile(r"[\s@/:\[\]]+")


def decode_json(content: bytes) -> Any:
    """Decode JSON of bounded depth, with finite numbers of at most 64 bits and text that can be written as UTF-8.

    Raises: ValueError.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole_64_bits)
    except RecursionError as exc:
        raise ValueError("too deep") from exc
    _check_depth(value)
    if _SURROGATE.search(content):
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is too large")
    return number


def _whole_64_bits(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError("a number is too large")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_CAP):
        level = [item for outer in level if isinstance(outer, (dict, list)) for item in _items(outer)]
        if not level:
            return
    raise ValueError("too deep")


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


class _Kind(NamedTuple):
    name: str
    accepts: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_port(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= 65535


def _is_ports(value: Any) -> bool:
    return isinstance(value, dict) and all(port is None or _is_port(port) for port in value.values())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_wire(value) is not None
    except (ValueError, OverflowError):
        return False


def _is_address(value: Any) -> bool:
    """Accept `ssh -p 9050 device@gate.example` and URLs; a name that no resolver takes is refused."""
    if not isinstance(value, str) or len(value) > 2000:
        return False
    try:
        urlsplit(value)
        return all(name.encode("idna") is not None for name in _BETWEEN_NAMES.split(value))
    except ValueError:
        return False


_TEXT = _Kind("text", lambda value: isinstance(value, str))
_WHOLE = _Kind("a whole number", _is_whole)
_COUNT = _Kind("a number of things", lambda value: _is_whole(value) and value >= 0)
_PORT = _Kind("a port", _is_port)
_TEXTS = _Kind("a list of texts", _is_texts)
_OBJECTS = _Kind("a list of objects", _is_objects)

_KINDS = {
    "device_key": _TEXT,
    "devicekey": _TEXT,
    "service": _TEXT,
    "status": _TEXT,
    "token_code": _TEXT,
    "key": _TEXT,
    "url": _Kind("an address", _is_address),
    "expires_at": _Kind("a time", _is_time),
    "port": _PORT,
    "local_port": _PORT,
    "local_ports": _Kind("an object of ports", _is_ports),
    "total": _COUNT,
    "closed": _COUNT,
    "token_count": _WHOLE,
    "next": _WHOLE,
    "services": _TEXTS,
    "tags": _TEXTS,
    "allow_from": _TEXTS,
    "stats": _OBJECTS,
    "agents": _OBJECTS,
}


def find_fault(reply: Mapping[str, Any], needed: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with an object: a needed field that is not there, or one of another kind; else None."""
    for name in needed:
        if reply.get(name) is None:
            return f"expected {name!r}"
    for name, value in reply.items():
        kind = _KINDS.get(name)
        if kind is not None and value is not None and not kind.accepts(value):
            return f"expected {kind.name} in {name!r}"
    return None
