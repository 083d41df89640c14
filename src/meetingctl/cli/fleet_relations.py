"""`fleet rename`, `fleet tag` and `fleet parent`: how devices are called and what they belong to."""

from __future__ import annotations

from typing import Annotated

import typer

from meetingctl.cli.invocation import of
from meetingctl.cli.options import Device, Devices, DryRun
from meetingctl.cli.targets import for_each, tell_plan


def rename_device(
    ctx: typer.Context,
    device: Device,
    name: Annotated[str, typer.Argument(metavar="NAME", help='new name; "" for the key itself', show_default=False)],
    dry_run: DryRun = False,
) -> None:
    """Give a device the name that people read; its key stays.

    Examples:
      meetingctl fleet rename cam-7 "north door"
    """
    run = of(ctx)
    with run.open_client() as client:
        shown = client.get_device(device)
        if dry_run:
            tell_plan(run, "rename", device, would_change=shown.get("device_name") != (name or device))
            return
        client.set_name(device, name)
    run.out.value({"device_key": device, "device_name": name or device}, text=f"{device}\t{name or device}")


def tag_devices(
    ctx: typer.Context,
    devices: Devices,
    add: Annotated[list[str], typer.Option("--add", metavar="TAG", help="add a tag; repeatable")] = [],  # noqa: B006
    remove: Annotated[list[str], typer.Option("--remove", metavar="TAG", help="remove a tag; repeatable")] = [],  # noqa: B006
    dry_run: DryRun = False,
) -> int:
    """Show the tags of devices, or add and remove some; `remote run tag:NAME` means all devices of a tag.

    Examples:
      meetingctl fleet tag cam-7
      meetingctl fleet tag cam-7 cam-8 --add lobby --remove spare
      meetingctl fleet list --filter "tags=*lobby*"
    """
    run = of(ctx)
    with run.open_client() as client:
        if not add and not remove:
            rows = [{"device_key": key, "tags": client.get_device(key).get("tags") or []} for key in devices]
            run.out.rows(rows, ("device_key", "tags"), empty="no devices")
            return 0

        def change(key: str) -> object:
            before = client.get_device(key).get("tags") or []
            after = sorted(({*before, *add}) - {*remove})
            return None if dry_run or after == before else client.set_tags(key, after)

        return for_each(run, "tag", devices, change, dry_run=dry_run)


def set_parent(
    ctx: typer.Context,
    device: Device,
    parent: Annotated[
        str | None, typer.Argument(metavar="PARENT", help="device key of the one above it", show_default=False)
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="it belongs to no other device")] = False,
    dry_run: DryRun = False,
) -> None:
    """Show or set the device that another one belongs to.

    Examples:
      meetingctl fleet parent cam-7
      meetingctl fleet parent cam-7 hub-1
      meetingctl fleet parent cam-7 --none
    """
    run = of(ctx)
    if parent is not None and none:
        run.refuse("PARENT and --none exclude each other", hint="meetingctl fleet parent --help")
    with run.open_client() as client:
        before = client.get_device(device).get("parent_device_key")
        wanted = parent if parent is not None or none else before
        if dry_run:
            tell_plan(run, "set the parent of", device, would_change=wanted != before)
            return
        if wanted != before:
            client.set_parent(device, wanted)
    run.out.value({"device_key": device, "parent_device_key": wanted}, text=f"{device}\t{wanted or ''}")
