"""`meetingctl remote copy` and `remote deploy`: files onto devices, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_device import Device, on_device
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of
from meetingctl.cli.remote_many import route_json
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit


@on_device
def copy_files(
    ctx: typer.Context,
    device: Device,
    source: Annotated[str, typer.Argument(metavar="SRC", help="PATH here, or TARGET:PATH")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="PATH here, or TARGET:PATH")],
) -> None:
    """Copy a file or a folder to a device, or from it.

    What arrives is whole or not there: it is written under another name and renamed in the end. A path on the device
    without a slash at its start begins in the user's home. Links in a folder are left out.

    Examples:
      meetingctl remote copy ./notes.txt demo-cam:/tmp/
      meetingctl remote copy demo-cam:/var/log/rpi-cam ./logs
    """
    from meetingctl.cli.progress import Bar
    from meetingctl.remote.copy import download, parse_place, size_of, upload

    run = device.run
    here, there = parse_place(source), parse_place(destination)
    target = here.target or there.target
    if target is None or (here.target is not None and there.target is not None):
        raise UsageError("one side is here, the other on a device", hint="meetingctl remote copy FILE TARGET:PATH")
    total_bytes = size_of(Path(here.path)) if here.target is None else 0
    facts = {"target": str(target), "source": source, "destination": destination, "dry_run": device.dry_run}
    if device.dry_run:
        run.out.value({**facts, "size_bytes": total_bytes or None}, text=f"{source}\t{destination}")
        return
    moved_bytes = 0
    bar = Bar(run, source, total_bytes) if here.target is None else None

    def sent(size_bytes: int) -> None:
        nonlocal moved_bytes
        moved_bytes += size_bytes
        if bar is not None:
            bar.add(size_bytes)

    async def use(visit: Visit) -> tuple[str, dict[str, object]]:
        if here.target is None:
            return await upload(visit, Path(here.path), there.path, sent), route_json(visit.route)
        return str(await download(visit, here.path, Path(there.path), sent)), route_json(visit.route)

    try:
        path, route = device.visit(target, use)
    finally:
        if bar is not None:
            bar.close()
    shown = f"{target}:{path}" if here.target is None else path
    run.out.value({**facts, "destination": shown, "route": route, "size_bytes": moved_bytes}, text=shown)


@on_devices(deadline="1h")
def deploy_files(
    ctx: typer.Context,
    devices: Devices,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="folder on the devices", show_default=False)],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TARGET... SRC...", help="devices, and files or folders here")
    ] = None,
    restart: Annotated[
        list[str] | None,
        typer.Option("--restart", metavar="UNIT", help="restart this unit of ours when something changed; repeatable"),
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", metavar="640", help="mode of the files; else as it was, 644 or 755 for new ones")
    ] = "",
    owner: Annotated[
        str, typer.Option("--owner", metavar="USER:GROUP", help="owner of the files; else as it was, or the folder's")
    ] = "",
    delete: Annotated[bool, typer.Option("--delete", help="delete files of DIR that are not among SRC")] = False,
    dry_run: DryRun = False,
) -> int:
    """Bring files here onto devices; only what differs is sent.

    A folder SRC gives its contents to DIR; __pycache__ and *.pyc are left out. Contents are compared by checksums, so
    a second run does nothing. Each file is written beside its place and renamed. Outside the user's home and /tmp
    this is done with sudo. A SRC has a slash or a dot at its start: ./notes.txt, web/.

    Examples:
      meetingctl remote deploy demo-cam ./web/ --to /opt/rpi-cam-webmanager --restart rpi-cam-webmanager
      meetingctl remote deploy cam-1 cam-2 ./motd --to /etc --owner root:root --mode 644 --dry-run
    """
    from meetingctl.cli.remote_logs import known_units
    from meetingctl.remote.deploy import (
        Wish,
        apply_deploy,
        list_sources,
        look,
        parse_mode,
        parse_owner,
        plan_deploy,
        split_sources,
    )
    from meetingctl.remote.staging import open_staging, privilege_for

    units = known_units(restart)
    wish = Wish(to, parse_mode(mode), parse_owner(owner), delete)
    privilege_for(to, "nobody")
    targets, paths = split_sources(words or (), exists=lambda word: Path(word).exists())
    if not paths:
        raise UsageError("missing SRC", hint="name a file or folder here, with a slash: ./web")
    chosen = devices.choose(targets)
    sources = list_sources(Path(path) for path in paths)
    if delete and not sources:
        raise UsageError("--delete without a single file would empty the folder", hint="name a folder with files")

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done
        from meetingctl.remote.services import Step, apply_steps

        async with open_staging(visit) as staging:
            steps = plan_deploy(sources, await look(staging, sources, wish), wish)
            if steps and not dry_run:
                await apply_deploy(staging, sources, steps, wish)
        if steps and not dry_run:
            await apply_steps(visit, [Step(unit, "restart", "files changed") for unit in units])
        changed = bool(steps) and not dry_run
        restarted = units if changed else []
        shown = [step.as_json() for step in steps]
        return Done(details={"steps": shown, "changed": changed, "restarted": restarted, "dry_run": dry_run})

    return chosen.visit(work, lambda reports: _show_steps(devices.run, reports))


def _show_steps(run: Invocation, reports: Sequence[Report]) -> None:
    run.out.rows(rows_of(reports, "steps"), ("target", "file", "step", "reason"), empty="nothing differs")
