"""Write the fleet's state as CSV or JSON, piece by piece."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

FIELDS = (
    "device_key",
    "device_type",
    "distribution",
    "channel",
    "installed_version",
    "target_version",
    "state",
    "computed_state",
    "update_status",
    "last_seen",
    "last_attempt_at",
    "last_attempt_status",
    "last_error",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def guard_cell(value: Any) -> str:
    """Return a cell that no spreadsheet takes for a formula: such text gets an apostrophe in front."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) or text.startswith(_FORMULA) else text


def csv_pieces(pages: Iterable[Sequence[dict[str, Any]]]) -> Iterator[str]:
    """Yield CSV text (RFC 4180) with a heading, one piece for each page."""
    yield _lines([FIELDS])
    for page in pages:
        yield _lines([[guard_cell(item.get(name)) for name in FIELDS] for item in page])


def _lines(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def json_csv_pieces(pages: Iterable[Sequence[dict[str, Any]]]) -> Iterator[str]:
    """Yield `{"ok": true, "csv": TEXT}` (decision D-CSV)."""
    yield '{"ok":true,"csv":"'
    for piece in csv_pieces(pages):
        yield json.dumps(piece)[1:-1]
    yield '"}'


def json_pieces(pages: Iterable[Sequence[dict[str, Any]]]) -> Iterator[str]:
    """Yield `{"ok": true, "items": [...]}`."""
    yield '{"ok":true,"items":['
    comma = ""
    for page in pages:
        yield comma + ",".join(json.dumps(item) for item in page)
        comma = ","
    yield "]}"
