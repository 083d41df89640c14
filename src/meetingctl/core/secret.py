"""A string that does not show itself in logs, tracebacks or tables."""

from __future__ import annotations

import hashlib
import hmac
import re


class Secret:
    """Wrap a secret; `reveal()` is the only way to the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and same_secret(self._text, other._text)

    def __hash__(self) -> int:
        return hash(self._text)


_USER_PASSWORD = re.compile(r"(?P<user>://[^/?#@:]*):.*@", re.DOTALL)
_FIELD_PASSWORD = re.compile(r"(?P<name>[?&][a-z]*pass[a-z]*=)[^&]*", re.IGNORECASE)


def hide_url_password(url: str) -> str:
    """Write a URL with `***` for its password, before the host or among the fields: `postgresql://u:***@host/db`."""
    return _FIELD_PASSWORD.sub(r"\g<name>***", _USER_PASSWORD.sub(r"\g<user>:***@", url))


def sha256_hex(text: str) -> str:
    """Return the SHA-256 of the UTF-8 text as 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same_secret(left: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))
