"""One device and how far its update is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from meetingctl.core.plan import Step, as_rows
from meetingctl.remote.update.plan import Wish
from meetingctl.remote.update.source import Source
from meetingctl.remote.visit import Visit

Word = Literal["planned", "current", "updated", "returned", "rolled_back", "failed"]
Tell = Callable[[str], object]
Inspect = Callable[[Visit], Awaitable[Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a device. `word` says it; `before` and `after` are versions, `checks` those of the last look."""

    word: Word
    before: str
    after: str
    steps: Sequence[Step] = ()
    uploaded_bytes: int = 0
    checks: Sequence[Mapping[str, Any]] = ()
    fault: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what the command shows of it."""
        return {
            "outcome": self.word,
            "from_version": self.before or None,
            "installed_version": self.after or None,
            "changed": self.word in {"updated", "returned"},
            "steps": as_rows(self.steps),
            "uploaded_bytes": self.uploaded_bytes,
            "checks": [dict(row) for row in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Order:
    """What to do: the update to a source, or without one the way back; `dry_run` stops after the plan."""

    source: Source | None
    wish: Wish = Wish()
    dry_run: bool = False
    reconnect_s: float = 300.0
    settle_s: float = 60.0


@dataclass(slots=True)
class Job:
    """One device and how far its update is. `stage` is what the next connection goes on with."""

    target: str
    order: Order
    inspect: Inspect
    tell: Tell
    began: Callable[[str], Awaitable[object]]  # gets the former version, before anything changes
    stage: Literal["plan", "apply", "reboot", "check", "return"] = "plan"
    at: str = "connecting"
    before: str = ""
    boot_id: str = ""
    steps: Sequence[Step] = ()
    uploaded_bytes: int = 0
    baseline: Sequence[Mapping[str, Any]] | None = None
    checks: Sequence[Mapping[str, Any]] = ()
    fault: str = ""
    has_begun: bool = False
    has_reported: bool = False
    invocation: str | None = None
    old_status: str = ""
    reboot_until_s: float = 0.0
    _said: str = field(default="", repr=False)

    @property
    def is_at_work(self) -> bool:
        """Say whether the device goes on by itself."""
        return self.stage in {"apply", "return"}

    def say(self, at: str) -> None:
        """Note where the work stands, and tell it once."""
        self.at = at
        if at != self._said:
            self._said = at
            self.tell(at)

    def end(self, word: Word, after: str) -> Result:
        return Result(word, self.before, after, self.steps, self.uploaded_bytes, self.checks, self.fault)
