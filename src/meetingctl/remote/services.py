"""Our units on a device: their states, and what has to be done about them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from meetingctl.core.errors import MeetingctlError, NotFound
from meetingctl.core.layout import RECOVERY_UNIT, UNITS, WEB_UNIT
from meetingctl.remote.parsers import parse_units, parse_whole
from meetingctl.remote.visit import Privilege, Visit

Verb = Literal["start", "stop", "restart", "enable", "disable"]
_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "MainPID")
_CHANGING = frozenset({"activating", "deactivating", "reloading"})
# A unit that udev pulls in for a moment is nobody's to start or stop.
_STEADY = tuple(unit for unit in UNITS if unit != RECOVERY_UNIT)


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit, in its own words; all empty when it could not be asked."""

    unit: str
    load: str = ""
    active: str = ""
    sub: str = ""
    enabled: str = ""
    result: str = ""
    restarts: int = 0

    @property
    def is_installed(self) -> bool:
        return self.load == "loaded"

    @property
    def is_active(self) -> bool:
        return self.active == "active"

    @property
    def is_enabled(self) -> bool:
        return self.enabled == "enabled"

    def as_json(self) -> dict[str, Any]:
        """Return the state as the commands show it."""
        return {
            "unit": self.unit,
            "load": self.load or None,
            "active": self.active or None,
            "sub": self.sub or None,
            "enabled": self.enabled or None,
            "result": self.result or None,
            "restarts": self.restarts,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One call of systemctl and why; a unit that needs none has no verb."""

    unit: str
    verb: Verb | None
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the step as the commands show it."""
        return {"unit": self.unit, "step": self.verb, "reason": self.reason}


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
    names = shlex.join(f"{unit}.service" for unit in units)
    return f"systemctl show --no-pager --property={','.join(_PROPERTIES)} -- {names}"


def parse_states(units: Sequence[str], text: str) -> list[UnitState]:
    """Read the answer of systemd, in the order of the units. Pure."""
    found = parse_units(text)
    return [_state(unit, found.get(unit, {})) for unit in units]


async def read_states(visit: Visit, units: Sequence[str]) -> list[UnitState]:
    """Ask for the states of units. Raises: MeetingctlError where systemd does not answer."""
    return parse_states(units, await visit.ask(show_line(units)))


def choose_units(verb: Verb, states: Sequence[UnitState], named: Sequence[str]) -> list[str]:
    """Choose the units that a command is about: the named ones, else all that are installed; start: only enabled ones.

    The web page stops first and starts last, as people look at it to see what goes on; else the order is that of the
    table, backwards for stop. Pure. Raises: NotFound for a named unit that is not installed.
    """
    by_name = {state.unit: state for state in states}
    if missing := next((unit for unit in named if not by_name[unit].is_installed), None):
        raise NotFound(f"{missing}.service is not installed", hint="meetingctl remote services list TARGET")
    chosen = list(named) or [
        unit for unit in _STEADY if by_name[unit].is_installed and (verb != "start" or by_name[unit].is_enabled)
    ]
    ordered = sorted(chosen, key=lambda unit: (unit == WEB_UNIT, UNITS.index(unit)))
    return ordered[::-1] if verb in {"stop", "disable"} else ordered


def plan_units(verb: Verb, units: Sequence[str], states: Sequence[UnitState]) -> list[Step]:
    """Decide for each unit whether systemd has to be called. Pure; what is as wanted already needs nothing."""
    by_name = {state.unit: state for state in states}
    return [_plan_unit(verb, by_name[unit]) for unit in units]


async def apply_steps(visit: Visit, steps: Sequence[Step]) -> list[UnitState]:
    """Call systemctl for each step in order and return the states afterwards.

    Raises: AuthError when sudo refuses; MeetingctlError when a call fails or a unit is not as it should be.
    """
    calls = [f"systemctl {step.verb} -- {shlex.quote(f'{step.unit}.service')}" for step in steps if step.verb]
    if calls:
        resets = [f"systemctl reset-failed -- {step.unit}.service 2>/dev/null" for step in steps if _begins(step)]
        await visit.ask(
            "\n".join(["set -e", *(f"{line} || true" for line in resets), *calls]), privilege=Privilege.needed
        )
    states = await read_states(visit, [step.unit for step in steps]) if steps else []
    if wrong := [reason for step, state in zip(steps, states, strict=True) if (reason := judge_state(step, state))]:
        raise MeetingctlError(f"{visit.target}: {'; '.join(wrong)}", hint=f"meetingctl remote logs {visit.target}")
    return states


def judge_state(step: Step, state: UnitState) -> str | None:
    """Say what is wrong with a unit after its step; None when all is well. Pure: whole words are compared."""
    wanted: Mapping[str, tuple[str, bool]] = {
        "start": ("active", state.is_active or state.active == "activating"),
        "restart": ("active", state.is_active or state.active == "activating"),
        "stop": ("inactive", state.active in {"inactive", "failed"}),
        "enable": ("enabled", state.is_enabled),
        "disable": ("disabled", state.enabled in {"disabled", "masked", "static"}),
    }
    if step.verb is None:
        return None
    word, is_so = wanted[step.verb]
    now = state.enabled if step.verb in {"enable", "disable"} else state.active
    return None if is_so else f"{step.unit} is {now or 'unknown'}, not {word}, after {step.verb}"


def _plan_unit(verb: Verb, state: UnitState) -> Step:
    match verb:
        case "start" if state.is_active:
            return Step(state.unit, None, "active already")
        case "stop" if state.active in {"inactive", "failed"}:
            return Step(state.unit, None, f"{state.active} already")
        case "enable" if state.is_enabled:
            return Step(state.unit, None, "enabled already")
        case "disable" if state.enabled == "disabled":
            return Step(state.unit, None, "disabled already")
        case "enable" | "disable":
            return Step(state.unit, verb, f"is {state.enabled or 'unknown'}")
    return Step(state.unit, verb, f"is {state.active or 'unknown'}")


def _begins(step: Step) -> bool:
    return step.verb in {"start", "restart"}


def _state(unit: str, values: Mapping[str, str]) -> UnitState:
    return UnitState(
        unit,
        values.get("LoadState", ""),
        values.get("ActiveState", ""),
        values.get("SubState", ""),
        values.get("UnitFileState", ""),
        values.get("Result", ""),
        parse_whole(values.get("NRestarts", "")) or 0,
    )
