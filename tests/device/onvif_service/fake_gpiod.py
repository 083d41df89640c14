"""The part of libgpiod 2 that a relay uses, as its hardware would show it."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any


class Direction(Enum):
    OUTPUT = 2


class Value(Enum):
    INACTIVE = 0
    ACTIVE = 1


class FakeGpiod:
    """`levels` is what a meter at the pin would read; `released` whether the line was given back."""

    def __init__(self) -> None:
        self.line = SimpleNamespace(Direction=Direction, Value=Value)
        self.levels: dict[int, int] = {}
        self.chip = ""
        self.released = False
        self._low = False

    def LineSettings(self, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(**settings)

    def request_lines(self, chip: str, *, consumer: str, config: dict[int, Any]) -> FakeGpiod:
        ((pin, settings),) = config.items()
        self.chip, self._low = chip, settings.active_low
        self.set_value(pin, settings.output_value)
        return self

    def set_value(self, pin: int, value: Value) -> None:
        self.levels[pin] = value.value ^ self._low

    def release(self) -> None:
        self.released = True
