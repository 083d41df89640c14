"""One logging set-up for every command and daemon: records on stderr, facts as fields."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import Any, TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the facts given with `extra=`, and the request id when there is one."""
    facts = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    if current := request_id.get():
        facts.setdefault("request_id", current)
    return facts


# C0 with newline and ESC, DEL, C1, the other line ends, and what reverses the direction of text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    """Write control characters as escapes: a peer's text stays in its line and sends no command to a terminal."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


class TextFormatter(logging.Formatter):
    """`12:00:01 info  tunnel up device=cam-7 rtt_ms=41`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        line = escape_controls(f"{clock} {record.levelname.lower():<7} {record.getMessage()}{facts}")
        if not record.exc_info:
            return line
        trace = self.formatException(record.exc_info).split("\n")
        return "\n".join([line, *map(escape_controls, trace)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for the journal."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(entry, default=str, ensure_ascii=False)
        return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def set_up_logging(*, level: str, style: str, stream: TextIO | None = None) -> None:
    """Send every record to stderr. `style` is `text` or `json`; call it once per process."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in (
        "asyncio",
        "asyncssh",
        "httpx",
        "httpcore",
        "alembic",
        "uvicorn.access",
        "uvicorn.error",
        "sqlalchemy",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
