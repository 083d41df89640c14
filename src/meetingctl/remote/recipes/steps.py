"""What each step of an installation does on the device."""

from __future__ import annotations

import posixpath
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import STATE_DIR
from meetingctl.core.plan import Step
from meetingctl.remote.recipes.bundle import OWN_WHEEL
from meetingctl.remote.recipes.facts import HOSTS_FILE, REBOOT_MARK, InstallFacts, check_argv, read_install_facts
from meetingctl.remote.recipes.link import Link
from meetingctl.remote.recipes.plan import Wishes, asks_for_reboot, plan_membership
from meetingctl.remote.recipes.transfer import send_file
from meetingctl.remote.recipes.unit import UNIT, Report, follow_unit, forget_unit, start_unit
from meetingctl.remote.transient import UnitFacts
from meetingctl.remote.visit import Privilege

# The percentages of the first generation's installer, which people know.
PERCENTS: Mapping[str, tuple[int, int]] = {
    "connect": (10, 20),
    "set-hostname": (20, 35),
    "set-timezone": (20, 35),
    "enable-ntp": (20, 35),
    "write-file": (35, 45),
    "send-package": (45, 55),
    "install-package": (55, 70),
    "follow": (55, 70),
    "burn-token": (70, 75),
    "keep-token": (70, 75),
    "repair": (75, 85),
    "reboot": (85, 96),
    "verify": (96, 100),
}
# systemd expands ${...} and $$ in arguments, so none is written here.
_BOOTSTRAP = """set -eu
d=$(mktemp -d /var/tmp/meetingctl-bootstrap.XXXXXXXX)
trap 'rm -rf "$d"' EXIT
tar -xf "$1" -C "$d" --no-same-owner --wildcards "$2"
wheel=$(find "$d" -type f -name '*.whl')
PYTHONPATH="$wheel" python3 -m meetingctl.device.update apply "$1" --no-reboot"""


@dataclass(slots=True)
class Progress:
    """Who is told what: a phase with its percentage, a line of work on the device, something to worry about."""

    phase: Callable[[int, str], object]
    line: Callable[[str], object]
    warn: Callable[[str], object]


@dataclass(slots=True)
class Job:
    """One installation on its way. `folder` is where packages are sent to, below the home of the user there."""

    wishes: Wishes
    progress: Progress
    until_s: float
    take_token: Callable[[], int]
    folder: str = ""
    done: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    following: str = ""
    before: str = ""
    cursor: str = ""

    def read_facts(self, link: Link) -> InstallFacts:
        """Ask the device again."""
        if not self.folder:
            home = link.ask('printf %s "$HOME"').strip()
            self.folder = posixpath.join(home if home.startswith("/") else "/var/tmp", ".cache/meetingctl")  # noqa: S108
        return read_install_facts(link, self.wishes.bundle, self.folder, self.wishes.components)

    def warn(self, text: str) -> None:
        """Tell something that does not stop the installation."""
        self.warnings.append(text)
        self.progress.warn(text)


def percent_of(step: Step) -> int:
    """Return where a step begins. The host's own name is no membership, though both are files. Pure."""
    return PERCENTS["set-hostname" if step.on == HOSTS_FILE else step.do][0]


