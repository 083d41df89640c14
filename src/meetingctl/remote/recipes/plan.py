"""What an installation has to do: facts of a device and the operator's wishes in, steps out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import CONFIG_ENV, MEETING_JSON
from meetingctl.core.plan import Step
from meetingctl.core.secret import Secret
from meetingctl.core.update_package import version_rank
from meetingctl.remote.recipes import meeting
from meetingctl.remote.recipes.bundle import Bundle, misfits
from meetingctl.remote.recipes.facts import HOSTS_FILE, SCRATCH_FOLDERS, InstallFacts, sha256_or_none
from meetingctl.remote.recipes.meeting import EnvSyntax, Membership
from meetingctl.remote.recipes.unit import UNIT

LEAST_PYTHON = (3, 11)
SPARE_BYTES = 300 * 1024 * 1024
# The far side's program and one small file, several times over.
STAGED_BYTES = 1024 * 1024
SECRET_MODE = 0o600
CONFIG_OWNER = "root:www-data"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asked for; None leaves a thing as it is."""

    syntax: EnvSyntax
    hostname: str | None = None
    timezone: str | None = None
    member: Membership | None = None
    bundle: Bundle | None = None
    components: tuple[str, ...] = ()
    burns_token: bool = True
    reboots: bool = True
    only_transfer: bool = False


def refuse_unfit(target: str, facts: InstallFacts, bundle: Bundle | None) -> None:
    """Raise: MeetingctlError that names everything that stands in the way."""
    if reasons := list(find_obstacles(facts, bundle)):
        raise MeetingctlError(f"{target}: cannot be installed: {'; '.join(reasons)}", hint=_way_out(target, facts))


def _way_out(target: str, facts: InstallFacts) -> str:
    """Return the command that shows more of what stands in the way. Pure."""
    if facts.unit.is_running or not list(_find_scratch_obstacles(facts)):
        return f"meetingctl remote facts {target}"
    if facts.unwritable:
        return f"meetingctl remote run {target} -- findmnt --target {facts.unwritable[0]}"
    return f"meetingctl remote run {target} --sudo -- du -xh --max-depth=1 {SCRATCH_FOLDERS[0]}"


def find_obstacles(facts: InstallFacts, bundle: Bundle | None) -> Iterator[str]:
    """Yield why a device cannot take a package, each in a few words with the numbers."""
    if not facts.has_systemd:
        yield "it has no systemd"
    if facts.python < LEAST_PYTHON:
        found = ".".join(map(str, facts.python)) if any(facts.python) else "none"
        yield f"Python {'.'.join(map(str, LEAST_PYTHON))} or newer is needed, found {found}"
    # What runs there may fill its folders for a while; it is followed and not begun.
    if not facts.unit.is_running:
        yield from _find_scratch_obstacles(facts)
    if bundle is None or (facts.version == bundle.version and facts.is_installed):
        return
    there, wanted = version_rank(facts.version), version_rank(bundle.version)
    if facts.is_installed and there is not None and wanted is not None and there > wanted:
        yield f"version {facts.version} is there, newer than {bundle.version} of the package"
    if any(facts.python) and facts.arch and (wrong := misfits(bundle.wheels, facts.python, facts.arch)):
        python = ".".join(map(str, facts.python))
        yield f"the package is not for Python {python} on {facts.arch}: {wrong[0]}"
    # The file, what it holds, and that once more, larger, as a virtual environment.
    needed = bundle.size_bytes + 4 * bundle.unpacked_bytes + SPARE_BYTES
    if facts.free_bytes < needed:
        yield f"{needed // 2**20} MiB of disk are needed, {facts.free_bytes // 2**20} MiB are free"


def _find_scratch_obstacles(facts: InstallFacts) -> Iterator[str]:
    for folder in facts.unwritable:
        yield f"nothing can be written to {folder}"
    free_bytes, folder = facts.tmp_free_bytes, SCRATCH_FOLDERS[0]
    if free_bytes is not None and free_bytes < STAGED_BYTES and folder not in facts.unwritable:
        yield f"{folder} is full: {STAGED_BYTES // 1024} KiB are needed, {free_bytes // 1024} KiB are free"


def plan_install(facts: InstallFacts, wishes: Wishes, done: Collection[str] = ()) -> list[Step]:
    """Decide what is left to do. `done` holds the verbs of steps that this run has carried out once already."""
    if facts.unit.is_running:
        return [Step("follow", f"{UNIT}.service", f"an earlier run started it: {facts.unit.job or 'installation'}")]
    send = list(_plan_package(facts, wishes, done))
    if wishes.only_transfer:
        return [step for step in send if step.do == "send-package"]
    steps = [*_plan_system(facts, wishes), *_plan_files(facts, wishes), *send, *_plan_token(facts, wishes, done)]
    steps += _plan_repair(facts, wishes, steps, done)
    if wishes.reboots and "reboot" not in done:
        steps += _plan_reboot(facts, steps)
    return steps


