"""Whether the device does what it did before the update: units that ran run again, a stream that answered answers."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import read_config
from meetingctl.device.system import System
from meetingctl.device.units import RESTART_TIMEOUT_S, read_unit, restart_unit
from meetingctl.device.watchdog.facts import probe_stream
from meetingctl.device.watchdog.rules import rules_of

HEALTH_TIMEOUT_S = 60.0
STEADY_S = 5.0  # so long it must be well before it counts
_POLL_S = 0.5
_PROBE_TIMEOUT_S = 5.0
_ASK_TIMEOUT_S = 10.0
# The web page shows the update, and the agent carries the connection that watches it.
_LAST_UNITS = (layout.TUNNEL_AGENT_UNIT, layout.WEB_UNIT)
# With nothing to do they end by themselves and stay off; an original's scripts ran on.
_UNITS_THAT_MAY_END = (layout.RECORDER_UNIT, layout.ONVIF_UNIT)
_UNITS_WITHOUT_SETTINGS = (layout.STREAM_UNIT, layout.WATCHDOG_UNIT, layout.WEB_UNIT)


@dataclass(frozen=True, slots=True)
class Health:
    """What worked at one moment, and which units start at boot."""

    active_units: tuple[str, ...] = ()
    has_stream: bool = False
    enabled_units: tuple[str, ...] = ()

    def expected_of(self, units: Collection[str], *, is_reset: bool) -> Health:
        """Return what must work with a release that brings these units.

        An empty configuration switches daemons off and chooses another camera, so less is expected after a reset.
        """
        active = [name for name in self.active_units if name in units]
        if is_reset:
            return Health(tuple(name for name in active if name in _UNITS_WITHOUT_SETTINGS))
        return Health(tuple(active), self.has_stream and layout.STREAM_UNIT in active)


def read_health(system: System) -> Health:
    """Look at our units and at the stream."""
    if not system.is_booted:
        return Health()
    active = tuple(name for name in layout.UNITS if read_unit(system, name).active == "active")
    enabled = tuple(name for name in layout.UNITS if _is_enabled(system, name))
    return Health(active, layout.STREAM_UNIT in active and not _stream_fault(system), enabled)


def find_fault(system: System, before: Health, *, stream: bool = True) -> str:
    """Return the first thing that worked before and does not now; empty when all do."""
    for name in before.active_units:
        unit = read_unit(system, name)
        if unit.active != "active" and not (
            name in _UNITS_THAT_MAY_END and unit.is_stopped and unit.result == "success"
        ):
            result = "" if unit.result in {"", "success"} else f", {unit.result}"
            return f"{name} is {unit.active or 'unknown'} ({unit.sub}{result}, code {unit.exit_status})"
    return _stream_fault(system) if stream and before.has_stream else ""


def find_stopped(system: System, before: Health) -> list[str]:
    """Return the units that worked before and do not now."""
    return [name for name in before.active_units if read_unit(system, name).active != "active"]


def wait_healthy(
    system: System, before: Health, *, timeout_s: float = HEALTH_TIMEOUT_S, steady_s: float = STEADY_S
) -> str:
    """Wait until all that worked before has worked for `steady_s`; returns the fault when it does not in time.

    A unit that failed and was not well since for three times as long ends the wait: it is not only slow.
    """
    started_s = time.monotonic()
    well_since_s = failing_since_s = None
    has_streamed = False
    while True:
        fault = find_fault(system, before, stream=not has_streamed)
        now_s = time.monotonic()
        has_streamed = has_streamed or not fault
        well_since_s = None if fault else well_since_s or now_s
        failing_since_s = failing_since_s if fault else None
        if fault and failing_since_s is None and _is_failing(system, before):
            failing_since_s = now_s
        if well_since_s is not None and now_s - well_since_s >= steady_s:
            return ""
        is_hopeless = failing_since_s is not None and now_s - failing_since_s >= 3 * steady_s
        if is_hopeless or now_s - started_s >= timeout_s:
            return fault or f"not steady for {steady_s:g} s"
        time.sleep(_POLL_S)


def _is_failing(system: System, before: Health) -> bool:
    """Say whether a unit ended with an error; one that systemd starts again and again shows it in between."""
    units = [read_unit(system, name) for name in before.active_units]
    return any(unit.active == "failed" or unit.sub == "auto-restart" for unit in units)


def restart_units(system: System, names: Iterable[str]) -> list[str]:
    """Restart units in their order, those that watch the update last; returns what failed, a line each."""
    ordered = sorted(names, key=lambda name: _LAST_UNITS.index(name) if name in _LAST_UNITS else -1)
    failed = []
    for name in ordered:
        try:
            restart_unit(system, name)
        except MeetingctlError as error:
            failed.append(error.message)
    return failed


def start_enabled(system: System, names: Iterable[str]) -> None:
    """Start units that are new on this device and switched on; one that somebody stopped is not new."""
    for name in names:
        if _is_enabled(system, name):
            system.run("systemctl", "start", "--", f"{name}.service", timeout_s=RESTART_TIMEOUT_S)


def enable_units(system: System, names: Iterable[str]) -> None:
    """Switch on again what started at boot before."""
    for name in names:
        if not _is_enabled(system, name):
            system.run("systemctl", "enable", "--", f"{name}.service", timeout_s=_ASK_TIMEOUT_S)


def remove_units(system: System, names: Iterable[str]) -> None:
    """Stop units whose files are about to go, and switch them off."""
    for name in names:
        system.run("systemctl", "disable", "--now", "--", f"{name}.service", timeout_s=RESTART_TIMEOUT_S)


def _is_enabled(system: System, name: str) -> bool:
    return system.run("systemctl", "is-enabled", "--quiet", "--", f"{name}.service", timeout_s=_ASK_TIMEOUT_S).ok


def _stream_fault(system: System) -> str:
    try:
        endpoint = rules_of(read_config(system).config).endpoint
    except MeetingctlError as error:
        return f"config.env cannot be read: {error.message}"
    probe = probe_stream(endpoint, "DESCRIBE", timeout_s=_PROBE_TIMEOUT_S)
    return "" if probe.outcome == "ok" else f"the stream does not answer: {probe.detail or probe.outcome}"
