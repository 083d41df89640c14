"""Fields of a device type, out of JSON or a form, checked. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from meetingctl.core.errors import InvalidInput
from meetingctl.core.ids import is_name
from meetingctl.core.services import DECLARED_SERVICES

MAX_TAGS = 32
MAX_ID = 2**63 - 1
_PREFIX = re.compile(r"[A-Z0-9-]{1,16}")
_TEXT_LIMITS = {"platform": 64, "description": 2000}
NEEDED = "Missing name or serial_prefix"


def parse_fields(raw: Mapping[str, Any], *, is_new: bool, with_status: bool = False) -> dict[str, Any]:
    """Return the fields that are given; the values of a form are all text. Raises: InvalidInput."""
    fields: dict[str, Any] = {}
    if is_new and not (raw.get("name") and raw.get("serial_prefix")):
        raise InvalidInput(NEEDED)
    if raw.get("name") is not None:
        fields["name"] = _name(raw["name"])
    if raw.get("serial_prefix") is not None:
        prefix = raw["serial_prefix"]
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise InvalidInput("Invalid serial_prefix", hint="1 to 16 capitals, digits and dashes")
        fields["serial_prefix"] = prefix
    for key, limit in _TEXT_LIMITS.items():
        if raw.get(key) is not None:
            fields[key] = _text(raw[key], key, limit)
    if raw.get("services_default") is not None:
        fields["services_default"] = _services(raw["services_default"])
    if raw.get("tags") is not None:
        fields["tags"] = _words(raw["tags"], "tags", MAX_TAGS)
    if raw.get("default_distribution") not in (None, ""):
        fields["default_distribution"] = _text(raw["default_distribution"], "default_distribution", 128)
        if not is_name(fields["default_distribution"]):
            raise InvalidInput("Invalid default_distribution")
    if raw.get("parent_id") not in (None, ""):
        fields["parent_id"] = _number(raw["parent_id"])
    if with_status and raw.get("status") is not None:
        if raw["status"] not in ("active", "inactive"):
            raise InvalidInput("Invalid status", hint="use active or inactive")
        fields["status"] = raw["status"]
    return fields


def fold_name(name: str) -> str:
    """Return what must be unique among types: the name without the difference of case."""
    return name.casefold()[:256]


def _name(value: Any) -> str:
    text = _text(value, "name", 128).strip()
    if not text or any(ord(letter) < 32 for letter in text):
        raise InvalidInput("Invalid name")
    return text


def _text(value: Any, key: str, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit or "\0" in value or (not value.isascii() and _is_broken(value)):
        raise InvalidInput(f"Invalid {key}", hint=f"at most {limit} characters")
    return value


def _is_broken(text: str) -> bool:
    """Say whether the text holds half characters, which no database stores."""
    return any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)


def _services(value: Any) -> list[str]:
    names = _words(value, "services_default", 64)
    if any(name not in DECLARED_SERVICES for name in names):
        raise InvalidInput("Invalid services_default", hint=f"use {', '.join(DECLARED_SERVICES)}")
    return [name for name in DECLARED_SERVICES if name in names]


def _words(value: Any, key: str, most: int) -> list[str]:
    """Read a JSON array, as such or as text, or a comma list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InvalidInput(f"Invalid {key}") from None
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > most or not all(isinstance(item, str) for item in items):
        raise InvalidInput(f"Invalid {key}", hint=f"at most {most} words")
    return list(dict.fromkeys(_text(item.strip(), key, 64) for item in items if item.strip()))


def _number(value: Any) -> int:
    is_text = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19
    if not is_text and (not isinstance(value, int) or isinstance(value, bool)):
        raise InvalidInput("Invalid parent_id")
    if not 0 < int(value) <= MAX_ID:
        raise InvalidInput("Invalid parent_id")
    return int(value)
