"""Read the rows of a mysqldump file, without a server, in bounded memory: a statement may be as long as it likes.

Only what mysqldump and mariadb-dump write is understood: CREATE TABLE for the names of the columns, and INSERT with
literals. Comments, also those that servers run (`/*! ... */`), and all other statements are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from meetingctl.core.errors import InvalidInput

Value = str | int | bytes | None

CHUNK_BYTES = 256 * 1024
MOST_TOKEN_BYTES = 64 * 1024 * 1024
_AHEAD_BYTES = 4  # what follows a token and may still belong to it: the rest of `1e+3`, `--`, a doubled quote

_TOKEN = re.compile(
    rb"""(?P<blank>\s++|--(?:[ \t\r][^\n]*+)?+(?:\n|\Z)|\#[^\n]*+(?:\n|\Z)|/\*(?:[^*]++|\*(?!/))*+\*/)
    |(?P<text>'(?:[^'\\]++|\\.|'')*+')
    |(?P<quoted>"(?:[^"\\]++|\\.|"")*+")
    |(?P<name>`(?:[^`]++|``)*+`)
    |(?P<hex>0[xX][0-9A-Fa-f]++)
    |(?P<number>[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?)
    |(?P<word>[A-Za-z_@$\x80-\xff][\w$@.\x80-\xff]*+)
    |(?P<mark>.)""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(.)|''|\"\"", re.DOTALL)
_ESCAPED = {b"0": b"\0", b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"Z": b"\x1a"}
_NO_COLUMN = frozenset({b"PRIMARY", b"KEY", b"UNIQUE", b"INDEX", b"CONSTRAINT", b"FULLTEXT", b"SPATIAL", b"FOREIGN"})
_NO_COLUMN |= {b"CHECK", b"PERIOD"}
_CONSTANTS: dict[bytes, Value] = {b"NULL": None, b"TRUE": 1, b"FALSE": 0}
_Token = tuple[str, bytes]
_END: _Token = ("end", b"")


@dataclass(slots=True)
class DumpReader:
    """One pass over a dump. `tables` are those whose rows are wanted; `other_rows` counts those of all others."""

    file: BinaryIO
    tables: Collection[str]
    other_rows: dict[str, int] = field(default_factory=dict)
    _columns: dict[str, list[str]] = field(default_factory=dict)
    _buffer: bytes = b""
    _at: int = 0
    _gone_bytes: int = 0
    _is_all: bool = False

    def rows(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """Give table and row, one after the other, by the names of the columns in lower case.

        Text is a str, a number an int where it is one and otherwise the str of its digits, `0x...` bytes.
        Raises: InvalidInput, with the position, for what is no dump or is longer than memory should hold.
        """
        while (token := self._next()) != _END:
            word = token[1].upper() if token[0] == "word" else b""
            if word == b"CREATE":
                self._read_create()
            elif word in (b"INSERT", b"REPLACE"):
                yield from self._read_insert()
            elif word == b"DELIMITER":
                self._skip_program()
            elif token != ("mark", b";"):
                self._skip_statement()

    def _read_create(self) -> None:
        token = self._next()
        if _word(token) != b"TABLE":
            self._skip_statement(token)
            return
        token = self._next()
        while _word(token) in (b"IF", b"NOT", b"EXISTS"):
            token = self._next()
        table, token = self._read_name(token)
        if token == ("mark", b"("):
            self._columns[table], token = self._read_definitions()
        self._skip_statement(token)

    def _read_definitions(self) -> tuple[list[str], _Token]:
        """Return the names of the columns up to the closing bracket, and the token after it."""
        names: list[str] = []
        depth, is_first = 1, True
        while depth:
            token = self._next()
            if token == _END:
                raise self._refusal("the dump ends inside CREATE TABLE")
            if is_first and token[0] in ("name", "quoted", "word") and _word(token) not in _NO_COLUMN:
                names.append(_name(token))
            is_first = token == ("mark", b",") and depth == 1
            depth += {b"(": 1, b")": -1}.get(token[1], 0) if token[0] == "mark" else 0
        return names, self._next()

    def _read_insert(self) -> Iterator[tuple[str, dict[str, Value]]]:
        token = self._next()
        while _word(token) in (b"INTO", b"IGNORE", b"DELAYED", b"LOW_PRIORITY", b"HIGH_PRIORITY"):
            token = self._next()
        table, token = self._read_name(token)
        columns = self._columns.get(table)
        if token == ("mark", b"("):
            columns, token = self._read_definitions()
        if _word(token) not in (b"VALUES", b"VALUE"):
            raise self._refusal("INSERT without VALUES")
        is_wanted = table in self.tables
        if is_wanted and columns is None:
            hint = "make the dump with mysqldump --complete-insert, or without --no-create-info"
            raise self._refusal(f"the columns of {table} are not known", hint)
        while self._next_mark(b"(", b";") == b"(":
            values = self._read_row()
            if not is_wanted:
                self.other_rows[table] = self.other_rows.get(table, 0) + 1
            elif columns is None or len(values) != len(columns):
                raise self._refusal(f"a row of {table} has {len(values)} values for {len(columns or ())} columns")
            else:
                yield table, dict(zip(columns, values, strict=True))
            if self._next_mark(b",", b";") == b";":
                return

    def _read_row(self) -> list[Value]:
        values: list[Value] = []
        while True:
            values.append(self._read_value(self._next()))
            if self._next_mark(b",", b")") == b")":
                return values

    def _read_value(self, token: _Token) -> Value:
        kind, raw = token
        if kind in ("text", "quoted"):
            return _text(raw)
        if kind == "number":
            return int(raw) if raw.lstrip(b"+-").isdigit() and len(raw) < 20 else raw.decode("ascii")
        if kind == "hex":
            return bytes.fromhex(raw[2:].decode("ascii").rjust((len(raw) - 1) // 2 * 2, "0"))
        word = _word(token)
        if word in _CONSTANTS:
            return _CONSTANTS[word]
        if word.startswith(b"_") or word in (b"X", b"B", b"N"):  # _binary '...', x'...', b'...', N'...'
            value = self._read_value(self._next())
            if word == b"X" and isinstance(value, str):
                return bytes.fromhex(value)
            return int(value, 2) if word == b"B" and isinstance(value, str) else value
        raise self._refusal(f"{raw[:40].decode('utf-8', 'replace')!r} is no literal")

    def _read_name(self, token: _Token) -> tuple[str, _Token]:
        """Read `table` or `database`.`table`; return its name in lower case and the token after it."""
        while True:
            if token[0] not in ("name", "quoted", "word"):
                raise self._refusal("a table without a name")
            name = _name(token).rpartition(".")[2]
            if (token := self._next()) != ("mark", b"."):
                return name, token
            token = self._next()

    def _skip_statement(self, token: _Token | None = None) -> None:
        token = token or self._next()
        while token not in (("mark", b";"), _END):
            token = self._next()

    def _skip_program(self) -> None:
        """Pass over what stands between `DELIMITER ;;` and `DELIMITER ;`: the statements of triggers and routines."""
        while (token := self._next()) != _END:
            if _word(token) == b"DELIMITER" and self._next() == ("mark", b";") and self._peek() != b";":
                return

    def _next_mark(self, *wanted: bytes) -> bytes:
        kind, raw = self._next()
        if kind != "mark" or raw not in wanted:
            found = raw[:40].decode("utf-8", "replace") or "the end"
            raise self._refusal(f"{' or '.join(mark.decode() for mark in wanted)} expected, found {found!r}")
        return raw

    def _next(self) -> _Token:
        """Return the next token that is no blank and no comment."""
        while True:
            if self._at >= len(self._buffer) and not self._fill():
                return _END
            match = _TOKEN.match(self._buffer, self._at)
            while self._may_go_on(match) and self._fill():
                match = _TOKEN.match(self._buffer, self._at)
            if match is None:
                return _END
            kind, raw = match.lastgroup or "", match.group()
            if kind == "mark" and raw in (b"'", b'"', b"`"):
                raise self._refusal("a text does not end")
            self._at = match.end()
            if kind != "blank":
                return kind, raw

    def _may_go_on(self, match: re.Match[bytes] | None) -> bool:
        """Say whether more bytes could make another token of this one."""
        if match is None or match.end() + _AHEAD_BYTES > len(self._buffer):
            return True
        start = self._buffer[self._at : self._at + 2]
        return match.lastgroup == "mark" and (start[:1] in (b"'", b'"', b"`") or start == b"/*")

    def _peek(self) -> bytes:
        return self._buffer[self._at : self._at + 1]

    def _fill(self) -> bool:
        """Read on, each time as much as waits already. False at the end."""
        if self._is_all:
            return False
        rest = len(self._buffer) - self._at
        if rest > MOST_TOKEN_BYTES:
            raise self._refusal(f"a value is longer than {MOST_TOKEN_BYTES // 1024**2} MiB")
        chunk = self.file.read(max(CHUNK_BYTES, rest))
        if not chunk:
            self._is_all = True
            return False
        self._gone_bytes += self._at
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return True

    def _refusal(self, why: str, hint: str = "make the dump with mysqldump or mariadb-dump") -> InvalidInput:
        return InvalidInput(f"not a dump that can be read, at byte {self._gone_bytes + self._at}: {why}", hint=hint)


def _word(token: _Token) -> bytes:
    return token[1].upper() if token[0] == "word" else b""


def _name(token: _Token) -> str:
    raw = token[1][1:-1].replace(b"``", b"`") if token[0] in ("name", "quoted") else token[1]
    return raw.decode("utf-8", "replace").lower()


def _text(raw: bytes) -> str:
    """Undo the escapes of a literal; what is no UTF-8 is shown as such."""
    inner = raw[1:-1]
    if b"\\" in inner or raw[:1] * 2 in inner:
        inner = _ESCAPE.sub(_unescape, inner)
    return inner.decode("utf-8", "replace")


def _unescape(match: re.Match[bytes]) -> bytes:
    letter = match.group(1)
    return match.group()[:1] if letter is None else _ESCAPED.get(letter, letter)
