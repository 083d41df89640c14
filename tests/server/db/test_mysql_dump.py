"""Read dumps of MySQL: literals, columns, long statements, and what is no dump."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest

from meetingctl.core.errors import InvalidInput
from meetingctl.server.db import mysql_dump
from meetingctl.server.db.mysql_dump import DumpReader

TABLE = (
    "CREATE TABLE `t` (`a` int(11) NOT NULL DEFAULT 0 COMMENT 'x, (y)', `B` enum('p,q','r)') , c text, "
    "PRIMARY KEY (`a`));\n"
)


def read(content: bytes | str, *tables: str) -> list[tuple[Any, ...]]:
    raw = content.encode() if isinstance(content, str) else content
    return [tuple(row.values()) for _, row in DumpReader(io.BytesIO(raw), tables or ("t",)).rows()]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (rb"'plain'", "plain"),
        (rb"''", ""),
        (rb"'it''s'", "it's"),
        (rb"'it\'s \"so\" \\ \n\t\r\0\Z\%'", 'it\'s "so" \\ \n\t\r\0\x1a%'),
        (rb"'),(1,2); -- no /* comment'", "),(1,2); -- no /* comment"),
        ("'日本 🎥'".encode(), "日本 🎥"),
        (b"'\xff'", "\N{REPLACEMENT CHARACTER}"),
        (b'"double ""quoted"" it\'s"', 'double "quoted" it\'s'),
        (b"NULL", None),
        (b"null", None),
        (b"TRUE", 1),
        (b"-17", -17),
        (b"18446744073709551615", "18446744073709551615"),
        (b"1.50", "1.50"),
        (b"1e3", "1e3"),
        (b"0x00FF", b"\x00\xff"),
        (b"0xF", b"\x0f"),
        (b"x'00ff'", b"\x00\xff"),
        (b"b'101'", 5),
        (b"_binary 'raw'", "raw"),
        (b"_utf8mb4 'text'", "text"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 5, 256 * 1024])
def test_literals(literal: bytes, value: Any, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_dump, "CHUNK_BYTES", chunk_bytes)
    content = TABLE.encode() + b"INSERT INTO `t` VALUES (1," + literal + b",2),\n(2,'x',NULL);"
    assert read(content) == [(1, value, 2), (2, "x", None)]


def test_columns_come_from_the_table_or_the_statement() -> None:
    reader = DumpReader(io.BytesIO((TABLE + "INSERT INTO t VALUES (1,'r)','c');").encode()), {"t"})
    assert list(reader.rows()) == [("t", {"a": 1, "b": "r)", "c": "c"})]
    given = "REPLACE INTO `db`.`T` (`z`, a) VALUES (1, 2);"
    assert [row for _, row in DumpReader(io.BytesIO(given.encode()), {"t"}).rows()] == [{"z": 1, "a": 2}]


def test_everything_else_is_passed_over() -> None:
    content = (
        "/*M!999999\\- enable the sandbox mode */ \n-- a comment's quote\n--\n# another's\n"
        "/*!40101 SET NAMES utf8mb4 */;\nSET @a = 'INSERT INTO t';\nDROP TABLE IF EXISTS `t`;\n"
        + TABLE
        + "LOCK TABLES `t` WRITE;\nINSERT INTO `other` VALUES (1),(2);\nINSERT INTO `t` VALUES (1,2,3);\n"
        "CREATE VIEW v AS SELECT 1;\nDELIMITER ;;\n/*!50003 CREATE TRIGGER x */;;\nCREATE TRIGGER y BEGIN\n"
        "INSERT INTO t VALUES (NEW.id, 1, 2);\nEND ;;\nDELIMITER ;\nINSERT INTO `t` VALUES (4,5,6);\nUNLOCK TABLES;\n"
    )
    reader = DumpReader(io.BytesIO(content.encode()), {"t"})
    assert [tuple(row.values()) for _, row in reader.rows()] == [(1, 2, 3), (4, 5, 6)]
    assert reader.other_rows == {"other": 2}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("INSERT INTO t VALUES (1,2,3);", "columns of t are not known"),
        (TABLE + "INSERT INTO t VALUES (1,2);", "2 values for 3 columns"),
        (TABLE + "INSERT INTO t VALUES (1,2,NOW());", "'NOW' is no literal"),
        (TABLE + "INSERT INTO t VALUES (1,2,'text without end);", "a text does not end"),
        (TABLE + "INSERT INTO t VALUES (1,2", "found 'the end'"),
        (TABLE + "INSERT INTO t SELECT * FROM x;", "INSERT without VALUES"),
        ("CREATE TABLE t (a int", "ends inside CREATE TABLE"),
    ],
)
def test_what_is_no_dump_is_refused_with_its_place(content: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=r"at byte \d+") as caught:
        read(content)
    assert why in caught.value.message
    assert caught.value.hint


def test_a_value_that_memory_should_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_dump, "MOST_TOKEN_BYTES", 1024**2)

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            assert self.given < 16 * 1024**2, "it reads on and on"
            return b"x" * size

    with pytest.raises(InvalidInput, match="longer than 1 MiB"):
        list(
            DumpReader(
                io.BufferedReader(_Joined(TABLE.encode() + b"INSERT INTO t VALUES (1,'", Endless())), {"t"}
            ).rows()
        )


class _Joined(io.RawIOBase):
    """One file after the other."""

    def __init__(self, first: bytes, rest: io.RawIOBase) -> None:
        self._parts: list[Any] = [io.BytesIO(first), rest]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        for part in self._parts:
            if content := part.read(len(buffer)):
                buffer[: len(content)] = content
                return len(content)
        return 0


def test_a_long_statement_is_read_in_little_memory() -> None:
    import tracemalloc

    row = b"(1,'" + b"x" * 1000 + b"',NULL),"
    rows = 8000
    parts = _Joined(TABLE.encode() + b"INSERT INTO t VALUES ", _Repeated(row, rows))
    reader = DumpReader(io.BufferedReader(_Joined(b"", parts)), {"t"})
    tracemalloc.start()
    try:
        found = sum(1 for _ in reader.rows())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == rows + 1
    assert peak_bytes < 4 * 1024**2, "the statement has 8 MB"


class _Repeated(io.RawIOBase):
    def __init__(self, row: bytes, count: int) -> None:
        self._left = count
        self._row = row
        self._waiting = b""
        self._end = b"(1,2,3);"

    def read(self, size: int = -1) -> bytes:
        while len(self._waiting) < size and (self._left or self._end):
            if self._left:
                self._waiting += self._row
                self._left -= 1
            else:
                self._waiting, self._end = self._waiting + self._end, b""
        given, self._waiting = self._waiting[:size], self._waiting[size:]
        return given


def test_any_bytes_are_read_or_refused() -> None:
    chance = random.Random(7)
    words = [
        b"INSERT INTO",
        b"`t`",
        b"t",
        b"VALUES",
        b"(",
        b")",
        b",",
        b";",
        b"'",
        b"\\",
        b"--",
        b"/*",
        b"*/",
        b"`",
        b'"',
        b"1",
    ]
    words += [b"CREATE TABLE", b"DELIMITER", b"\n", b" ", b"NULL", b"0x", b"_binary", b"x'", b"\xff", b"\0"]
    for _ in range(3000):
        content = b"".join(chance.choice(words) for _ in range(chance.randint(1, 30)))
        try:
            read(content)
        except InvalidInput:
            pass
