"""The last lines that this process logged, kept in memory for people who cannot read the journal."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Iterator

from meetingctl.core.log import JsonFormatter

KEPT_LINES = 1000
_LINE_CHARS = 2000
_FORMATTER = JsonFormatter()
# A name that says secret and its value; keys, JSON web tokens and passwords in addresses whatever they are called.
_NAMED = re.compile(
    r"""((?:token|code|password|passphrase|secret|api_key|cookie)\w*["']?\s*[:=]\s*["']?)[^\s"',;}]+""", re.I
)
_FORMS = (
    (re.compile(r"\b(bearer|basic)\s+[^\s\"',;}]+", re.I), r"\1 ***"),
    (re.compile(r"\bmk_\w+"), "mk_***"),
    (re.compile(r"\bwhsec_\w+"), "whsec_***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "***"),
    (re.compile(r"(://[^/\s:@]*:)[^@\s/]+@"), r"\1***@"),
)


def redact(line: str) -> str:
    """Return a line without what looks like a credential."""
    for form, shown in _FORMS:
        line = form.sub(shown, line)
    return _NAMED.sub(r"\1***", line)


class RecentLog(logging.Handler):
    """Keep the last lines, redacted when they come, so that the memory never holds a secret."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.is_attached = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(redact(_FORMATTER.format(record))[:_LINE_CHARS])
        except Exception:  # a boundary: logging must never break what logs
            self.handleError(record)

    def lines(self, most: int) -> list[str]:
        """Return the last lines, oldest first."""
        with self.lock or contextlib.nullcontext():
            return list(self._lines)[-most:]

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Listen to every logger inside the context."""
        logging.getLogger().addHandler(self)
        self.is_attached = True
        try:
            yield
        finally:
            self.is_attached = False
            logging.getLogger().removeHandler(self)
