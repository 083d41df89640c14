"""The watchdog at work: read facts, decide, carry it out, remember; once or until it is stopped."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace

from meetingctl.core import layout
from meetingctl.core.errors import Busy, MeetingctlError
from meetingctl.device.config import read_config
from meetingctl.device.config.load import Problem
from meetingctl.device.notify import Notifier
from meetingctl.device.system import System
from meetingctl.device.units import read_unit, restart_unit
from meetingctl.device.watchdog.decide import Decision, decide, plan_probe
from meetingctl.device.watchdog.facts import (
    Facts,
    count_alsa_errors,
    draw_chance,
    is_device_present,
    probe_stream,
    read_log_tail,
    read_progress,
    read_status,
)
from meetingctl.device.watchdog.memory import Memory
from meetingctl.device.watchdog.rules import Rules, rules_of
from meetingctl.device.watchdog.state import LOCK_FOLDER, Kept, read_kept, report_check, write_kept

START_DELAY_S = 10.0
# The longest time between two messages to systemd while nothing is being waited for.
_ALIVE_EVERY_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was decided, and what the next check needs of it."""

    decision: Decision
    kept: Kept


def read_facts(system: System, rules: Rules, memory: Memory) -> Facts:
    """Look at everything once; takes at most about 40 s on a system where nothing answers."""
    at_s = system.clock.monotonic_s()
    unit = read_unit(system, rules.stream_unit)
    status = read_status(system)
    camera_present = is_device_present(system, rules.camera_device)
    method = plan_probe(memory, unit, status, camera_present=camera_present, rules=rules, at_s=at_s)
    endpoint = replace(rules.endpoint, host=status.host) if status and status.host else rules.endpoint
    tail, log_bytes = read_log_tail(system, rules.stream_log, mark_bytes=memory.log_mark_bytes)
    return Facts(
        at_s=at_s,
        unit=unit,
        status=status,
        probe=probe_stream(endpoint, method) if method else None,
        camera_present=camera_present,
        alsa_errors=count_alsa_errors(tail),
        log_bytes=log_bytes,
        recorder=read_unit(system, rules.recorder_unit) if rules.is_recording else None,
        progress=read_progress(system) if rules.is_recording else None,
        chance=draw_chance(),
    )


def check_once(system: System, rules: Rules, notifier: Notifier, kept: Kept, *, dry_run: bool = False) -> Check:
    """Read, decide, remember, then act; with `dry_run` nothing is written or done.

    The state is written before a restart, so that a watchdog that dies in the middle of one still counts it.
    """
    notifier.alive()
    facts = read_facts(system, rules, kept.memory)
    decision = decide(kept.memory, facts, rules)
    after = Kept(decision.memory, report_check(system, rules, decision, facts, kept.report))
    if not dry_run:
        write_kept(system, after)
        carry_out(system, rules, decision, notifier)
    return Check(decision, after)


def carry_out(system: System, rules: Rules, decision: Decision, notifier: Notifier) -> None:
    """Restart what the decision says. A failure is logged: the back-off counts the try all the same."""
    for action in decision.actions:
        is_stream = action == "restart-stream"
        unit = rules.stream_unit if is_stream else rules.recorder_unit
        finding = decision.stream if decision.actions[0] == "restart-stream" else decision.recorder
        log.warning("restarting a unit", extra={"unit": unit, "reason": finding.reason, "detail": finding.detail})
        notifier.alive(f"restarting {unit}: {finding.reason}")
        try:
            # After a restart of the stream the recorder follows, unless somebody stopped it.
            restart_unit(system, unit, only_running=not is_stream and len(decision.actions) > 1)
        except MeetingctlError as error:
            log.error("restart failed", extra={"unit": unit, "error": error.message})


def run_watchdog(
    system: System, notifier: Notifier, stop: threading.Event, *, start_delay_s: float = START_DELAY_S
) -> None:
    """Check every CHECK_INTERVAL until `stop` is set; config.env is read anew each time.

    Raises: MeetingctlError when another watchdog runs on this device.
    """
    try:
        with system.locked(LOCK_FOLDER, timeout_s=2.0):
            notifier.ready("waiting for the first check")
            _rest(notifier, stop, start_delay_s)
            kept, last = read_kept(system), ""
            told: tuple[Problem, ...] = ()
            while not stop.is_set():
                loaded = read_config(system)
                told = _tell_problems(loaded.problems, told)
                rules = rules_of(loaded.config)
                check = check_once(system, rules, notifier, kept)
                kept, last = check.kept, _tell(check.decision, last)
                _rest(notifier, stop, rules.interval_s, last)
            notifier.stopping()
    except Busy as error:
        unit = layout.WATCHDOG_UNIT
        raise MeetingctlError("another watchdog runs on this device", hint=f"systemctl status {unit}") from error


def _tell_problems(problems: tuple[Problem, ...], told: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Log what is wrong in config.env when it changes; return it."""
    for problem in problems:
        if problem not in told:
            log.warning("config.env", extra={"problem": problem.text()})
    return problems


def _tell(decision: Decision, last: str) -> str:
    """Log a change of state, and return the line that describes it."""
    stream, recorder = decision.stream, decision.recorder
    line = f"stream {stream.state} ({stream.reason}), recorder {recorder.state} ({recorder.reason})"
    if line != last:
        level = logging.WARNING if "failing" in (stream.state, recorder.state) else logging.INFO
        log.log(level, "state changed", extra={"now": line, "detail": stream.detail})
    return line


def _rest(notifier: Notifier, stop: threading.Event, rest_s: float, status: str = "") -> None:
    """Wait, and tell systemd in between that all is well."""
    left_s = rest_s
    notifier.alive(status)
    while left_s > 0 and not stop.wait(min(left_s, _ALIVE_EVERY_S)):
        left_s -= _ALIVE_EVERY_S
        notifier.alive(status)
