"""One device from its release to another: look, plan, send, apply there, look again, and return when it is not well.

The work on the device is a transient unit, so a lost link stops nothing. This side connects again, looks where things
stand, and goes on from there; so does the same command begun anew.
"""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from meetingctl.core import layout
from meetingctl.core.errors import Busy, HostKeyChanged, MeetingctlError, TransportLost, Unreachable
from meetingctl.core.plan import Step, as_rows
from meetingctl.core.update_package import PROGRAM_PREFIX
from meetingctl.remote.reboot import read_boot_id
from meetingctl.remote.staging import Staging, open_staging
from meetingctl.remote.transient import BUSY_CODE, UnitFacts, parse_unit, show_line, start_line
from meetingctl.remote.update_plan import (
    Facts,
    Wish,
    find_regressions,
    job_of,
    missing_files,
    parse_facts,
    plan_update,
    refuse_strangers,
)
from meetingctl.remote.update_source import Source, read_text_manifest
from meetingctl.remote.update_upload import find_uploads_folder, partial_bytes, upload_files
from meetingctl.remote.visit import Privilege, Visit, explain_failure

UNIT = "meetingctl-update"
FAR = "update_far.py"
POLL_S = (0.5, 3.0)
RECONNECT_PAUSE_S = (0.5, 10.0)
REBOOT_S = 300.0
_SYSTEM_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/system"
_ROLLBACK = "rollback"

