"""The stages of an update: plan and send, apply, restart, check, return. Each may begin on a fresh connection."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from meetingctl.core import layout
from meetingctl.core.errors import Busy, MeetingctlError
from meetingctl.core.plan import Step
from meetingctl.core.update_package import PROGRAM_PREFIX
from meetingctl.remote.reboot import read_boot_id
from meetingctl.remote.staging import Staging, open_staging
from meetingctl.remote.transient import BUSY_CODE, UnitFacts, parse_unit, show_line, start_line
from meetingctl.remote.update.job import Job, Result
from meetingctl.remote.update.plan import (
    Facts,
    find_regressions,
    job_of,
    missing_files,
    parse_damaged,
    parse_facts,
    plan_update,
    refuse_strangers,
)
from meetingctl.remote.update.source import Source, read_text_manifest
from meetingctl.remote.update.upload import find_uploads_folder, partial_bytes, upload_files
from meetingctl.remote.visit import Privilege, Visit, explain_failure

UNIT = "meetingctl-update"
FAR = "update/far_update.py"
POLL_S = (0.5, 3.0)
REBOOT_S = 300.0
_SYSTEM_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/system"
_ROLLBACK = "rollback"


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
            raise Busy(
                f"{job.target}: {UNIT}.service runs there for {unit.job[:80] or 'something else'}", hint="try again"
            )
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
        if not (damaged := parse_damaged(job.target, answer)):
            return staging_folder(source)
        facts = await _look(staging, source, uploads)
    raise MeetingctlError(f"{job.target}: {damaged} was damaged on the way, twice", hint="check the disk of the device")


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


async def _follow_apply(visit: Visit, job: Job) -> Result | None:
    """Follow the unit to its end, and decide what comes next."""
    unit, status = await _follow(visit, job)
    if unit.is_over and not unit.is_good:
        await _clean(visit, job)
        what = "update" if job.order.source else "way back"
        job.fault = f"the {what} failed: {_why_failed(unit, status)}"
        details = status.get("details")
        was_switched = isinstance(details, dict) and bool(details.get("switched"))
        return await _end_badly(visit, job, was_switched=was_switched)
    if status.get("state") == "rebooting":
        job.say("waiting for the restart")
        job.stage, job.reboot_until_s = "reboot", time.monotonic() + REBOOT_S
    else:
        job.stage = "check"
    return None


def _why_failed(unit: UnitFacts, status: Mapping[str, Any]) -> str:
    return str(status.get("message") or f"{UNIT}.service ended with {unit.result}, code {unit.exit_code}")[:300]


async def _end_badly(visit: Visit, job: Job, *, was_switched: bool) -> Result:
    """End with what is installed now: the former version again, or whatever an update that failed left."""
    version = await _read_version(visit)
    return job.end("rolled_back" if was_switched and version == job.before else "failed", version)


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
        job.checks = await _inspect_until(visit, job)
        return job.end("returned", version)
    if version != source.version:
        job.fault = f"the update to {source.version} did not take place"
        return await _end_badly(visit, job, was_switched=False)
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
    if unit.is_over and not unit.is_good:
        job.fault = f"{job.fault}; the way back failed too: {_why_failed(unit, status)}"
        return job.end("failed", await _read_version(visit))
    await _clean(visit, job)
    return await _end_badly(visit, job, was_switched=True)


async def _begin_return(visit: Visit, job: Job, facts: Facts) -> Result | None:
    refuse_strangers(job.target, facts)
    job.steps = [Step("rollback", facts.version, "asked for")]
    if job.order.dry_run:
        return job.end("planned", facts.version)
    job.baseline = await job.inspect(visit)
    await _start(visit, job, ["device", "update", "rollback"])
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
            job.say(f"{str(status.get('progress', 0))[:4]} % {message}")
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


def staging_folder(source: Source | None) -> str:
    """Return the folder on the device in which a package is put together."""
    return f"{layout.WEB_STAGING_DIR}/{source.digest[:16] if source else 'none'}"


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
        "staging_folder": staging_folder(source),
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


_STAGES: Mapping[str, Callable[[Visit, Job], Awaitable[Result | None]]] = {
    "plan": _begin,
    "apply": _follow_apply,
    "reboot": _await_restart,
    "check": _check,
    "return": _follow_return,
}
