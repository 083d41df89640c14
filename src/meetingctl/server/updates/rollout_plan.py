"""When a rollout goes on, stops or ends: values and pure rules."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from meetingctl.core.errors import InvalidInput

WAVES_PERCENT = (5, 25, 100)
MAX_WAVES = 20
MAX_S = 30 * 86_400

ActionKind = Literal["wait", "start", "advance", "finish", "pause"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a rollout goes. Percentages are of the selected devices, and cumulative for the waves."""

    waves_percent: tuple[int, ...] = WAVES_PERCENT
    soak_s: int = 3600  # how long a wave is watched after its last device was told to start
    max_delay_s: int = 600  # each device waits a random part of this before it starts
    max_failed_percent: int = 10  # of the devices that were told to start
    min_success_percent: int = 50  # of a wave, before the next one starts

    def to_json(self) -> dict[str, Any]:
        """Return what the table keeps."""
        return {**asdict(self), "waves_percent": list(self.waves_percent)}


def plan_of(facts: Mapping[str, Any]) -> Plan:
    """Read a plan; what is missing has its default. Raises: InvalidInput with the name of a bad value."""
    default = Plan()
    waves = facts.get("waves_percent", WAVES_PERCENT)
    if not _are_waves(waves):
        raise InvalidInput("Invalid waves_percent", hint="rising whole numbers that end with 100, for example 5,25,100")
    return Plan(
        tuple(waves),
        _whole(facts, "soak_s", default.soak_s, 0, MAX_S),
        _whole(facts, "max_delay_s", default.max_delay_s, 0, MAX_S),
        _whole(facts, "max_failed_percent", default.max_failed_percent, 0, 100),
        _whole(facts, "min_success_percent", default.min_success_percent, 0, 100),
    )


def _are_waves(waves: object) -> bool:
    if not isinstance(waves, (list, tuple)) or not 1 <= len(waves) <= MAX_WAVES or waves[-1] != 100:
        return False
    if not all(isinstance(wave, int) and not isinstance(wave, bool) and 1 <= wave <= 100 for wave in waves):
        return False
    return all(earlier < later for earlier, later in itertools.pairwise(waves))


def _whole(facts: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = facts.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(f"Invalid {name}", hint=f"a whole number from {least} to {most}")
    return value


@dataclass(frozen=True, slots=True)
class WaveCounts:
    """The devices of one wave."""

    devices: int = 0
    success: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What to do next, and why."""

    kind: ActionKind
    reason: str = ""


def decide(plan: Plan, wave: int, started_at_ms: int | None, counts: Sequence[WaveCounts], now_ms: int) -> Action:
    """Choose the next step of a running rollout. `wave` is the one that runs, -1 before the first.

    `counts` has one entry for each wave of the plan.
    """
    if wave < 0 or started_at_ms is None:
        return Action("start", "first wave")
    told, current = counts[: wave + 1], counts[wave]
    devices, failed = sum(count.devices for count in told), sum(count.failed for count in told)
    if failed and failed * 100 > plan.max_failed_percent * devices:
        return Action("pause", f"{failed} of {devices} devices failed, allowed are {plan.max_failed_percent} %")
    is_last = wave + 1 >= len(plan.waves_percent)
    if is_last and all(count.success >= count.devices for count in told):
        return Action("finish", "all devices have it")
    if current.devices == 0 and not is_last:
        return Action("advance", "an empty wave")
    left_ms = started_at_ms + (plan.max_delay_s + plan.soak_s) * 1000 - now_ms
    if left_ms > 0:
        return Action("wait", f"watching wave {wave + 1} for {math.ceil(left_ms / 1000)} s more")
    if is_last:
        return Action("finish", "the last wave was watched to its end")
    needed = math.ceil(current.devices * plan.min_success_percent / 100)
    if current.success < needed:
        return Action("wait", f"{current.success} of {needed} devices of wave {wave + 1} have reported success")
    return Action("advance", f"wave {wave + 1} is well")


def draw_waves(count: int, plan: Plan, source: random.Random) -> list[tuple[int, int]]:
    """Draw `(wave, start_delay_s)` for so many devices, in random order; each wave rounds up."""
    places = [0] * count
    begin = 0
    for wave, percent in enumerate(plan.waves_percent):
        end = math.ceil(count * percent / 100)
        for place in range(begin, end):
            places[place] = wave
        begin = max(begin, end)
    source.shuffle(places)
    return [(wave, source.randint(0, plan.max_delay_s)) for wave in places]
