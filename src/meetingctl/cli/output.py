"""How results look: `table` for people, `plain` for pipes, `json` and `ndjson` for programs.

Standard output carries data and nothing else; messages, warnings and progress go to standard error. Text that came from
a device or a server never reaches a terminal with its control characters.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TextIO

from meetingctl.core.errors import MeetingctlError, UsageError

Row = Mapping[str, Any]

FORMATS = ("table", "json", "ndjson", "plain")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_WIRE_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)")
_TIME_KEYS = frozenset(
    {"last_seen", "last_visit", "last_heartbeat", "since", "time", "timestamp", "added", "modified", "last_ssh"}
)
_WHOLE_WORD = 14  # characters; a longer word may break where the terminal is narrow
_STYLES = {
    "available": "green",
    "ok": "green",
    "online": "green",
    "disconnected": "yellow",
    "warning": "yellow",
    "failed": "red",
    "refused": "red",
    "revoked": "red",
}


class Column(NamedTuple):
    """One column of a list: the key in the row, and the title when it is not the key."""

    key: str
    title: str = ""

    @property
    def heading(self) -> str:
        return (self.title or self.key.replace("_", " ")).upper()


def choose_color(when: str, *, is_terminal: bool, no_color: str, force_color: str, term: str) -> bool:
    """Decide on colour: the option, then NO_COLOR, then FORCE_COLOR, then whether it is a terminal that can."""
    if when in {"always", "never"}:
        return when == "always"
    if no_color:
        return False
    if force_color:
        return True
    return is_terminal and term != "dumb"


def choose_format(wanted: str, *, is_terminal: bool) -> str:
    """Decide on the format. Raises: UsageError for an unknown one."""
    if wanted and wanted not in FORMATS:
        raise UsageError(f"no output format {wanted!r}", hint=f"use one of {', '.join(FORMATS)}")
    return wanted or ("table" if is_terminal else "plain")


def printable(text: str) -> str:
    """Replace control and direction characters by their escapes."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Write JSON in UTF-8 that a terminal cannot take for commands."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return re.sub(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda match: f"\\u{ord(match[0]):04x}", text)


