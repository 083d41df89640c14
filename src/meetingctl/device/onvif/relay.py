"""The relay: one line of a GPIO chip, requested once and held as long as the daemon lives.

A line that is released may fall back to its reset state, so no second program ever takes it. Needs libgpiod 2.
"""

from __future__ import annotations

import importlib
from typing import Any

from meetingctl.core.errors import MeetingctlError, NotFound
from meetingctl.device.config import DeviceConfig

_CONSUMER = "meetingctl-onvif"


class Relay:
    """A held line; `is_on` is what was last set, since nobody else can change it."""

    def __init__(self, config: DeviceConfig, gpiod: Any) -> None:
        """Request the line as an output that is off. Raises: MeetingctlError."""
        self._gpiod = gpiod
        self._pin = config.relay_gpio_pin
        self.token = config.relay_output_token
        self.is_on = False
        chip = f"/dev/{config.relay_gpio_chip}"
        settings = gpiod.LineSettings(
            direction=gpiod.line.Direction.OUTPUT,
            active_low=not config.relay_active_high,
            output_value=gpiod.line.Value.INACTIVE,
        )
        try:
            self._lines = gpiod.request_lines(chip, consumer=_CONSUMER, config={self._pin: settings})
        except (OSError, ValueError) as exc:
            raise MeetingctlError(f"{chip}: line {self._pin} cannot be taken: {exc}", hint=f"gpioinfo {chip}") from exc

    def set(self, is_on: bool) -> bool:
        """Switch, and say whether that changed anything. Raises: MeetingctlError."""
        value = self._gpiod.line.Value
        try:
            self._lines.set_value(self._pin, value.ACTIVE if is_on else value.INACTIVE)
        except (OSError, ValueError) as exc:
            raise MeetingctlError(f"line {self._pin} cannot be set: {exc}") from exc
        changed, self.is_on = is_on != self.is_on, is_on
        return changed

    def close(self) -> None:
        self._lines.release()


def refusal(config: DeviceConfig, gpiod: Any | None) -> str:
    """Say why there is no relay; empty when there can be one."""
    if not config.relay_enable:
        return "RELAY_ENABLE is no"
    if not config.relay_gpio_pin:
        return "RELAY_GPIO_PIN is 0"
    if gpiod is None:
        return "the Python module gpiod is missing: apt install python3-libgpiod"
    if not hasattr(gpiod, "request_lines"):
        return "libgpiod 1 is installed, version 2 is needed"
    return ""


def load_gpiod() -> Any | None:
    """Import gpiod where it is installed."""
    try:
        return importlib.import_module("gpiod")
    except ImportError:
        return None


def open_relay(config: DeviceConfig, gpiod: Any | None) -> Relay:
    """Take the relay's line. Raises: NotFound with the reason why there is none, MeetingctlError."""
    if reason := refusal(config, gpiod):
        raise NotFound(f"no relay: {reason}", hint="meetingctl device onvif describe")
    return Relay(config, gpiod)
