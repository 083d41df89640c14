"""Filters on the content of messages, in the small language of ONVIF: no XPath is evaluated.

`boolean(//tt:SimpleItem[@Name="State" and @Value="true"])`, joined by `and`, `or`, `not (...)` and brackets.
Source: ONVIF Core specification, message content filter (ItemFilter dialect).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Item = tuple[str, str]  # name and value
Accepts = Callable[[Sequence[Item]], bool]
_Fits = Callable[[Item], bool]

_LONGEST = 1024
_DEEPEST = 16
_TOKEN = re.compile(
    r"""\s*(?:(?P<path>//(?:[\w.-]+:)?(?:SimpleItem|ElementItem))|@(?P<attribute>Name|Value)\s*=\s*(?P<text>"[^"]*"|'[^']*')
    |(?P<word>and|or|not|boolean)\b|(?P<mark>[()\[\]]))""",
    re.VERBOSE,
)


def parse_filter(text: str) -> Accepts:
    """Return what decides about the items of a message. Raises: ValueError for anything else than the language."""
    reader = _Reader(_split(text))
    accepts = reader.expression(0)
    if reader.tokens:
        raise ValueError("something stands behind the expression")
    return accepts


def _split(text: str) -> list[tuple[str, str]]:
    text = text.strip()
    if not text or len(text) > _LONGEST:
        raise ValueError("the expression is empty or too long")
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not understood from {text[at : at + 20]!r} on")
        if match["attribute"]:
            tokens.append((f"@{match['attribute']}", match["text"][1:-1]))
        else:
            tokens.append((match["word"] or match["mark"] or "path", match["path"] or ""))
        at = match.end()
    return tokens[::-1]


class _Reader:
    """Reads tokens from the end of a list; `or` binds weakest."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens

    def expression(self, depth: int) -> Accepts:
        parts = [self._all_of(depth)]
        while self._next_is("or"):
            parts.append(self._all_of(depth))
        return lambda items: any(part(items) for part in parts)

    def _all_of(self, depth: int) -> Accepts:
        parts = [self._one(depth)]
        while self._next_is("and"):
            parts.append(self._one(depth))
        return lambda items: all(part(items) for part in parts)

    def _one(self, depth: int) -> Accepts:
        _check(depth)
        if self._next_is("not"):
            inner = self._bracketed(lambda: self.expression(depth + 1))
            return lambda items: not inner(items)
        if self._next_is("boolean"):
            return self._bracketed(lambda: self._path(depth))
        return self._bracketed(lambda: self.expression(depth + 1))

    def _path(self, depth: int) -> Accepts:
        is_simple = self._take("path").endswith("SimpleItem")
        self._take("[")
        fits = self._any_attribute(depth)
        self._take("]")
        # Our messages have no ElementItem.
        return lambda items: is_simple and any(fits(item) for item in items)

    def _any_attribute(self, depth: int) -> _Fits:
        parts = [self._all_attributes(depth)]
        while self._next_is("or"):
            parts.append(self._all_attributes(depth))
        return lambda item: any(part(item) for part in parts)

    def _all_attributes(self, depth: int) -> _Fits:
        parts = [self._attribute(depth)]
        while self._next_is("and"):
            parts.append(self._attribute(depth))
        return lambda item: all(part(item) for part in parts)

    def _attribute(self, depth: int) -> _Fits:
        _check(depth)
        if self._next_is("not"):
            self._take("(")
            inner = self._any_attribute(depth + 1)
            self._take(")")
            return lambda item: not inner(item)
        if not self.tokens or self.tokens[-1][0] not in {"@Name", "@Value"}:
            raise ValueError("@Name or @Value is missing")
        kind, wanted = self.tokens.pop()
        index = 0 if kind == "@Name" else 1
        return lambda item: item[index] == wanted

    def _bracketed(self, read: Callable[[], Accepts]) -> Accepts:
        self._take("(")
        found = read()
        self._take(")")
        return found

    def _next_is(self, kind: str) -> bool:
        if self.tokens and self.tokens[-1][0] == kind:
            self.tokens.pop()
            return True
        return False

    def _take(self, kind: str) -> str:
        if not self.tokens or self.tokens[-1][0] != kind:
            raise ValueError(f"{kind!r} is missing")
        return self.tokens.pop()[1]


def _check(depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("too many brackets")
