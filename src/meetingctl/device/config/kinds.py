"""The kinds of value in config.env: read a text or refuse it, say what is allowed, write it in the usual spelling."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from meetingctl.core.ids import is_device_key
from meetingctl.core.secret import Secret

# What replies and a provisioned config.env show instead of a secret.
MASK = "********"

_YES = frozenset({"yes", "true", "1", "on"})
_NO = frozenset({"no", "false", "0", "off"})


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is read and written. `parse` raises ValueError; `allowed` finishes the sentence "allowed is ..."."""

    parse: Callable[[str], Any]
    allowed: str
    write: Callable[[Any], str] = str
    name: str = "text"
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


def whole(least: int, most: int, *, optional: tuple[str, ...] | None = None) -> Kind:
    """A whole number; with `optional`, the words in it and an empty text mean None."""

    def parse(text: str) -> int | None:
        if optional is not None and text.lower() in {"", *optional}:
            return None
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    allowed = f"a whole number from {least} to {most}" + (", or empty" if optional is not None else "")
    return Kind(parse, allowed, lambda value: "" if value is None else str(value), "int", (), least, most)


def decimal(least: float, most: float) -> Kind:
    """A decimal number."""

    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{0,6}\.?[0-9]{0,6}", text) else math.nan
        if not least <= number <= most:
            raise ValueError(text)
        return number

    return Kind(parse, f"a number from {least:g} to {most:g}", lambda value: f"{value:g}", "float", (), least, most)


def flag(yes: str = "yes", no: str = "no") -> Kind:
    """A yes or no in any of its spellings, written with the given one."""

    def parse(text: str) -> bool:
        word = text.lower()
        if word not in _YES | _NO:
            raise ValueError(text)
        return word in _YES

    return Kind(parse, f"{yes} or {no}", lambda value: yes if value else no, "bool", (yes, no))


def choice(*words: str, aliases: Mapping[str, str] | None = None) -> Kind:
    """One of a few words, in any case; `yes` and `no` among them are also known by their other spellings."""
    known = {word.lower(): word for word in words} | {k.lower(): v for k, v in (aliases or {}).items()}
    for word, spellings in (("yes", _YES), ("no", _NO)):
        if word in words:
            known |= dict.fromkeys(spellings - known.keys(), word)

    def parse(text: str) -> str:
        if text.lower() not in known:
            raise ValueError(text)
        return known[text.lower()]

    return Kind(parse, "one of " + ", ".join(word or "empty" for word in words), name="choice", choices=words)


def choices(*words: str, aliases: Mapping[str, str] | None = None) -> Kind:
    """A list with commas of some of the words, without repetition."""
    one = choice(*words, aliases=aliases)

    def parse(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.parse(item) for item in _items(text)))

    return Kind(parse, "a list with commas of " + ", ".join(words), ",".join, "list", words)


def text(pattern: str = r".{0,256}", allowed: str = "text of at most 256 characters") -> Kind:
    """A text that matches a pattern as a whole."""
    matching = re.compile(pattern)

    def parse(value: str) -> str:
        if not matching.fullmatch(value) or not value.isprintable():
            raise ValueError(value)
        return value

    return Kind(parse, allowed)


def texts(pattern: str, allowed: str) -> Kind:
    """A list with commas of texts that match a pattern."""
    one = text(pattern, allowed)
    return Kind(lambda value: tuple(one.parse(item) for item in _items(value)), allowed, ",".join, "list")


def path() -> Kind:
    """An absolute path of the device without `..`."""

    def parse(value: str) -> str:
        parts = value.split("/")
        if not value.startswith("/") or ".." in parts or len(value) > 255 or not value.isprintable():
            raise ValueError(value)
        return value

    return Kind(parse, "an absolute path without '..'", name="path")


def url(*schemes: str, drop_slash: bool = False) -> Kind:
    """A URL of one of the schemes, or empty."""

    def parse(value: str) -> str:
        parts = urlsplit(value)
        port = parts.port  # raises ValueError for a port that is no number
        if value and (parts.scheme not in schemes or not parts.hostname or port == 0):
            raise ValueError(value)
        if not value.isprintable() or " " in value or len(value) > 2048:
            raise ValueError(value)
        return value.rstrip("/") if drop_slash else value

    return Kind(parse, "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes), name="url")


def address(*, within: str | None = None, prefix: bool = False) -> Kind:
    """An IPv4 address or empty, in the network `within`; with `prefix` also ADDRESS/BITS."""
    network = ipaddress.IPv4Network(within) if within else None

    def parse(value: str) -> str:
        if value:
            found = ipaddress.IPv4Interface(value) if prefix else ipaddress.IPv4Address(value)
            if network is not None and ipaddress.IPv4Address(found) not in network:
                raise ValueError(value)
        return value

    allowed = "an IPv4 address" + (f" in {within}" if within else "") + (", with or without /BITS" if prefix else "")
    return Kind(parse, allowed, name="address")


def addresses() -> Kind:
    """A list with commas of IP addresses."""
    return Kind(
        lambda value: tuple(str(ipaddress.ip_address(item)) for item in _items(value)),
        "a list with commas of IP addresses",
        ",".join,
        "list",
    )


def device_key() -> Kind:
    """The key of a device in the fleet, or empty."""

    def parse(value: str) -> str:
        if value and not is_device_key(value):
            raise ValueError(value)
        return value

    return Kind(parse, "letters, digits, dots, dashes and underscores")


def secret() -> Kind:
    """A secret text; the mask that stands for a hidden one reads as empty."""

    def parse(value: str) -> Secret:
        if not value.isprintable() or len(value) > 256:
            raise ValueError("***")
        return Secret("" if value == MASK else value)

    return Kind(parse, "text of at most 256 characters", lambda value: value.reveal(), "secret")


def _items(value: str) -> list[str]:
    items = [item.strip() for item in value.split(",") if item.strip()]
    if not items or len(items) > 32:
        raise ValueError(value)
    return items
