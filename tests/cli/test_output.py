"""Formats, colour, fields, filters; and nothing hostile on a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.cli.output import (
    Output,
    cell_text,
    choose_color,
    choose_format,
    parse_filters,
    printable,
    select_rows,
    to_json,
    with_iso_times,
)
from meetingctl.core.errors import NotFound, UsageError

from .runner import Stream

ROWS = [
    {"device_key": "cam-1", "status": "Available", "services": ["ssh", "http"], "authorized": True, "note": None},
    {"device_key": "cam-2", "status": "Unknown", "services": [], "authorized": False, "note": "a\tb\nc"},
]


def output(style: str, **more: Any) -> Output:
    return Output(style=style, stdout=Stream(), stderr=io.StringIO(), **more)


def written(out: Output) -> str:
    return out.out.getvalue()  # type: ignore[attr-defined]


def said(out: Output) -> str:
    return out.err.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("when", "is_terminal", "no_color", "force_color", "term", "colored"),
    [
        ("auto", True, "", "", "xterm", True),
        ("auto", False, "", "", "xterm", False),
        ("auto", True, "1", "", "xterm", False),
        ("auto", True, "", "", "dumb", False),
        ("auto", False, "", "1", "xterm", True),
        ("auto", True, "1", "1", "xterm", False),
        ("always", False, "1", "", "dumb", True),
        ("never", True, "", "1", "xterm", False),
    ],
)
def test_colour_rules(when, is_terminal, no_color, force_color, term, colored) -> None:
    chosen = choose_color(when, is_terminal=is_terminal, no_color=no_color, force_color=force_color, term=term)
    assert chosen is colored


def test_format_rules() -> None:
    assert choose_format("", is_terminal=True) == "table"
    assert choose_format("", is_terminal=False) == "plain"
    assert choose_format("json", is_terminal=True) == "json"
    with pytest.raises(UsageError, match="xml"):
        choose_format("xml", is_terminal=True)


def test_plain_is_tab_separated_without_a_heading() -> None:
    out = output("plain")
    out.rows(ROWS, ("device_key", "services", "authorized", "note"), empty="none")
    assert written(out) == "cam-1\tssh,http\tyes\t\ncam-2\t\tno\ta\\tb\\nc\n"


def test_json_shows_whole_rows_and_fields_narrow_them() -> None:
    out = output("json")
    out.rows(ROWS, ("device_key",), empty="none")
    assert json.loads(written(out)) == ROWS
    narrow = output("json")
    narrow.rows(ROWS, ("device_key",), empty="none", fields="status,device_key")
    assert json.loads(written(narrow))[0] == {"status": "Available", "device_key": "cam-1"}


def test_ndjson_is_an_object_a_line() -> None:
    out = output("ndjson")
    out.rows(ROWS, ("device_key",), empty="none")
    assert [json.loads(line) for line in written(out).splitlines()] == ROWS


def test_a_table_has_no_box_and_cuts_nothing_off_a_terminal() -> None:
    out = output("table")
    long = "x" * 400
    out.rows([{"device_key": long, "note": "n"}], ("device_key", "note"), empty="none")
    head, row = written(out).splitlines()
    assert head.split() == ["DEVICE", "KEY", "NOTE"]
    assert row.split() == [long, "n"]


def test_a_message_does_not_land_on_a_drawn_line() -> None:
    out = output("table")
    out.draw("10 %")
    out.draw("20 %\x1b[2J")
    out.note("first contact")
    out.warn("careful")
    out.draw("30 %")
    out.end_drawing()
    out.end_drawing()
    drawn = "\r\x1b[K10 %\r\x1b[K20 %\\x1b[2J\nfirst contact\n"
    assert said(out) == f"{drawn}warning: careful\n\r\x1b[K30 %\n"


@pytest.mark.parametrize(("style", "data"), [("json", "[]\n"), ("ndjson", ""), ("plain", ""), ("table", "")])
def test_an_empty_list(style: str, data: str) -> None:
    out = output(style)
    out.rows([], ("device_key",), empty="no devices")
    assert written(out) == data
    assert said(out) == ("" if "json" in style else "no devices\n")


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        (["status=available"], ["cam-1"]),
        (["device_key=cam-*"], ["cam-1", "cam-2"]),
        (["services=ssh"], ["cam-1"]),
        (["authorized=true"], ["cam-1"]),
        (["authorized=yes"], ["cam-1"]),
        (["authorized=no"], ["cam-2"]),
        (["authorized=true", "status=Unknown"], []),
        (["note=null"], ["cam-1"]),
    ],
)
def test_filters(filters: list[str], keys: list[str]) -> None:
    assert [row["device_key"] for row in select_rows(ROWS, parse_filters(filters))] == keys


@pytest.mark.parametrize("text", ["status", "=x", ""])
def test_a_filter_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_filters([text])


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        output("json").rows(ROWS, ("device_key",), empty="none", fields="stauts")
    assert "device_key, status" in str(caught.value.hint)
    with pytest.raises(UsageError, match="colour"):
        list(select_rows(ROWS, parse_filters(["colour=red"])))


def test_wire_times_become_iso() -> None:
    value = {"last_seen": "2026-11-20 10:00:00", "note": "2026-11-20 10:00:00", "agents": [{"since": None}]}
    assert with_iso_times(value) == {**value, "last_seen": "2026-11-20T10:00:00Z"}


@given(st.text())
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    for shown in (printable(text), cell_text(text), cell_text([text]), cell_text({"a": text}), to_json(text)):
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 or 0x202A <= ord(char) <= 0x202E for char in shown)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_json_reads_back(value: Any) -> None:
    assert json.loads(to_json(value)) == value


def test_messages_respect_quiet_and_json() -> None:
    quiet, as_json, loud = output("plain", quiet=True), output("json"), output("plain", verbose=True)
    for out in (quiet, as_json, loud):
        out.note("note")
        out.detail("detail")
        out.warn("careful")
    assert said(quiet) == ""
    assert said(as_json) == "warning: careful\n"
    assert said(loud) == "note\ndetail\nwarning: careful\n"
    assert not any(map(written, (quiet, as_json, loud)))


def test_an_error_cannot_carry_escape_sequences() -> None:
    out = output("plain", error_color=True)
    out.fail(NotFound("\x1b]0;owned\x07", hint="\x9b31m"))
    assert "\x1b]" not in said(out)
    assert "\x07" not in said(out)
    assert "\x9b" not in said(out)


def test_colour_never_carries_the_meaning_alone() -> None:
    plain, colored = output("table"), output("table", color=True)
    for out in (plain, colored):
        out.rows(ROWS, ("device_key", "status"), empty="none")
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", written(colored)).split() == written(plain).split()