Word = Literal["planned", "current", "updated", "returned", "rolled_back"]
Tell = Callable[[str], object]
Inspect = Callable[[Visit], Awaitable[Sequence[Mapping[str, Any]]]]
Use = Callable[[Visit], Awaitable["Result"]]
VisitDevice = Callable[[Use], Awaitable["Result"]]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a device. `word` says it; `before` and `after` are versions, `checks` those of the last look."""

    word: Word
    before: str
    after: str
    steps: Sequence[Step] = ()
    uploaded_bytes: int = 0
    checks: Sequence[Mapping[str, Any]] = ()
    fault: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what the command shows of it."""
        return {
            "outcome": self.word,
            "from_version": self.before or None,
            "installed_version": self.after or None,
            "changed": self.word in {"updated", "returned"},
            "steps": as_rows(self.steps),
            "uploaded_bytes": self.uploaded_bytes,
            "checks": [dict(row) for row in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Order:
    """What to do: the update to a source, or without one the way back; `dry_run` stops after the plan."""

    source: Source | None
    wish: Wish = Wish()
    dry_run: bool = False
    reconnect_s: float = 300.0
    settle_s: float = 60.0


@dataclass(slots=True)
class Job:
    """One device and how far its update is. `stage` is what the next connection goes on with."""

    target: str
    order: Order
    inspect: Inspect
    tell: Tell
    began: Callable[[str], Awaitable[object]]  # gets the former version, before anything changes
    stage: Literal["plan", "apply", "reboot", "check", "return"] = "plan"
    at: str = "connecting"
    before: str = ""
    boot_id: str = ""
    steps: Sequence[Step] = ()
    uploaded_bytes: int = 0
    baseline: Sequence[Mapping[str, Any]] | None = None
    checks: Sequence[Mapping[str, Any]] = ()
    fault: str = ""
    has_begun: bool = False
    has_reported: bool = False
    invocation: str | None = None
    old_status: str = ""
    reboot_until_s: float = 0.0
    _said: str = field(default="", repr=False)

    def say(self, at: str) -> None:
        """Note where the work stands, and tell it once."""
        self.at = at
        if at != self._said:
            self._said = at
            self.tell(at)

    def end(self, word: Word, after: str) -> Result:
        return Result(word, self.before, after, self.steps, self.uploaded_bytes, self.checks, self.fault)


async def update_device(job: Job, visit_device: VisitDevice) -> Result:
    """Update one device, over as many connections as it takes.

    `visit_device` logs in and lets a function use the connection. Raises: Unreachable when the first connection fails;
    TransportLost when the link stays away, saying where things stand; MeetingctlError and its leaves.
    """
    lost_s: float | None = None
    pause_s = RECONNECT_PAUSE_S[0]

    async def use(visit: Visit) -> Result:
        nonlocal lost_s, pause_s
        lost_s, pause_s = None, RECONNECT_PAUSE_S[0]
        job.has_begun = True
        return await go_on(visit, job)

    while True:
        try:
            return await visit_device(use)
        except HostKeyChanged:
            raise
        except MeetingctlError as error:
            # A system that goes down or comes up also refuses logins.
            is_away = isinstance(error, TransportLost | Unreachable) or job.stage == "reboot"
            if not is_away or not job.has_begun:
                raise
            now_s = time.monotonic()
            if lost_s is None:
                lost_s = now_s
                job.tell(f"link lost while {job.at}; connecting again")
            if now_s - lost_s + pause_s > job.order.reconnect_s:
                raise _lost(job, error) from error
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
        pause_s = min(2 * pause_s, RECONNECT_PAUSE_S[1])


async def go_on(visit: Visit, job: Job) -> Result:
    """Do what is left, from the stage that was reached. Raises: TransportLost wherever the link is lost."""
    while True:
        if result := await _STAGES[job.stage](visit, job):
            return result


async def _begin(visit: Visit, job: Job) -> Result | None:
    """Look and plan; send and start what is wanted, or attach to what runs already."""
    source = job.order.source
    job.say("looking")
    uploads = await find_uploads_folder(visit)
    unit = await _read_unit(visit)
    async with open_staging(visit, FAR) as staging:
        facts = await _look(staging, source, uploads)
        job.before, job.boot_id = job.before or facts.version, facts.boot_id
        if unit.is_running and unit.job != _job_of(source):
            raise Busy(f"{job.target}: {UNIT}.service runs there for {unit.job or 'something else'}", hint="try again")
        is_new = unit.is_over and unit.job == _job_of(source) and job.invocation not in {None, unit.invocation}
        job.invocation = unit.invocation
        if (unit.is_running or is_new) and not job.order.dry_run:
            # Begun by another run, or by this one just before the link was lost.
            job.say("following what runs there")
            job.stage = "apply"
            return None
        if source is None:
            return await _begin_return(visit, job, facts)
        job.steps = job.steps or plan_update(job.target, facts, source, job.order.wish)
        if not job.steps:
            return job.end("current", facts.version)
        if job.order.dry_run:
            return job.end("planned", facts.version)
        if job.order.wish.restart and job.baseline is None:
            job.say("checking what works now")
            job.baseline = await job.inspect(visit)
        if not job.has_reported:
            job.has_reported = True
            await job.began(facts.version)
        folder = await _bring(staging, job, source, facts, uploads)
    flags = next(step.detail["flags"] for step in job.steps if step.do == "apply")
    await _start(visit, job, ["device", "update", "apply", folder, *flags])
    job.stage = "apply"
    return None


async def _bring(staging: Staging, job: Job, source: Source, facts: Facts, uploads: str) -> str:
    """Send what is missing and put the package together there; return its folder. What is damaged is sent once more."""
    for _ in range(2):
        await _send(staging.visit, job, source, facts, uploads)
        job.say("putting the package together there")
        answer = await staging.request(_request("stage", source, uploads), privilege=Privilege.needed)
        if not answer["damaged"]:
            return str(answer["folder"])
        facts = await _look(staging, source, uploads)
    raise MeetingctlError(
        f"{job.target}: {answer['damaged'][0]} was damaged on the way, twice", hint="check the disk of the device"
    )


async def _send(visit: Visit, job: Job, source: Source, facts: Facts, uploads: str) -> None:
    files = [source.files[name] for name in missing_files(facts, source)]
    total_bytes = sum(file.size_bytes - partial_bytes(file, facts.uploads) for file in files)
    done_bytes, tenth = 0, -1

    def sent(size_bytes: int) -> None:
        nonlocal done_bytes, tenth
        done_bytes += size_bytes
        job.uploaded_bytes += size_bytes
        if total_bytes and tenth != (tenth := 10 * done_bytes // total_bytes):
            job.say(f"sending {len(files)} files, {done_bytes >> 20} of {total_bytes >> 20} MiB")

    if files:
        job.say(f"sending {len(files)} files, {total_bytes} bytes")
        await upload_files(visit, uploads, files, facts.uploads, sent)


async def _follow_apply(visit: Visit, job: Job) -> None:
    """Follow the unit to its end, and decide what comes next. Raises: MeetingctlError when the update failed."""
    unit, status = await _follow(visit, job)
    is_way_back = job.order.source is None
    if unit.is_over and not unit.is_good:
        await _clean(visit, job)
        version = await _read_version(visit)
        message = status.get("message") or f"{UNIT}.service ended with {unit.result}, code {unit.exit_code}"
        what = "the way back" if is_way_back else "the update"
        raise MeetingctlError(
            f"{job.target}: {what} failed: {str(message)[:300]}; {version or 'nothing'} is installed",
            hint=f"meetingctl remote run {job.target} --sudo -- tail -n 50 {layout.UPDATE_LOG}",
        )
    if status.get("state") == "rebooting":
        job.say("waiting for the restart")
        job.stage, job.reboot_until_s = "reboot", time.monotonic() + REBOOT_S
    else:
        job.stage = "check"


async def _await_restart(visit: Visit, job: Job) -> None:
    """Wait on this connection until it breaks, or see on a later one that the system is another."""
    if await read_boot_id(visit) != job.boot_id:
        job.stage = "check"
        return
    if time.monotonic() > job.reboot_until_s:
        raise MeetingctlError(f"{job.target}: did not restart within {REBOOT_S:g} s")
    await asyncio.sleep(POLL_S[1])


async def _check(visit: Visit, job: Job) -> Result | None:
    """See that the wanted version is there and what worked before works; begin the way back when it does not."""
    source, wish = job.order.source, job.order.wish
    version = await _read_version(visit)
    if source is None:
        job.checks = await _inspect_until(visit, job) if wish.restart else []
        return job.end("returned", version)
    if version != source.version:
        raise MeetingctlError(
            f"{job.target}: {version or 'nothing'} is installed after the update, not {source.version}",
            hint=f"meetingctl remote run {job.target} --sudo -- tail -n 50 {layout.UPDATE_LOG}",
        )
    if wish.restart:
        job.say("checking what works afterwards")
        job.checks = await _inspect_until(visit, job)
    worse = find_regressions(job.baseline or (), job.checks)
    if not worse:
        await _clean(visit, job)
        return job.end("updated", version)
    details = "; ".join(f"{row['check']}: {row['detail']}" for row in job.checks if row["check"] in worse)
    job.fault = f"{source.version} runs, but {details}"
    job.say(f"returning to {job.before}: {details}")
    await _start(visit, job, ["device", "update", "rollback"])
    job.stage = "return"
    return None


async def _follow_return(visit: Visit, job: Job) -> Result:
    """Follow the way back after a check that failed."""
    unit, status = await _follow(visit, job)
    version = await _read_version(visit)
    if unit.is_over and not unit.is_good:
        raise MeetingctlError(
            f"{job.target}: {job.fault}; the way back failed too: {status.get('message') or unit.result}; "
            f"{version or 'nothing'} is installed",
            hint=f"meetingctl remote update {job.target} --rollback",
        )
    await _clean(visit, job)
    return job.end("rolled_back", version)


async def _begin_return(visit: Visit, job: Job, facts: Facts) -> Result | None:
    refuse_strangers(job.target, facts)
    flags = [] if job.order.wish.restart else ["--no-restart"]
    job.steps = [Step("rollback", facts.version, "asked for", {"flags": flags})]
    if job.order.dry_run:
        return job.end("planned", facts.version)
    if job.order.wish.restart:
        job.baseline = await job.inspect(visit)
    await _start(visit, job, ["device", "update", "rollback", *flags])
    job.stage = "apply"
    return None


async def _inspect_until(visit: Visit, job: Job) -> Sequence[Mapping[str, Any]]:
    """Check again and again until nothing is worse than before, or it has had its time."""
    until_s = time.monotonic() + job.order.settle_s
    while True:
        rows = await job.inspect(visit)
        if not find_regressions(job.baseline or (), rows) or time.monotonic() + POLL_S[1] > until_s:
            return rows
        await asyncio.sleep(POLL_S[1])


async def _start(visit: Visit, job: Job, words: Sequence[str]) -> None:
    """Start the unit. Raises: Busy, AuthError, MeetingctlError."""
    line = start_line(UNIT, _job_of(job.order.source if words[2] == "apply" else None), [layout.PROGRAM, *words])
    job.old_status = await _cat_status(visit)
    job.say(f"starting {UNIT}.service there")
    answer = await visit.answer(line, privilege=Privilege.needed)
    if answer.exit_code == BUSY_CODE:
        raise Busy(f"{job.target}: {UNIT}.service runs there already", hint="try again when it is over")
    if answer.exit_code:
        raise explain_failure(job.target, visit.login.user, answer)


async def _follow(visit: Visit, job: Job) -> tuple[UnitFacts, Mapping[str, Any]]:
    """Look at the unit until it is over, or gone after a restart; tell what the status file says."""
    pause_s = POLL_S[0]
    while True:
        unit = await _read_unit(visit)
        text = await _cat_status(visit)
        status = _read_status(text) if text != job.old_status else {}
        if message := str(status.get("message") or "")[:200]:
            job.say(f"{status.get('progress', 0)} % {message}")
        if not unit.is_running:
            return unit, status
        await asyncio.sleep(pause_s)
        pause_s = min(1.5 * pause_s, POLL_S[1])


async def _cat_status(visit: Visit) -> str:
    return (await visit.answer(f"cat {layout.UPDATE_STATUS_JSON}")).stdout


async def _read_unit(visit: Visit) -> UnitFacts:
    return parse_unit(UNIT, await visit.ask(show_line(UNIT)))


async def _read_version(visit: Visit) -> str:
    line = f"head -n 1 {shlex.quote(layout.VERSION_FILE)}"
    return (await visit.answer(line, privilege=Privilege.needed)).stdout.strip()[:64]


async def _look(staging: Staging, source: Source | None, uploads: str) -> Facts:
    answer = await staging.request(_request("look", source, uploads), privilege=Privilege.needed)
    return parse_facts(str(staging.visit.target), answer)


async def _clean(visit: Visit, job: Job) -> None:
    if job.order.source is None:
        return
    uploads = await find_uploads_folder(visit)
    async with open_staging(visit, FAR) as staging:
        await staging.request(_request("clean", job.order.source, uploads), privilege=Privilege.needed)


def _request(action: str, source: Source | None, uploads: str) -> dict[str, Any]:
    return {
        "action": action,
        "web": layout.WEB_DIR,
        "releases": layout.WEB_RELEASES_DIR,
        "program": layout.PROGRAM,
        "program_prefix": f"{PROGRAM_PREFIX}/",
        "system": _SYSTEM_NAME,
        "boot_id": layout.BOOT_ID_FILE,
        "uploads": uploads,
        "staging_folder": f"{layout.WEB_RELEASES_DIR}/.staging-{source.digest[:16] if source else 'none'}",
        "files": [file.as_request() for file in source.files.values()] if source else [],
        "manifest": read_text_manifest(source) if source and action == "stage" else "",
    }


def _job_of(source: Source | None) -> str:
    return job_of(source) if source else _ROLLBACK


def _read_status(text: str) -> Mapping[str, Any]:
    try:
        status = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}


def _lost(job: Job, error: MeetingctlError) -> TransportLost:
    runs_on = " (it goes on there)" if job.stage in {"apply", "return"} else ""
    return TransportLost(
        f"{job.target}: the link was lost while {job.at}{runs_on}, and not back within {job.order.reconnect_s:g} s: "
        f"{error.message}",
        hint="the same command goes on where it stands",
    )


_STAGES: Mapping[str, Callable[[Visit, Job], Awaitable[Result | None]]] = {
    "plan": _begin,
    "apply": _follow_apply,
    "reboot": _await_restart,
    "check": _check,
    "return": _follow_return,
}
