"""What the watchdog remembers from one check to the next, and across its own restarts until the next boot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from meetingctl.device.watchdog.rules import CALM_S, FIRST_WAIT_S, JITTER, LONGEST_WAIT_S

_MOST_STEPS = 16


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long one unit must be left alone after a restart. Seconds on the monotonic clock."""

    step: int = 0
    allowed_at_s: float = 0.0
    restarts: int = 0

    def may_act(self, at_s: float) -> bool:
        return at_s >= self.allowed_at_s

    def acted(self, at_s: float, chance: float) -> Backoff:
        """Record a restart; `chance` in [0, 1) lengthens the wait by up to a fifth."""
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self.step) * (1 + JITTER * chance)
        return Backoff(min(self.step + 1, _MOST_STEPS), at_s + wait_s, self.restarts + 1)

    def calmed(self, healthy_for_s: float) -> Backoff:
        """Start again with the first wait after an hour of health; a wait that runs stays."""
        return Backoff(0, self.allowed_at_s, self.restarts) if healthy_for_s >= CALM_S else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Everything a decision knows of earlier checks. Times are seconds on the monotonic clock.

    `absent_at_s` is the last time that the camera was missing, None once its return has been dealt with; `back_at_s`
    is the first time that it was seen again. `log_mark_bytes` is where the log of the stream ended at the last restart.
    """

    failures: int = 0
    stream: Backoff = field(default_factory=Backoff)
    healthy_since_s: float | None = None
    described_at_s: float | None = None
    has_probe_failed: bool = False
    has_seen_camera: bool = False
    camera_source: str = ""
    absent_at_s: float | None = None
    back_at_s: float | None = None
    log_mark_bytes: int = 0
    recorder_failures: int = 0
    recorder: Backoff = field(default_factory=Backoff)
    recorder_healthy_since_s: float | None = None
    progress_key: str = ""
    progress_since_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` wrote; anything else, also from another version, is a fresh memory."""
        try:
            return cls(
                **_typed(cls, {**value, "stream": _backoff(value["stream"]), "recorder": _backoff(value["recorder"])})
            )
        except (KeyError, TypeError, ValueError):
            return cls()


def _backoff(value: Any) -> Backoff:
    return Backoff(**_typed(Backoff, value))


def _typed(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check each value against the type of the field's default. Raises: ValueError, KeyError."""
    checked = {}
    for item in fields(kind):
        value = values[item.name]
        optional = item.type == "float | None"
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
        wanted = {
            "int": isinstance(value, int) and number,
            "float": number,
            "float | None": number or value is None,
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
            "Backoff": isinstance(value, Backoff),
        }
        if not wanted[str(item.type)] and not (optional and value is None):
            raise ValueError(item.name)
        checked[item.name] = value
    return checked
