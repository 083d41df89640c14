"""Our units on this machine, started and stopped in an order that frees the camera; and who holds it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import TUNNEL_AGENT_UNIT, UNITS
from meetingctl.core.unitstate import (
    Step,
    UnitState,
    Verb,
    begins,
    choose_units,
    judge_state,
    parse_states,
    plan_units,
    show_argv,
)
from meetingctl.device.system import System
from meetingctl.device.units import RESTART_TIMEOUT_S

_ASK_TIMEOUT_S = 10.0
_CAMERA = re.compile(r"/dev/video\d+")


def read_states(system: System, units: Sequence[str] = UNITS) -> list[UnitState]:
    """Ask systemd for the states of units. Raises: MeetingctlError where it does not answer."""
    ran = system.run(*show_argv(units), timeout_s=_ASK_TIMEOUT_S)
    if not ran.ok:
        reason = " ".join(ran.err.split())[:200] or f"code {ran.code}"
        raise MeetingctlError(f"systemd does not answer: {reason}", hint="systemctl is-system-running")
    return parse_states(units, ran.out)


def plan_services(verb: Verb, states: Sequence[UnitState], named: Sequence[str]) -> list[Step]:
    """Decide what has to be done about the named units, or about all but the agent of the tunnel. Pure.

    The agent does not hold the camera, and somebody may be here only through it. Raises: NotFound.
    """
    chosen = choose_units(verb, states, named, hint="meetingctl device services status")
    return plan_units(verb, [unit for unit in chosen if named or unit != TUNNEL_AGENT_UNIT], states)


def apply_services(
    system: System, steps: Sequence[Step], *, on_step: Callable[[Step], object] | None = None
) -> list[UnitState]:
    """Call systemctl for each step in order, all of them even when one fails, and return the states afterwards.

    Raises: MeetingctlError naming the units that are not as they should be.
    """
    faults = []
    for step in steps:
        if step.verb is None:
            continue
        if on_step is not None:
            on_step(step)
        if begins(step):
            system.run("systemctl", "reset-failed", "--", f"{step.unit}.service", timeout_s=_ASK_TIMEOUT_S)
        ran = system.run("systemctl", step.verb, "--", f"{step.unit}.service", timeout_s=RESTART_TIMEOUT_S)
        if not ran.ok:
            reason = "no answer in time" if ran.timed_out else " ".join(ran.err.split())[:200] or f"code {ran.code}"
            faults.append(f"{step.verb} {step.unit}: {reason}")
    states = read_states(system, [step.unit for step in steps]) if steps else []
    wrong = [judge_state(step, state) for step, state in zip(steps, states, strict=True)]
    if found := faults or [text for text in wrong if text]:
        raise MeetingctlError("; ".join(found), hint="journalctl -n 50 -u rpi-av-rtsp-recorder")
    return states


def find_camera_holders(system: System) -> list[dict[str, Any]]:
    """Return who has a video device open: device, pid, command. Of other users' processes only root learns it."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for process in system.path("/proc").glob("[0-9]*"):
        # Processes end while they are looked at, and those of others are closed to all but root.
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    device, pid = str(descriptor.readlink()), int(process.name)
                    if _CAMERA.fullmatch(device):
                        command = (process / "comm").read_text("utf-8", "replace").strip()
                        found[device, pid] = {"device": device, "pid": pid, "command": command}
    return [found[key] for key in sorted(found)]