def _plan_system(facts: InstallFacts, wishes: Wishes) -> Iterator[Step]:
    if wishes.hostname:
        # First of all: sudo complains about a name that it cannot resolve.
        text = meeting.write_hosts(facts.hosts, wishes.hostname)
        if text != facts.hosts:
            detail = {"text": Secret(text), "expect": sha256_or_none(facts.hosts), "mode": None}
            yield Step("write-file", HOSTS_FILE, f"has no line for {wishes.hostname}", detail)
        if facts.hostname != wishes.hostname:
            yield Step("set-hostname", wishes.hostname, f"is {facts.hostname or 'unknown'}")
    if wishes.timezone and facts.timezone != wishes.timezone:
        yield Step("set-timezone", wishes.timezone, f"is {facts.timezone or 'unknown'}")
    if wishes.timezone and facts.can_ntp and not facts.has_ntp:
        yield Step("enable-ntp", "systemd-timesyncd", "the clock is not set by the network")


def _plan_files(facts: InstallFacts, wishes: Wishes) -> Iterator[Step]:
    if (member := wishes.member) is None:
        return
    provisioned = is_member(facts, member)
    yield from plan_membership(facts, wishes, member, provisioned=provisioned)


def plan_membership(facts: InstallFacts, wishes: Wishes, member: Membership, *, provisioned: bool) -> Iterator[Step]:
    """Yield the files that make the device one of the fleet; `provisioned` once its token was consumed."""
    text = meeting.write_meeting(facts.meeting, member, provisioned=provisioned)
    if text != facts.meeting:
        why = "is missing" if facts.meeting is None else f"is not that of {member.device_key} at {member.api_url}"
        detail = {"text": Secret(text), "expect": sha256_or_none(facts.meeting), "mode": SECRET_MODE}
        yield Step("write-file", MEETING_JSON, why, detail)
    config = meeting.write_config(facts.config or "", member, wishes.syntax, provisioned=provisioned)
    if config != facts.config:
        why = "is missing" if facts.config is None else "its keys MEETING_* are not those of the fleet"
        detail = {"text": Secret(config), "expect": sha256_or_none(facts.config), "mode": None}
        if facts.config is None:
            detail["owner"] = CONFIG_OWNER
        yield Step("write-file", CONFIG_ENV, why, detail)


def is_member(facts: InstallFacts, member: Membership) -> bool:
    """Say whether the device belongs to this fleet, a token consumed."""
    return meeting.is_provisioned(facts.meeting, member)


def _plan_package(facts: InstallFacts, wishes: Wishes, done: Collection[str]) -> Iterator[Step]:
    bundle = wishes.bundle
    if bundle is None or (facts.is_installed and facts.version == bundle.version):
        return
    there = f"version {facts.version} is there" if facts.version else "nothing is installed"
    if facts.staged != "whole":
        sent = f"; {facts.staged} bytes are there already" if facts.staged != "0" else ""
        yield Step("send-package", bundle.path.name, f"{bundle.size_bytes} bytes{sent}")
    if "install-package" not in done:
        yield Step("install-package", bundle.version, there)


def _plan_token(facts: InstallFacts, wishes: Wishes, done: Collection[str]) -> Iterator[Step]:
    member = wishes.member
    if member is None or is_member(facts, member) or "burn-token" in done:
        return
    if wishes.burns_token:
        yield Step("burn-token", member.device_key, "is not provisioned yet")
    else:
        yield Step("keep-token", member.device_key, "is not provisioned yet, and its token is to be kept")


def _plan_repair(facts: InstallFacts, wishes: Wishes, steps: list[Step], done: Collection[str]) -> Iterator[Step]:
    if "repair" in done or not (facts.is_installed or wishes.bundle):
        return
    changed = [step.on for step in steps if step.do in {"install-package", "write-file", "burn-token", "keep-token"}]
    if changed:
        yield Step("repair", "units, folders and packages", f"{changed[-1]} changes")
    elif {"burn-token", "keep-token"} & set(done) and wishes.member and is_member(facts, wishes.member):
        yield Step("repair", "units, folders and packages", "the device belongs to the fleet now")
    elif facts.check:
        yield Step("repair", "units, folders and packages", f"device check ends with {facts.check}")


def _plan_reboot(facts: InstallFacts, steps: list[Step]) -> Iterator[Step]:
    if changed := [step.on for step in steps if asks_for_reboot(step)]:
        yield Step("reboot", facts.hostname or "the device", f"{changed[0]} is new")
    elif facts.wants_reboot:
        yield Step("reboot", facts.hostname or "the device", "what was changed asks for it")


def asks_for_reboot(step: Step) -> bool:
    """Say whether everything on the device has to begin anew after a step."""
    return step.do in {"install-package", "set-hostname"} or step.on == MEETING_JSON
