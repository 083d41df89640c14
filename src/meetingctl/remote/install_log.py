"""The log file of one installation: everything that was done and heard, without secrets."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from meetingctl.remote.recipes.steps import Progress
from meetingctl.remote.redact import redact


@dataclass(slots=True)
class InstallLog:
    """Writes each line with its time, and hands phases and warnings on."""

    path: Path
    show_phase: Callable[[int, str], object]
    show_warning: Callable[[str], object]
    end_phases: Callable[[], object]
    secrets: Collection[str] = field(default=(), repr=False)
    _file: TextIO | None = field(default=None, repr=False)
    _last: str = field(default="", repr=False)

    def open(self) -> None:
        """Begin the file, for nobody but its owner. Raises: OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)
        self._file = self.path.open("a", encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the file, and what shows the phases."""
        self.end_phases()
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, text: str) -> None:
        """Write one line."""
        if self._file is not None:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self._file.write(f"{at} {redact(text, self.secrets)}\n")
            self._file.flush()

    def progress(self) -> Progress:
        """Return what an installation tells; a phase without a percentage is below 0."""
        return Progress(self._phase, self.write, self._warn)

    def _phase(self, percent: int, text: str) -> None:
        line = f"[{percent:3d} %] {text}" if percent >= 0 else text
        if line != self._last:
            self._last = line
            self.write(line)
        self.show_phase(percent, redact(text, self.secrets))

    def _warn(self, text: str) -> None:
        self.write(f"warning: {text}")
        self.show_warning(redact(text, self.secrets))
