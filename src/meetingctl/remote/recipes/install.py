"""The whole installation: connect, look, plan, carry out, connect again when the link was lost, verify."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from meetingctl.core.errors import MeetingctlError, TransportLost, Unreachable
from meetingctl.core.layout import ONVIF_UNIT, RECORDER_UNIT, UNITS
from meetingctl.core.plan import Step, as_rows
from meetingctl.remote.recipes.facts import InstallFacts
from meetingctl.remote.recipes.link import Link
from meetingctl.remote.recipes.plan import plan_install, refuse_unfit
from meetingctl.remote.recipes.session import Session
from meetingctl.remote.recipes.steps import PERCENTS, Job, carry_out, follow_to_end, percent_of
from meetingctl.remote.recipes.unit import UNIT
from meetingctl.remote.services import UnitState, parse_states, show_line
from meetingctl.remote.smoke import judge_units

# After these the device is asked again what is left: they change more than they are named after.
_CHANGES_MORE = frozenset({"install-package", "repair", "follow", "burn-token", "keep-token", "reboot"})
REBOOT_S = 600.0
# A link may be lost in the middle of a step, even more than once; what never gets done for another reason must end.
MOST_TRIES = 10
UNITS_S = 90.0
HEARTBEAT_S = 150.0
_POLL_S = 2.0
CONNECTING = "connecting"


@dataclass(slots=True)
class Outcome:
    """What became of an installation."""

    facts: InstallFacts
    steps: list[Step]
    route: dict[str, object] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return all(row["ok"] is not False for row in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return it as the command shows it."""
        return {
            "route": self.route,
            "device": self.facts.as_json(),
            "steps": as_rows(self.steps),
            "checks": self.checks,
            "warnings": self.warnings,
        }


