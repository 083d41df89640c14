"""A shell-like file of `KEY=VALUE` lines: read without a shell, rewritten without touching any other byte.

A value stands bare, in double quotes (where a backslash escapes `"`, `\\`, `$` and a backtick) or in single quotes.
`#` begins a comment at the start of a line and, after white space, behind a value. Nothing is expanded or run. What
this module writes is read alike by a shell and by systemd's `EnvironmentFile=`.

Two habits of the files in the field are accepted: a bare value with spaces, and quotes that were written around a value
which has unescaped quotes itself (the last quote on the line ends it).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace

from meetingctl.core.errors import InvalidInput

LONGEST_VALUE = 4096

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"\ufeff?[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"(?=[ \t]*$|[ \t]+#)')
_SINGLE_QUOTED = re.compile(r"'([^']*)'(?=[ \t]*$|[ \t]+#)")
_ESCAPED = re.compile(r'\\(["\\$`])')
_BARE_END = re.compile(r"[ \t]+#|[ \t]*$")
_SAFE_BARE = re.compile(r"[A-Za-z0-9_./:,@%+-][A-Za-z0-9_./:,@%+=-]*")
_LINE_BREAKING = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. `start` and `end` bound the value in `raw` as it is written there.

    A line that assigns nothing has no key; when it is no comment either, `broken` is true.
    """

    raw: str
    key: str | None = None
    value: str = ""
    start: int = 0
    end: int = 0
    broken: bool = False


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A parsed file; `render()` gives back exactly the text that was parsed."""

    lines: tuple[Line, ...] = ()

    def render(self) -> str:
        return "\n".join(line.raw for line in self.lines)

    def values(self) -> dict[str, str]:
        """Return what a shell would see: the last assignment of each key wins."""
        return {line.key: line.value for line in self.lines if line.key is not None}

    def line_numbers(self, key: str) -> list[int]:
        """Return the lines (the first is 1) that assign a key."""
        return [number for number, line in enumerate(self.lines, 1) if line.key == key]

    def broken_lines(self) -> list[int]:
        """Return the lines (the first is 1) that are neither an assignment nor a comment nor empty."""
        return [number for number, line in enumerate(self.lines, 1) if line.broken]


def parse_env(text: str) -> EnvFile:
    """Split a text into lines. Never raises: a line that cannot be read is kept and marked as broken."""
    return EnvFile(tuple(_parse_line(raw) for raw in text.split("\n")) if text else ())


def quote_value(value: str, *, always: bool = False) -> str:
    """Write a value so that it reads back alike; bare when that is safe.

    Raises: InvalidInput for a line break or any other control character, or more than 4096 characters.
    """
    if len(value) > LONGEST_VALUE:
        raise InvalidInput(f"a value of {len(value)} characters, allowed are {LONGEST_VALUE}")
    if any(unicodedata.category(character) in _LINE_BREAKING for character in value):
        raise InvalidInput("a value with a line break or a control character", hint="write the value on one line")
    if _SAFE_BARE.fullmatch(value) and not always:
        return value
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def update_env(file: EnvFile, changes: Mapping[str, str | None]) -> EnvFile:
    """Set each key to a text, or remove it with None.

    The last assignment is rewritten in place, with its indentation and comment; earlier ones of the same key are
    removed. A new key is appended. A value that stays the same keeps every byte. Raises: InvalidInput for a key or
    value that cannot be written.
    """
    for key in changes:
        if not _KEY.fullmatch(key):
            raise InvalidInput(f"not a key: {key[:80]!r}", hint="a key has letters, digits and underscores")
    lines: list[Line] = []
    written: set[str] = set()
    for line in reversed(file.lines):
        if line.key is None or line.key not in changes:
            lines.append(line)
        elif (value := changes[line.key]) is not None and line.key not in written:
            written.add(line.key)
            lines.append(line if line.value == value else _rewrite(line, value))
    lines.reverse()
    new = [(key, value) for key, value in changes.items() if value is not None and key not in written]
    return EnvFile(_append(lines, new))


def _parse_line(raw: str) -> Line:
    text = raw.removesuffix("\r")
    found = _ASSIGNMENT.match(text)
    if found is None:
        stripped = text.lstrip("\ufeff \t")
        return Line(raw, broken=bool(stripped) and not stripped.startswith("#"))
    start = found.end()
    scanned = _scan_value(text, start)
    if scanned is None:
        return Line(raw, broken=True)
    value, end = scanned
    return Line(raw, found[1], value, start, end)


def _scan_value(text: str, start: int) -> tuple[str, int] | None:
    """Return the value and where it ends; None when a quote is not closed."""
    if quoted := _DOUBLE_QUOTED.match(text, start):
        return _ESCAPED.sub(r"\1", quoted[1]), quoted.end()
    if quoted := _SINGLE_QUOTED.match(text, start):
        return quoted[1], quoted.end()
    if text[start : start + 1] in {'"', "'"}:
        end = len(text.rstrip(" \t"))
        if end - start < 2 or text[end - 1] != text[start]:
            return None
        return text[start + 1 : end - 1], end
    if text.startswith("#", start):
        # `KEY= # comment` is an empty value; `KEY=#fff` is a value.
        after_blank = start > 0 and text[start - 1] in " \t"
        if after_blank:
            return "", start
    bare_end = _BARE_END.search(text, start)
    end = bare_end.start() if bare_end else len(text)
    return re.sub(r"\\(.)", r"\1", text[start:end]), end


def _rewrite(line: Line, value: str) -> Line:
    was_quoted = line.raw[line.start : line.start + 1] in {'"', "'"}
    token = quote_value(value, always=was_quoted)
    rest = line.raw[line.end :]
    if rest.startswith("#"):
        token += " "
    return replace(line, raw=line.raw[: line.start] + token + rest, value=value, end=line.start + len(token))


def _append(lines: list[Line], new: list[tuple[str, str]]) -> tuple[Line, ...]:
    if not new:
        return tuple(lines)
    carriage = "\r" if lines and lines[0].raw.endswith("\r") else ""
    # A text that ends with a line break has one empty line behind it, which stays the last.
    body = lines[:-1] if lines and not lines[-1].raw else lines
    if body and carriage and not body[-1].raw.endswith("\r"):
        body = [*body[:-1], replace(body[-1], raw=body[-1].raw + carriage)]
    added = [_parse_line(f"{key}={quote_value(value)}{carriage}") for key, value in new]
    return (*body, *added, Line(""))
