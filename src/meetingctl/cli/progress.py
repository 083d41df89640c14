"""How far a transfer is, on standard error."""

from __future__ import annotations

from meetingctl.cli.invocation import Invocation

STEPS = 20  # a bar is drawn again at each of these parts


class Bar:
    """How far a transfer is: a bar on a terminal, one line at its start elsewhere, nothing in the JSON formats."""

    def __init__(self, run: Invocation, name: str, total_bytes: int, *, verb: str = "sending") -> None:
        self._run = run
        self._name = name
        self._total = total_bytes
        self._done = 0
        self._drawn = -1
        self._is_shown = not run.out.is_json and not run.options.get("quiet")
        self._draws = self._is_shown and run.out.err.isatty()
        if not self._draws:
            run.out.note(f"{verb} {name}, {total_bytes} bytes")

    def add(self, size_bytes: int) -> None:
        """Count bytes that were sent."""
        self._done += size_bytes
        step = min(STEPS, STEPS * self._done // max(1, self._total))
        if self._draws and step != self._drawn:
            self._drawn = step
            self._write(f"\r[{'#' * step:<{STEPS}}] {100 * step // STEPS:3d} % {self._shown}")

    def close(self) -> None:
        """End the line of the bar."""
        if self._draws and self._drawn >= 0:
            self._write("\n")

    @property
    def _shown(self) -> str:
        from meetingctl.cli.output import printable

        return printable(self._name)

    def _write(self, text: str) -> None:
        self._run.out.err.write(text)
        self._run.out.err.flush()
