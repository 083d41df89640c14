"""Our units on a device: their states, and what has to be done about them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from meetingctl.core.errors import MeetingctlError, NotFound
from meetingctl.core.layout import UNITS
from meetingctl.core.unitstate import Step as Step
from meetingctl.core.unitstate import UnitState as UnitState
from meetingctl.core.unitstate import Verb as Verb
from meetingctl.core.unitstate import begins, show_argv
from meetingctl.core.unitstate import choose_units as choose_units
from meetingctl.core.unitstate import judge_state as judge_state
from meetingctl.core.unitstate import parse_states as parse_states
from meetingctl.core.unitstate import plan_units as plan_units
from meetingctl.remote.visit import Privilege, Visit


def split_units(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Divide words into targets and names of our units, with or without `.service`. Pure."""
    targets: list[str] = []
    units: list[str] = []
    for word in words:
        name = word.removesuffix(".service")
        if name in UNITS:
            units.append(name)
        elif word.endswith(".service"):
            raise NotFound(f"no unit {word[:80]!r} of ours", hint=f"units: {', '.join(UNITS)}")
        else:
            targets.append(word)
    return targets, list(dict.fromkeys(units))


def show_line(units: Sequence[str]) -> str:
    """Write the line that asks systemd for units."""
    return shlex.join(show_argv(units))


async def read_states(visit: Visit, units: Sequence[str]) -> list[UnitState]:
    """Ask for the states of units. Raises: MeetingctlError where systemd does not answer."""
    return parse_states(units, await visit.ask(show_line(units)))


async def apply_steps(visit: Visit, steps: Sequence[Step]) -> list[UnitState]:
    """Call systemctl for each step in order and return the states afterwards.

    Raises: AuthError when sudo refuses; MeetingctlError when a call fails or a unit is not as it should be.
    """
    calls = [f"systemctl {step.verb} -- {shlex.quote(f'{step.unit}.service')}" for step in steps if step.verb]
    if calls:
        resets = [f"systemctl reset-failed -- {step.unit}.service 2>/dev/null" for step in steps if begins(step)]
        await visit.ask(
            "\n".join(["set -e", *(f"{line} || true" for line in resets), *calls]), privilege=Privilege.needed
        )
    states = await read_states(visit, [step.unit for step in steps]) if steps else []
    if wrong := [reason for step, state in zip(steps, states, strict=True) if (reason := judge_state(step, state))]:
        raise MeetingctlError(f"{visit.target}: {'; '.join(wrong)}", hint=f"meetingctl remote logs {visit.target}")
    return states
