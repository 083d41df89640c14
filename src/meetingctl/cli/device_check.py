"""`device check`: is this camera set up, and `--repair`: put right what is missing."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.core.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meetingctl.core.plan import Step
    from meetingctl.device.setup import Facts, Outcome

_LOCK_DIR = "/run/meetingctl/setup"


def check_device(
    ctx: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="put right what is missing; needs root")] = False,
    components: Annotated[
        str, typer.Option("--component", metavar="A,B", help="only these: gstreamer, rtsp, recorder, webui, onvif, ...")
    ] = "",
    start: Annotated[bool, typer.Option("--start/--no-start", help="with --repair: start what it switched on")] = True,
    dry_run: DryRun = False,
    root: Root = "",
) -> int:
    """Look whether this camera is set up; exit code 1 when something is missing.

    Folders, modes of files with secrets, units, rules, packages, elements of GStreamer, cloud-init, and the kind of
    the camera. --repair does what is listed, and looks again; a second time there is nothing to do. The configuration
    stays as it is, except that a camera is entered where none is named.

    Examples:
      meetingctl device check
      sudo meetingctl device check --repair
      meetingctl device check --repair --dry-run --component rtsp,recorder --json
    """
    from meetingctl.device.setup import apply_plan, check_components, make_plan, read_facts

    run = of(ctx)
    chosen = check_components([name.strip() for name in components.split(",") if name.strip()])
    system = open_system(run, root)
    facts = read_facts(system, components=chosen)
    steps = make_plan(facts, components=chosen, start=start)
    if not repair or dry_run or not steps:
        return _show(run, facts, steps, [], dry_run=dry_run)
    if os.geteuid() and str(system.root) == "/":
        raise Forbidden("a repair changes the system", hint=f"sudo {run.line('device', 'check', '--repair')}")

    def tell(step: Step) -> None:
        run.out.note(str(step))

    outcomes: list[Outcome] = []
    if facts.unfinished_update:
        # Not under the lock: it checks and repairs as well, by the program of the release that it goes on with.
        outcomes += apply_plan(system, steps, on_step=tell)
        settled = replace(read_facts(system, components=chosen), unfinished_update="")
        steps = make_plan(settled, components=chosen, start=start)
    with system.locked(_LOCK_DIR):
        outcomes += apply_plan(system, steps, on_step=tell)
        facts = read_facts(system, components=chosen)
    return _show(run, facts, make_plan(facts, components=chosen, start=start), outcomes, dry_run=False)


def _show(run: Invocation, facts: Facts, missing: Sequence[Step], outcomes: Sequence[Outcome], *, dry_run: bool) -> int:
    """Say what was done, what is missing, and what deserves a look; return the exit code."""
    from meetingctl.core.plan import as_rows
    from meetingctl.device.setup import find_notes

    rows, notes = as_rows(missing), find_notes(facts)
    failed = [outcome for outcome in outcomes if not outcome.is_ok]
    if run.out.is_json:
        answer: dict[str, Any] = {
            "ok": not missing,
            "version": facts.version or None,
            "missing": rows,
            "done": as_rows(outcome.step for outcome in outcomes if outcome.is_ok and not outcome.is_void),
            "failed": [{**as_rows([outcome.step])[0], "error": outcome.error} for outcome in failed],
            "notes": notes,
            "dry_run": dry_run,
        }
        run.out.value(answer)
        return int(bool(missing))
    for outcome in failed:
        run.out.warn(f"{outcome.step.do} {outcome.step.on}: {outcome.error}")
    for note in notes:
        run.out.note(note)
    if rows:
        run.out.rows(rows, ("do", "on", "why"), empty="")
    else:
        run.out.value(None, text="complete")
    return int(bool(missing))
