"""What a change will do, decided before anything is done: facts go in, steps come out.

A plan is a list of steps in their order. It is printed by a dry run and carried out by the side that made it, so both
show the same thing; a plan over facts that are already as they should be is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One change. `do` is a verb of the side's table of actions, `on` what it acts on, `why` the fact that asks for it.

    `detail` is what the action needs beside that; a value that is secret is a `core.secret.Secret` there, never text.
    """

    do: str
    on: str
    why: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.do} {self.on}: {self.why}"


def as_rows(steps: Iterable[Step]) -> list[dict[str, str]]:
    """Return the steps for a table or JSON, in their order; details stay out, they may be secret or long."""
    return [{"do": step.do, "on": step.on, "why": step.why} for step in steps]
