"""A string that does not show itself in logs, tracebacks or tables."""

from __future__ import annotations

import hashlib
import hmac


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


def sha256_hex(text: str) -> str:
    """Return the SHA-256 of the UTF-8 text as 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same_secret(left: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))
