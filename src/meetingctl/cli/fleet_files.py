"""`fleet files`: the files of a distribution, which devices fetch."""

from __future__ import annotations

from typing import Annotated

import typer

from meetingctl.cli.fleet_types import Place, need_file, read_place
from meetingctl.cli.invocation import of
from meetingctl.cli.options import Device, DryRun, Fields, Filters
from meetingctl.cli.progress import Bar
from meetingctl.cli.targets import for_each
from meetingctl.cli.tree import Noun

app = Noun()


@app.command("list")
def list_files(
    ctx: typer.Context,
    device: Device,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the files of a device's distribution.

    Examples:
      meetingctl fleet files list cam-7
      meetingctl fleet files list cam-7 --filter "file=*.bin"
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.catalog.list_files(device)
    place = {"device_type": found["devicetype"], "distribution": found["distribution"]}
    rows = [{**place, "file": name} for name in found["files"]]
    run.out.rows(rows, ("device_type", "distribution", "file"), empty="no files", fields=fields, filters=filters)


@app.command("upload")
def upload_files(
    ctx: typer.Context,
    place: Place,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="files to send", show_default=False)],
    dry_run: DryRun = False,
) -> int:
    """Upload files into a distribution, each over the one of its name.

    Examples:
      meetingctl fleet files upload rpicam/trixie boot.bin
      meetingctl fleet files upload rpicam/trixie boot.bin root.img --dry-run
    """
    run = of(ctx)
    named = read_place(run, place)
    with run.open_client() as client:

        def look(name: str) -> None:
            need_file(name)
            client.catalog.need_distribution(named)

        def send(name: str) -> None:
            path = need_file(name)
            bar = Bar(run, path.name, path.stat().st_size)
            try:
                client.catalog.upload_file(named, path, tell=bar.add)
            finally:
                bar.close()

        return for_each(run, "upload", files, look if dry_run else send, dry_run=dry_run)


@app.command("rm")
def remove_files(
    ctx: typer.Context,
    place: Place,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="names of files", show_default=False)],
    dry_run: DryRun = False,
) -> int:
    """Delete files of a distribution.

    Examples:
      meetingctl fleet files rm rpicam/trixie boot.bin --yes
    """
    run = of(ctx)
    named = read_place(run, place)
    with run.open_client() as client:
        if not dry_run:
            run.confirm(f"delete {', '.join(files)} of {place}?")

        def act(name: str) -> None:
            if dry_run:
                client.catalog.need_distribution(named)
            else:
                client.catalog.delete_file(named, name)

        return for_each(run, "delete", files, act, dry_run=dry_run)
