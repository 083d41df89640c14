"""Names of things: parse or refuse. One pattern per kind, used by every part."""

from __future__ import annotations

import re
import secrets
from typing import NewType

from meetingctl.core.errors import InvalidInput

DeviceKey = NewType("DeviceKey", str)
TokenCode = NewType("TokenCode", str)

DEVICE_KEY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
TOKEN_CODE_PATTERN = r"^[0-9A-Fa-f]{6}$"  # noqa: S105 - a pattern, not a password
NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"
TAG_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"

# Words that are path segments beside a device key (decision D-RESERVED).
RESERVED_DEVICE_KEYS = frozenset(
    {"generate-key", "generate-and-register", "manual-create", "device-types", "register", "checkin"}
)

_DEVICE_KEY = re.compile(DEVICE_KEY_PATTERN[1:-1])
_TOKEN_CODE = re.compile(TOKEN_CODE_PATTERN[1:-1])
_NAME = re.compile(NAME_PATTERN[1:-1])


def is_device_key(text: str) -> bool:
    """Say whether the text is a usable device key."""
    return _DEVICE_KEY.fullmatch(text) is not None and text.lower() not in RESERVED_DEVICE_KEYS


def parse_device_key(text: str) -> DeviceKey:
    """Raises: InvalidInput when the text is no device key or is a reserved word."""
    if not is_device_key(text):
        raise InvalidInput(
            f"not a device key: {text[:140]!r}",
            hint="a key has 1 to 128 letters, digits, dots, dashes and underscores, and is not a reserved word",
        )
    return DeviceKey(text)


def parse_token_code(text: str) -> TokenCode:
    """Return the code in upper case (decision D-TOKENFMT). Raises: InvalidInput unless 6 hex digits."""
    if not _TOKEN_CODE.fullmatch(text):
        raise InvalidInput("not a token code", hint="a token code has 6 hex digits, for example 3FA9C1")
    return TokenCode(text.upper())


def is_name(text: str) -> bool:
    """Say whether the text can name a device type, distribution or file: no slash, no leading dot."""
    return _NAME.fullmatch(text) is not None


def new_device_key() -> DeviceKey:
    """Return a random key: 32 upper-case hex digits (128 bits)."""
    return DeviceKey(secrets.token_hex(16).upper())


def new_token_code() -> TokenCode:
    """Return a random code: 6 upper-case hex digits (24 bits, the format that existing devices hold)."""
    return TokenCode(secrets.token_hex(3).upper())