@dataclass(slots=True)
class Installer:
    """One run. `at` says where it stands, for whoever interrupts it; `again` is the command that goes on."""

    name: str
    session: Session
    job: Job
    again: str
    read_device: Callable[[], Mapping[str, Any]] | None = None
    at: str = CONNECTING
    heard_at: object = None

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Let an error about a link that stays away say where the run stands, and how to go on."""
        try:
            yield
        except (Unreachable, TransportLost) as error:
            if self.at == CONNECTING:
                raise
            runs_on = f"; {UNIT}.service goes on there" if self.job.following else ""
            raise Unreachable(f"{error.message}; stands at {self.at}{runs_on}", hint=self.again) from error
        finally:
            self.session.drop()

    def look(self) -> Outcome:
        """Connect and ask; nothing is changed."""
        job = self.job
        job.progress.phase(PERCENTS["connect"][0], CONNECTING)
        link = self.session.link()
        job.progress.line(f"connected to {link.route}")
        facts = job.read_facts(link)
        shown = [facts.hostname, facts.model, facts.os, facts.arch, f"up {facts.uptime_s} s"]
        job.progress.phase(PERCENTS["connect"][1], ", ".join(word for word in shown if word))
        route = {"way": link.route.way, "host": link.route.host, "port": link.route.port}
        return Outcome(facts, [], route)

    def plan(self) -> Outcome:
        """Connect, ask, and say what would be done. Raises: MeetingctlError for a device that cannot be installed."""
        outcome = self.look()
        refuse_unfit(self.name, outcome.facts, self.job.wishes.bundle)
        outcome.steps = plan_install(outcome.facts, self.job.wishes)
        return outcome

    def attach(self) -> Outcome:
        """Follow an installation that runs, or tell how the last one ended. Raises: MeetingctlError."""
        outcome = self.look()
        if not outcome.facts.unit.active or outcome.facts.unit.active == "inactive":
            raise MeetingctlError(
                f"{self.name}: no installation runs there", hint=f"meetingctl remote facts {self.name}"
            )
        self.at = f"following {UNIT}.service"
        self._insist(lambda link: follow_to_end(self.job, link))
        return outcome

    def install(self) -> Outcome:
        """Do everything. Raises: MeetingctlError, AuthError, Unreachable where it stands when the link stays away."""
        outcome = self.plan()
        facts, steps = outcome.facts, outcome.steps
        done: list[Step] = []
        tries: Counter[tuple[str, str]] = Counter()
        while steps:
            step = steps[0]
            tries[step.do, step.on] += 1
            if tries[step.do, step.on] > MOST_TRIES:
                raise MeetingctlError(f"{self.name}: {step.do} {step.on}: tried {MOST_TRIES} times", hint=self.again)
            self._enter(step, len(done), len(steps))
            changes_more = self._is_lost(facts, step) or step.do in _CHANGES_MORE
            done.append(step)
            steps = steps[1:]
            if changes_more:
                facts = self._look_again(step, facts)
                steps = plan_install(facts, self.job.wishes, self.job.done)
                done = _without_lost(done, steps)
        outcome.steps, outcome.facts, outcome.warnings = done, facts, self.job.warnings
        return outcome

    def verify(self, outcome: Outcome) -> None:
        """Look whether the units run and the server hears of the device; the outcome gets a row for each."""
        self.at = "verifying"
        self.job.progress.phase(PERCENTS["verify"][0], "verify: units")
        self._insist(lambda link: outcome.checks.append(self._check_units(link)))
        if self.read_device is not None and self.job.wishes.member is not None:
            self.job.progress.phase(PERCENTS["verify"][0] + 2, "verify: heartbeat")
            address = self._insist(_address_used)
            outcome.checks.append(self._check_heartbeat(self.read_device, address))
        self.job.progress.phase(PERCENTS["verify"][1], "done" if outcome.is_good else "done, but not all is well")

    def _enter(self, step: Step, done: int, left: int) -> None:
        self.at = f"step {done + 1} of {done + left}, {step.do} {step.on}"
        self.job.progress.line(f"{self.at}: {step.why}")
        self.job.progress.phase(percent_of(step), f"{step.do} {step.on}")

    def _is_lost(self, facts: InstallFacts, step: Step) -> bool:
        """Do one step; say whether the link was lost meanwhile, so that nobody knows how far it came."""
        try:
            carry_out(self.job, self.session.link(), facts, step)
        except TransportLost as error:
            self._lose(error)
            return True
        return False

    def _look_again(self, step: Step, before: InstallFacts) -> InstallFacts:
        """Ask the device what it is like now; after a restart wait for it, and follow first what still runs."""
        if step.do == "reboot":
            self._await_boot(before.boot_id)
            self.job.done.add("reboot")

        def ask(link: Link) -> InstallFacts:
            if self.job.following:
                follow_to_end(self.job, link)
            return self.job.read_facts(link)

        facts: InstallFacts = self._insist(ask)
        bundle = self.job.wishes.bundle
        if "install-package" in self.job.done and bundle is not None and facts.version != bundle.version:
            raise MeetingctlError(
                f"{self.name}: version {facts.version or 'none'} is there after {bundle.version} was installed",
                hint=f"meetingctl remote run {self.name} --sudo -- journalctl --unit {UNIT}",
            )
        return facts

    def _await_boot(self, boot_id: str) -> None:
        self.session.drop()
        if self.read_device is not None:
            with contextlib.suppress(MeetingctlError):
                self.heard_at = last_heard(self.read_device())
        until_s = time.monotonic() + REBOOT_S
        while time.monotonic() < until_s:
            time.sleep(_POLL_S)
            try:
                after = self.session.link().ask("cat /proc/sys/kernel/random/boot_id").strip()
            except TransportLost:
                self.session.drop()
                continue
            if after and after != boot_id:
                return
            self.session.drop()
        raise MeetingctlError(f"{self.name}: did not restart within {REBOOT_S:g} s", hint=self.again)

    def _insist(self, ask: Callable[[Link], Any]) -> Any:
        """Ask over the link, and again over another one when it was lost."""
        while True:
            try:
                return ask(self.session.link())
            except TransportLost as error:
                self._lose(error)

    def _lose(self, error: TransportLost) -> None:
        self.job.progress.line(error.message)
        self.job.progress.phase(-1, "the link was lost, connecting again")
        self.session.drop()
        if time.monotonic() >= self.session.until_s:
            raise Unreachable(error.message)

    def _check_units(self, link: Link) -> dict[str, Any]:
        until_s = min(time.monotonic() + UNITS_S, self.session.until_s)
        while True:
            states = parse_states(UNITS, link.ask(show_line(UNITS)))
            finding = judge_units([state for state in states if not is_off_by_choice(state)])
            if finding.ok or time.monotonic() + _POLL_S > until_s:
                return {"check": "units", "ok": finding.ok, "detail": finding.detail}
            time.sleep(_POLL_S)

    def _check_heartbeat(self, read_device: Callable[[], Mapping[str, Any]], address: str | None) -> dict[str, Any]:
        until_s = min(time.monotonic() + HEARTBEAT_S, self.session.until_s)
        while True:
            try:
                ok, detail = judge_heartbeat(read_device(), address, self.heard_at)
            except MeetingctlError as error:
                ok, detail = False, error.message
            if ok or time.monotonic() + _POLL_S > until_s:
                return {"check": "heartbeat", "ok": ok, "detail": detail}
            time.sleep(_POLL_S)


def is_off_by_choice(state: UnitState) -> bool:
    """Say whether a unit ended well by itself, as the recorder and ONVIF do when the configuration says no. Pure."""
    return state.unit in {RECORDER_UNIT, ONVIF_UNIT} and state.active == "inactive" and state.result == "success"


def judge_heartbeat(device: Mapping[str, Any], address: str | None, before: object = None) -> tuple[bool, str]:
    """Judge the record of a device: heard of lately, and at the address that was used; None for any address. Pure.

    `before` is when it was heard of before its restart; that does not count any more.
    """
    heard = last_heard(device)
    if not heard:
        return False, "the server never heard of it"
    if heard == before:
        return False, f"the server did not hear of it since its restart, last at {heard}"
    if device.get("status") != "Available":
        return False, f"the server last heard of it at {heard}, and calls it {device.get('status')}"
    told = [str(device[name]) for name in ("ip_lan", "ip_address") if device.get(name)]
    if address is not None and address not in told:
        return False, f"it reports {' and '.join(told) or 'no address'}, and was reached at {address}"
    return True, f"heard at {heard}" + (f" from {address}" if address else "")


def last_heard(device: Mapping[str, Any]) -> object:
    """Return when the server last heard of a device, in the server's words; None for never."""
    return device.get("last_heartbeat") or device.get("last_seen")


def _address_used(link: Link) -> str | None:
    if link.route.way == "tunnel" or link.connection.transport is None:
        return None
    return str(link.connection.transport.getpeername()[0])


def _without_lost(done: list[Step], steps: list[Step]) -> list[Step]:
    """Leave out what has to be done once more: a step that a lost link ended. Pure."""
    again = {(step.do, step.on) for step in steps}
    return [step for step in done if (step.do, step.on) not in again]
