"""What systemd says of our units, and what has to be done about them; for this machine and for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from meetingctl.core.errors import NotFound
from meetingctl.core.layout import RECOVERY_UNIT, UNITS, WEB_UNIT

Verb = Literal["start", "stop", "restart", "enable", "disable"]
_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "MainPID")
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


def show_argv(units: Sequence[str]) -> list[str]:
    """Write the command that asks systemd for units."""
    names = [f"{unit}.service" for unit in units]
    return ["systemctl", "show", "--no-pager", f"--property={','.join(_PROPERTIES)}", "--", *names]


def parse_units(text: str) -> dict[str, dict[str, str]]:
    """Read `systemctl show` of several units: id without `.service` -> property -> value."""
    units = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if name := values.pop("Id", ""):
            units[name.removesuffix(".service")] = values
    return units


def parse_states(units: Sequence[str], text: str) -> list[UnitState]:
    """Read the answer of systemd, in the order of the units. Pure."""
    found = parse_units(text)
    return [_state(unit, found.get(unit, {})) for unit in units]


def choose_units(
    verb: Verb,
    states: Sequence[UnitState],
    named: Sequence[str],
    *,
    hint: str = "meetingctl remote services list TARGET",
) -> list[str]:
    """Choose the units that a command is about: the named ones, else all that are installed; start: only enabled ones.

    The web page stops first and starts last, as people look at it to see what goes on; else the order is that of the
    table, backwards for stop. Pure. Raises: NotFound for a named unit that is not installed.
    """
    by_name = {state.unit: state for state in states}
    if missing := next((unit for unit in named if not by_name[unit].is_installed), None):
        raise NotFound(f"{missing}.service is not installed", hint=hint)
    chosen = list(named) or [
        unit for unit in _STEADY if by_name[unit].is_installed and (verb != "start" or by_name[unit].is_enabled)
    ]
    ordered = sorted(chosen, key=lambda unit: (unit == WEB_UNIT, UNITS.index(unit)))
    return ordered[::-1] if verb in {"stop", "disable"} else ordered


def plan_units(verb: Verb, units: Sequence[str], states: Sequence[UnitState]) -> list[Step]:
    """Decide for each unit whether systemd has to be called. Pure; what is as wanted already needs nothing."""
    by_name = {state.unit: state for state in states}
    return [_plan_unit(verb, by_name[unit]) for unit in units]


def judge_state(step: Step, state: UnitState) -> str | None:
    """Say what is wrong with a unit after its step; None when all is well. Pure: whole words are compared."""
    # A daemon that is switched off in its configuration starts, finds that out, and ends without a fault.
    has_ended_well = state.active == "inactive" and state.result == "success"
    is_begun = state.is_active or state.active == "activating" or has_ended_well
    wanted: Mapping[str, tuple[str, bool]] = {
        "start": ("active", is_begun),
        "restart": ("active", is_begun),
        "stop": ("inactive", state.active in {"inactive", "failed"}),
        "enable": ("enabled", state.is_enabled),
        "disable": ("disabled", state.enabled in {"disabled", "masked", "static"}),
    }
    if step.verb is None:
        return None
    word, is_so = wanted[step.verb]
    now = state.enabled if step.verb in {"enable", "disable"} else state.active
    return None if is_so else f"{step.unit} is {now or 'unknown'}, not {word}, after {step.verb}"


def begins(step: Step) -> bool:
    """Say whether a step makes a unit run."""
    return step.verb in {"start", "restart"}


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


def _state(unit: str, values: Mapping[str, str]) -> UnitState:
    return UnitState(
        unit,
        values.get("LoadState", ""),
        values.get("ActiveState", ""),
        values.get("SubState", ""),
        values.get("UnitFileState", ""),
        values.get("Result", ""),
        _whole(values.get("NRestarts", "")),
    )


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0