def with_iso_times(value: Any, key: str = "") -> Any:
    """Rewrite the API's `YYYY-MM-DD HH:MM:SS` (UTC) as ISO 8601 with `Z`, under keys that name a time."""
    if isinstance(value, Mapping):
        return {name: with_iso_times(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [with_iso_times(item, key) for item in value]
    if isinstance(value, str) and (key.endswith("_at") or key in _TIME_KEYS) and (found := _WIRE_TIME.fullmatch(value)):
        return f"{found[1]}T{found[2]}Z"
    return value


def cell_text(value: Any, *, nothing: str = "") -> str:
    """Write one value in one line without tabs or control characters."""
    if value is None or value == "":
        return nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return printable(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(cell_text(item) for item in value)
    return printable(str(value))


class Filter(NamedTuple):
    """Keep rows whose value matches: text as it is shown, `*` and `?` as wildcards, any member of a list."""

    key: str
    pattern: str

    def accepts(self, row: Row) -> bool:
        value = row.get(self.key)
        values = value if isinstance(value, list) else [value]
        pattern = self.pattern.lower()
        return any(fnmatchcase(text, pattern) for item in values for text in _filter_texts(item))


def _filter_texts(value: Any) -> tuple[str, ...]:
    """Return the texts that stand for a value: a table shows `yes` where JSON says `true`."""
    if isinstance(value, bool):
        return ("true", "yes") if value else ("false", "no")
    return (value.lower() if isinstance(value, str) else json.dumps(value, default=str).lower(),)


def parse_filters(texts: Iterable[str]) -> list[Filter]:
    """Read `key=value` filters. Raises: UsageError."""
    filters = []
    for text in texts:
        key, equals, pattern = text.partition("=")
        if not equals or not key:
            raise UsageError(f"not a filter: {text[:80]!r}", hint="use for example --filter status=Available")
        filters.append(Filter(key.strip(), pattern.strip()))
    return filters


def select_rows(rows: Iterable[Row], filters: Sequence[Filter]) -> Iterator[Row]:
    """Yield the rows that pass all filters. Raises: UsageError for a key that the first row lacks."""
    is_first = True
    for row in rows:
        if is_first:
            _check_keys((item.key for item in filters), row)
            is_first = False
        if all(item.accepts(row) for item in filters):
            yield row


def _check_keys(keys: Iterable[str], row: Row) -> None:
    if unknown := next((key for key in keys if key not in row), None):
        raise UsageError(f"no field {unknown!r}", hint=f"fields: {', '.join(row)}")


class Output:
    """Standard output and standard error of one invocation."""

    def __init__(
        self,
        *,
        style: str,
        color: bool = False,
        error_color: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        width: int | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        """`style` is one of FORMATS, `width` that of the terminal; streams default to those of the process."""
        self.style = style
        self._color = color
        self._error_color = error_color
        self._quiet = quiet
        self._verbose = verbose
        self._width = width
        self._stdout = stdout
        self._stderr = stderr
        self._is_drawn = False

    @property
    def is_json(self) -> bool:
        return self.style in {"json", "ndjson"}

    @property
    def out(self) -> TextIO:
        return self._stdout or sys.stdout

    @property
    def err(self) -> TextIO:
        return self._stderr or sys.stderr

    # Data.

    def text(self, text: str) -> None:
        """Write text as it is, with one line end."""
        self.out.write(text if text.endswith("\n") else f"{text}\n")

    def value(self, value: Any, *, text: str | None = None) -> None:
        """Write one value: JSON in the JSON formats, else `text` or the value itself."""
        if self.is_json:
            self.text(to_json(with_iso_times(value), indent=2 if self.style == "json" else None))
        else:
            self.text(text if text is not None else cell_text(value))

    def record(self, record: Row, *, fields: str = "", order: Sequence[str] = ()) -> None:
        """Write one object; `order` puts keys first, the others follow; `fields` picks."""
        shown: dict[str, Any] = with_iso_times(dict(record))
        if fields:
            keys = split_fields(fields)
            _check_keys(keys, shown)
            shown = {key: shown[key] for key in keys}
        if self.is_json:
            self.value(shown)
            return
        names = [*(key for key in order if key in shown), *(key for key in shown if key not in order)]
        if fields:
            names = list(shown)
        width = max((len(name) for name in names), default=0)
        for name in names:
            if self.style == "plain":
                self.text(f"{name}\t{cell_text(shown[name])}")
            else:
                title = name.replace("_", " ").ljust(width)
                self.text(f"{self._paint(title, '2')}  {cell_text(shown[name], nothing='-')}")

    def rows(
        self,
        rows: Iterable[Row],
        columns: Sequence[Column | str],
        *,
        empty: str,
        fields: str = "",
        filters: Iterable[str] = (),
    ) -> list[Row]:
        """Write a list and return what was shown; an empty one is `[]` or nothing, with the message on stderr."""
        chosen = [Column(key) for key in split_fields(fields)] or [_column(item) for item in columns]
        picked = select_rows(rows, parse_filters(filters))
        shown = [with_iso_times(dict(row)) for row in picked]
        if fields and shown:
            _check_keys((column.key for column in chosen), shown[0])
        visible = [{column.key: row.get(column.key) for column in chosen} for row in shown] if fields else shown
        if self.style == "json":
            self.text(to_json(visible))
        elif self.style == "ndjson":
            for row in visible:
                self.text(to_json(row, indent=None))
        elif not shown:
            self.note(empty)
        elif self.style == "plain":
            for row in shown:
                self.text("\t".join(cell_text(row.get(column.key)) for column in chosen))
        else:
            self._table(shown, chosen)
        return shown

    def _table(self, rows: Sequence[Row], columns: Sequence[Column]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        is_terminal = self.out.isatty()
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if self._color else "")
        for index, column in enumerate(columns):
            # The first column names the row: somebody will copy it, so it stays in one piece. Short words stay whole.
            words = f"{column.heading} {' '.join(cell_text(row.get(column.key)) for row in rows)}".split()
            longest = max((len(word) for word in words if len(word) <= _WHOLE_WORD), default=1)
            whole = not is_terminal or index == 0
            table.add_column(column.heading, no_wrap=whole, overflow="fold", min_width=longest)
        for row in rows:
            cells = [cell_text(row.get(column.key), nothing="-") for column in columns]
            table.add_row(*(Text(cell, style=_STYLES.get(cell.lower(), "") if self._color else "") for cell in cells))
        console = Console(
            file=self.out,
            width=self._width if is_terminal else 10_000,
            force_terminal=is_terminal,
            no_color=not self._color,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )
        with console.capture() as captured:
            console.print(table)
        self.text("\n".join(line.rstrip() for line in captured.get().splitlines()))

    # Messages.

    def note(self, message: str) -> None:
        """Tell something on stderr; `--quiet` silences it, and so does a JSON format."""
        if not self._quiet and not self.is_json:
            self._say(printable(message))

    def detail(self, message: str) -> None:
        """Tell something that only `--verbose` asks for."""
        if self._verbose:
            self._say(printable(message))

    def warn(self, message: str, *, hint: str | None = None) -> None:
        """Warn on stderr, whatever the format."""
        if not self._quiet:
            self._say(f"{self._paint_error('warning:', '33')} {printable(message)}")
            if hint:
                self._say(f"\n{self._paint_error('hint:', '36')} {printable(hint)}")

    def fail(self, error: MeetingctlError) -> None:
        """Write an error: text on stderr, or one JSON object on stdout in the JSON formats."""
        if self.is_json:
            body = {"code": error.code, "message": error.message, "hint": error.hint}
            self.text(to_json({"ok": False, "error": body}, indent=2 if self.style == "json" else None))
            return
        self._say(f"{self._paint_error('error:', '31')} {printable(error.message)}")
        if error.hint:
            self._say(f"\n{self._paint_error('hint:', '36')} {printable(error.hint)}")

    def draw(self, line: str) -> None:
        """Show a line on the terminal at stderr that the next one replaces; any message ends it first."""
        self.err.write(f"\r\x1b[K{printable(line)}")
        self.err.flush()
        self._is_drawn = True

    def end_drawing(self) -> None:
        """Leave a drawn line as it is, and begin another."""
        if self._is_drawn:
            self._is_drawn = False
            self.err.write("\n")
            self.err.flush()

    def _say(self, message: str) -> None:
        self.end_drawing()
        self.err.write(f"{message}\n")
        self.err.flush()

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text

    def _paint_error(self, text: str, code: str) -> str:
        return f"\x1b[1;{code}m{text}\x1b[0m" if self._error_color else text


def split_fields(fields: str) -> list[str]:
    """Read `--fields a,b`."""
    return [name.strip() for name in fields.split(",") if name.strip()]


def _column(item: Column | str) -> Column:
    return Column(item) if isinstance(item, str) else item