def carry_out(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    """Do one step. Raises: MeetingctlError, AuthError, TransportLost."""
    if asks_for_reboot(step) and not facts.wants_reboot:
        # Gone after the restart: a run that ends too early leaves it to the next one.
        link.ask(f"mkdir -p {STATE_DIR} && touch {REBOOT_MARK}", privilege=Privilege.needed)
    _ACTIONS[step.do](job, link, facts, step)


def follow_to_end(job: Job, link: Link) -> None:
    """Follow the unit that this run has started, or found; does nothing when it is gone with a restart.

    Raises: MeetingctlError with the last line that it wrote when it fails.
    """
    first, last = PERCENTS["install-package" if job.following != "repair" else "repair"]
    tail: list[str] = []

    def tell(report: Report) -> None:
        for line in report.lines:
            job.progress.line(line)
        tail[:] = [*tail, *report.lines][-1:]
        job.cursor = report.cursor
        share = report.progress.get("progress")
        # The file tells of updates only, also long after the last one.
        if (
            job.following == "install-package"
            and isinstance(share, int)
            and 0 <= share <= 100
            and report.progress.get("message")
        ):
            percent = first + (last - first) * share // 100
            job.progress.phase(percent, f"{job.following or 'follow'}: {str(report.progress['message'])[:200]}")

    unit = follow_unit(link, tell, until_s=job.until_s, cursor=job.cursor)
    stage, job.following = job.following, ""
    if unit.invocation == job.before and stage:
        return  # The link was lost before it was started.
    if not unit.is_over:
        return
    judge_unit(str(link.target), unit, tail[-1] if tail else "")
    forget_unit(link)
    if stage:
        job.done.add(stage)
    if stage == "install-package" and job.wishes.bundle is not None:
        link.ask(f"rm -f -- {shlex.quote(posixpath.join(job.folder, job.wishes.bundle.name))}")


def judge_unit(target: str, unit: UnitFacts, last_line: str) -> None:
    """Raise: MeetingctlError for a unit that did not end well."""
    if not unit.is_good:
        reason = f"exit code {unit.exit_code}" if unit.result == "exit-code" else unit.result or "unknown"
        raise MeetingctlError(
            f"{target}: {unit.job or UNIT} failed there: {reason}{f': {last_line[:300]}' if last_line else ''}",
            hint=f"meetingctl remote run {target} --sudo -- journalctl --unit {UNIT}",
        )


def _write_file(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    detail = step.detail
    text, owner = detail["text"].reveal(), detail.get("owner")
    link.replace_file(step.on, text, expect=detail["expect"], mode=detail["mode"], owner=owner)


def _set_hostname(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    link.ask(f"hostnamectl set-hostname -- {shlex.quote(step.on)}", privilege=Privilege.needed)


def _set_timezone(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    link.ask(f"timedatectl set-timezone -- {shlex.quote(step.on)}", privilege=Privilege.needed)


def _enable_ntp(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    link.ask("timedatectl set-ntp true", privilege=Privilege.needed)


def _send_package(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    bundle = job.wishes.bundle
    assert bundle is not None
    first, last = PERCENTS["send-package"]
    told_s = 0.0

    def sent(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > 1 or done in (0, total):
            told_s = time.monotonic()
            job.progress.phase(first + (last - first) * done // max(1, total), f"send-package: {done} of {total} bytes")

    send_file(link, bundle.path, job.folder, bundle.name, sha256=bundle.sha256, sent=sent)


def _install_package(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    bundle = job.wishes.bundle
    assert bundle is not None
    package = posixpath.join(job.folder, bundle.name)
    _run_unit(job, link, facts, step.do, ["/bin/sh", "-c", _BOOTSTRAP, "sh", package, OWN_WHEEL])


def _repair(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    _run_unit(job, link, facts, step.do, check_argv(job.wishes.components, repair=True))


def _run_unit(job: Job, link: Link, facts: InstallFacts, stage: str, argv: list[str]) -> None:
    job.following, job.before, job.cursor = stage, facts.unit.invocation, ""
    start_unit(link, stage, argv)
    follow_to_end(job, link)


def _follow(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    follow_to_end(job, link)


def _burn_token(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    try:
        left = job.take_token()
    except MeetingctlError as error:
        help_ = f"; {error.hint}, then this command again" if error.hint else ""
        job.warn(f"no token was consumed, so the device is not provisioned: {error.message}{help_}")
        job.done.add(step.do)
        return
    job.progress.line(f"one token of {step.on} is consumed, {left} left")
    job.done.add(step.do)
    _keep_token(job, link, facts, step)


def _keep_token(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    member = job.wishes.member
    assert member is not None
    for file in plan_membership(job.read_facts(link), job.wishes, member, provisioned=True):
        _write_file(job, link, facts, file)


def _reboot(job: Job, link: Link, facts: InstallFacts, step: Step) -> None:
    # The answer has to leave the device before its network goes down.
    later = shlex.quote("sleep 1; exec systemctl reboot")
    link.ask(f"nohup sh -c {later} </dev/null >/dev/null 2>&1 &", privilege=Privilege.needed)


_ACTIONS: Mapping[str, Callable[[Job, Link, InstallFacts, Step], None]] = {
    "write-file": _write_file,
    "set-hostname": _set_hostname,
    "set-timezone": _set_timezone,
    "enable-ntp": _enable_ntp,
    "send-package": _send_package,
    "install-package": _install_package,
    "repair": _repair,
    "follow": _follow,
    "burn-token": _burn_token,
    "keep-token": _keep_token,
    "reboot": _reboot,
}
