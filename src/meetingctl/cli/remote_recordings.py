"""`meetingctl remote recordings`: see, fetch and delete what cameras have recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.remote_device import Device, on_device
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of
from meetingctl.cli.remote_many import route_json
from meetingctl.cli.tree import Noun
from meetingctl.core.errors import SomeFailed

if TYPE_CHECKING:
    from meetingctl.core.plan import Step
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit

app = Noun()

Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="names as `remote recordings list` shows them", show_default=False),
]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="one device")]
_COLUMNS = ("target", "name", "modified_iso", "duration_display", "size_bytes", "state", "locked")


@app.command("list")
@on_devices()
def list_recordings(
    ctx: typer.Context,
    devices: Devices,
    only: Annotated[
        str, typer.Option("--only", metavar="KIND", help="all, locked, unlocked, ts, mp4, mkv or avi")
    ] = "all",
    sort: Annotated[
        str, typer.Option("--sort", metavar="ORDER", help="date, name or size with -asc or -desc")
    ] = "date-desc",
    search: Annotated[str, typer.Option("--search", metavar="TEXT", help="part of the name", show_default=False)] = "",
) -> int:
    """Show the recordings of devices; the one being written has the state "recording".

    Examples:
      meetingctl remote recordings list demo-cam
      meetingctl remote recordings list --all --only locked --json
    """

    async def work(visit: Visit) -> Done:
        from meetingctl.remote import recordings
        from meetingctl.remote.fanout import Done

        rows = await recordings.list_recordings(visit, only=only, sort=sort, search=search)
        return Done(details={"recordings": rows})

    def show(reports: Sequence[Report]) -> None:
        devices.run.out.rows(rows_of(reports, "recordings"), _COLUMNS, empty="no recordings")

    return devices.choose().visit(work, show)


@app.command("get")
@on_device
def get_recordings(
    ctx: typer.Context,
    device: Device,
    target: Target,
    names: Names,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder here, made when missing")] = Path(),
) -> None:
    """Fetch recordings; one that is here with the same size is not fetched again.

    Each arrives whole or not at all. The one being written is refused.

    Examples:
      meetingctl remote recordings get demo-cam rec_20260117_143025.ts
      meetingctl remote recordings get demo-cam rec_20260117_143025.ts rec_20260117_144025.ts --out ./recordings
    """
    from meetingctl.cli.progress import Bar

    run = device.run
    done: list[str] = []

    async def work(visit: Visit) -> list[Step]:
        from meetingctl.remote import recordings

        rows = recordings.choose_recordings(await recordings.list_recordings(visit), names, target)
        present = {path.name: path.stat().st_size for row in rows if (path := out / str(row["name"])).is_file()}
        steps = recordings.plan_get(rows, present)
        if steps and not device.dry_run:
            out.mkdir(parents=True, exist_ok=True)
            for step in steps:
                bar = Bar(run, step.on, int(step.detail["row"]["size_bytes"]), verb="fetching")
                try:
                    done.append(str(await recordings.fetch_recording(visit, step.detail["row"], out, bar.add)))
                finally:
                    bar.close()
        return steps

    facts, steps = _visit_one(device, target, work)
    _show(run, {**facts, "files": done, "dry_run": device.dry_run}, steps, text=done, empty="all of it is here already")


@app.command("rm")
@on_device
def remove_recordings(
    ctx: typer.Context,
    device: Device,
    target: Target,
    names: Names,
    force: Annotated[bool, typer.Option("--force", help="delete locked recordings too")] = False,
) -> None:
    """Delete recordings with their thumbnails; locked ones are skipped without --force.

    Examples:
      meetingctl remote recordings rm demo-cam rec_20260117_143025.ts --yes
      meetingctl remote recordings rm demo-cam rec_20260117_143025.ts --dry-run
    """
    run = device.run
    if not device.dry_run:
        run.confirm(f"delete {len(names)} recordings of {target}?")
    answer: dict[str, Any] = {"deleted": [], "skipped_locked": [], "failed": {}}

    async def work(visit: Visit) -> list[Step]:
        from meetingctl.remote import recordings

        rows = recordings.choose_recordings(await recordings.list_recordings(visit), names, target)
        steps = recordings.plan_remove(rows, force=force)
        answer["skipped_locked"] = [row["name"] for row in rows if row["name"] not in {step.on for step in steps}]
        if steps and not device.dry_run:
            reply = await recordings.remove_recordings(visit, [step.on for step in steps], force=force)
            answer.update({key: reply.get(key) or answer[key] for key in ("deleted", "failed")})
        return steps

    facts, steps = _visit_one(device, target, work)
    done = [f"deleted {name}" for name in answer["deleted"]]
    _show(run, {**facts, **answer, "dry_run": device.dry_run}, steps, text=done, empty="nothing to delete")
    for name in answer["skipped_locked"]:
        run.out.warn(f"{name} is locked", hint=run.line("remote", "recordings", "rm", target, name, "--force"))
    if answer["failed"]:
        if run.out.is_json:
            raise typer.Exit(SomeFailed.exit_code)
        raise SomeFailed(f"{len(answer['failed'])} not deleted, first: {next(iter(answer['failed'].values()))}")


def _visit_one(device: Device, word: str, work: Any) -> tuple[dict[str, Any], Sequence[Step]]:
    """Work on one device, and return what is told of it with the steps of the work."""
    from meetingctl.core.target import parse_target

    place = parse_target(word)

    async def use(visit: Visit) -> tuple[dict[str, Any], Sequence[Step]]:
        return {"target": str(place), "route": route_json(visit.route)}, await work(visit)

    return device.visit(place, use)


def _show(run: Invocation, facts: dict[str, Any], steps: Sequence[Step], *, text: Sequence[str], empty: str) -> None:
    from meetingctl.core.plan import as_rows

    if run.out.is_json:
        run.out.value({**facts, "steps": as_rows(steps)})
    elif facts["dry_run"] or not steps:
        run.out.rows(as_rows(steps), ("do", "on", "why"), empty=empty)
    else:
        for line in text:
            run.out.text(line)
