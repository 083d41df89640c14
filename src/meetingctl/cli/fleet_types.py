"""`fleet types` and `fleet distributions`: what kinds of devices there are, and where their files belong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import Device, DryRun, Fields, Filters
from meetingctl.cli.output import Column
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import Noun

if TYPE_CHECKING:
    from meetingctl.client.catalog import Catalog

types = Noun()
distributions = Noun()

_COLUMNS = (
    Column("id"),
    Column("name"),
    Column("serial_prefix", "prefix"),
    Column("platform"),
    Column("default_distribution", "distribution"),
    Column("parent_id", "parent"),
    Column("status"),
    Column("tags"),
)

Type = Annotated[str, typer.Argument(metavar="TYPE", help="name or number of the type", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="name of the new type", show_default=False)]
Place = Annotated[str, typer.Argument(metavar="TYPE/DISTRIBUTION", help="name of the distribution", show_default=False)]
Prefix = Annotated[
    str, typer.Option("--prefix", metavar="PREFIX", help="begin of its serial numbers", show_default=False)
]
NewPrefix = Annotated[str | None, typer.Option("--prefix", metavar="PREFIX", help="begin of its serial numbers")]
Platform = Annotated[str | None, typer.Option("--platform", metavar="NAME", help="hardware it runs on")]
Description = Annotated[str | None, typer.Option("--description", metavar="TEXT", help="what it is")]
Services = Annotated[str | None, typer.Option("--services", metavar="A,B", help="services of new devices")]
Tags = Annotated[str | None, typer.Option("--tags", metavar="A,B", help="tags")]
Distribution = Annotated[str | None, typer.Option("--distribution", metavar="NAME", help="distribution by default")]
Parent = Annotated[str | None, typer.Option("--parent", metavar="TYPE", help="type above it")]


def read_place(run: Invocation, text: str) -> dict[str, str]:
    """Read the name of a distribution."""
    parts = text.split("/")
    if len(parts) != 2 or not all(parts):
        run.refuse(f"no name of a distribution: {text[:80]!r}", hint="write for example rpicam/trixie")
    return dict(zip(("devicetype", "distribution"), parts, strict=True))


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _parent_id(catalog: Catalog, parent: str | None) -> int | None:
    return None if parent is None else int(catalog.find_type(parent)["id"])


@types.command("list")
def list_types(
    ctx: typer.Context,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the device types.

    Examples:
      meetingctl fleet types list
      meetingctl fleet types list --filter status=active --json
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.catalog.list_types()
    run.out.rows(found, _COLUMNS, empty="no device types", fields=fields, filters=filters)


@types.command("show")
def show_type(ctx: typer.Context, device_type: Type, fields: Fields = "") -> None:
    """Show one device type.

    Examples:
      meetingctl fleet types show rpicam
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.catalog.find_type(device_type)
    run.out.record(found, fields=fields)


@types.command("create")
def create_type(
    ctx: typer.Context,
    name: Name,
    prefix: Prefix,
    platform: Platform = None,
    description: Description = None,
    services: Services = None,
    tags: Tags = None,
    distribution: Distribution = None,
    parent: Parent = None,
    dry_run: DryRun = False,
) -> None:
    """Create a device type; `fleet distributions create` makes a place for its files.

    Examples:
      meetingctl fleet types create rpicam --prefix CAM --services ssh,http
      meetingctl fleet types create doorcam --prefix DOOR --parent rpicam --dry-run
    """
    run = of(ctx)
    values: dict[str, Any] = {"name": name, "serial_prefix": prefix, "platform": platform, "description": description}
    values |= {"services_default": _words(services), "tags": _words(tags), "default_distribution": distribution}
    with run.open_client() as client:
        fields = _given({**values, "parent_id": _parent_id(client.catalog, parent)})
        if dry_run:
            is_new = all(str(item["name"]).casefold() != name.casefold() for item in client.catalog.list_types())
            tell_plan(run, "create", name, would_change=is_new, fields=fields)
            return
        client.catalog.create_type(fields)
        found = client.catalog.find_type(name)
    run.out.record(found)


@types.command("update")
def update_type(
    ctx: typer.Context,
    device_type: Type,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="another name")] = None,
    prefix: NewPrefix = None,
    platform: Platform = None,
    description: Description = None,
    services: Services = None,
    tags: Tags = None,
    distribution: Distribution = None,
    parent: Parent = None,
    status: Annotated[str | None, typer.Option("--status", metavar="STATUS", help="active or inactive")] = None,
    dry_run: DryRun = False,
) -> None:
    """Change what is given of a device type.

    Examples:
      meetingctl fleet types update rpicam --distribution trixie
      meetingctl fleet types update rpicam --status inactive --dry-run
    """
    run = of(ctx)
    values: dict[str, Any] = {"name": name, "serial_prefix": prefix, "platform": platform, "description": description}
    values |= {"services_default": _words(services), "tags": _words(tags), "default_distribution": distribution}
    if not _given({**values, "parent": parent, "status": status}):
        run.refuse("nothing to change", hint="meetingctl fleet types update --help")
    with run.open_client() as client:
        found = client.catalog.find_type(device_type)
        fields = _given({**values, "parent_id": _parent_id(client.catalog, parent), "status": status})
        if dry_run:
            differs = any(found.get(key) != value for key, value in fields.items())
            tell_plan(run, "update", str(found["name"]), would_change=differs, fields=fields)
            return
        client.catalog.change_type(int(found["id"]), fields)
        changed = client.catalog.find_type(name or str(found["name"]))
    run.out.record(changed)


@types.command("fork")
def fork_type(ctx: typer.Context, device_type: Type, name: Name, prefix: Prefix, dry_run: DryRun = False) -> None:
    """Copy a device type under another name; `fleet types merge` brings its changes back.

    Examples:
      meetingctl fleet types fork rpicam rpicam-next --prefix NEXT
    """
    run = of(ctx)
    fields = {"name": name, "serial_prefix": prefix}
    with run.open_client() as client:
        found = client.catalog.find_type(device_type)
        if dry_run:
            tell_plan(run, "fork", str(found["name"]), fields=fields)
            return
        client.catalog.fork_type(int(found["id"]), fields)
        made = client.catalog.find_type(name)
    run.out.record(made)


@types.command("merge")
def merge_type(ctx: typer.Context, device_type: Type, dry_run: DryRun = False) -> None:
    """Give a fork's fields and devices to the type it came from, and delete the fork.

    Examples:
      meetingctl fleet types merge rpicam-next --yes
      meetingctl fleet types merge rpicam-next --dry-run
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.catalog.find_type(device_type)
        if found.get("parent_id") is None:
            run.refuse(f"{found['name']} is no fork", hint="meetingctl fleet types list")
        parent = client.catalog.find_type(str(found["parent_id"]))
        if dry_run:
            tell_plan(run, "merge", str(found["name"]), into=parent["name"])
            return
        run.confirm(f"merge {found['name']} into {parent['name']} and delete it?")
        client.catalog.merge_type(int(found["id"]))
    facts = {"merged": found["name"], "into": parent["name"]}
    run.out.value(facts, text=f"merged {found['name']} into {parent['name']}")


@types.command("rm")
def remove_type(ctx: typer.Context, device_type: Type, dry_run: DryRun = False) -> None:
    """Delete a device type; its devices and files stay.

    Examples:
      meetingctl fleet types rm rpicam-next --yes
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.catalog.find_type(device_type)
        if dry_run:
            tell_plan(run, "delete", str(found["name"]))
            return
        run.confirm(f"delete device type {found['name']}?")
        client.catalog.delete_type(int(found["id"]))
    run.out.value({"deleted": found["name"]}, text=f"deleted {found['name']}")


@types.command("icon")
def change_icon(
    ctx: typer.Context,
    device_type: Type,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="PNG, JPEG or WebP, at most 1 MiB")] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="write the icon to this file")] = None,
    dry_run: DryRun = False,
) -> None:
    """Set the icon of a device type, or fetch it with --out.

    Examples:
      meetingctl fleet types icon rpicam camera.png
      meetingctl fleet types icon rpicam --out icon.png
    """
    run = of(ctx)
    if (file is None) == (out is None):
        run.refuse("name a file with an icon, or --out", hint="meetingctl fleet types icon --help")
    with run.open_client() as client:
        found = client.catalog.find_type(device_type)
        if file is not None:
            need_file(file)
        if dry_run:
            tell_plan(run, "set icon of" if file else "fetch icon of", str(found["name"]), file=file or out)
            return
        if file is not None:
            client.catalog.set_icon(int(found["id"]), Path(file))
        content = None if out is None else client.catalog.get_icon(int(found["id"]))
    if out is not None and content is not None:
        _write(Path(out), content)
    run.out.value({"device_type": found["name"], "file": file or out}, text=file or out)


def need_file(name: str) -> Path:
    """Raises: NotFound when it is no file."""
    from meetingctl.core.errors import NotFound

    path = Path(name)
    if not path.is_file():
        raise NotFound(f"{name}: no such file", hint="name a file that is there")
    return path


def _write(path: Path, content: bytes) -> None:
    from meetingctl.core.paths import write_atomic

    write_atomic(path, content, mode=0o644)


@distributions.command("list")
def list_distributions(
    ctx: typer.Context,
    device_type: Annotated[str | None, typer.Argument(metavar="TYPE", help="this type only")] = None,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the distributions that have a place for files.

    Examples:
      meetingctl fleet distributions list
      meetingctl fleet distributions list rpicam
    """
    run = of(ctx)
    with run.open_client() as client:
        folders = client.catalog.list_folders() if device_type is None else [device_type]
        found = [
            {"device_type": folder, "distribution": name}
            for folder in folders
            for name in client.catalog.list_distributions(folder)
        ]
    run.out.rows(found, ("device_type", "distribution"), empty="no distributions", fields=fields, filters=filters)


@distributions.command("create")
def create_distribution(ctx: typer.Context, place: Place, dry_run: DryRun = False) -> None:
    """Make a place for the files of a distribution, and one for its type where there is none.

    Examples:
      meetingctl fleet distributions create rpicam/trixie
    """
    run = of(ctx)
    named = read_place(run, place)
    with run.open_client() as client:
        has_type = named["devicetype"] in client.catalog.list_folders()
        if dry_run:
            is_new = not has_type or named["distribution"] not in client.catalog.list_distributions(named["devicetype"])
            tell_plan(run, "create", place, would_change=is_new)
            return
        if not has_type:
            client.catalog.create_folder(named["devicetype"])
        client.catalog.create_distribution(named)
    run.out.value({"created": place}, text=f"created {place}")


@distributions.command("show")
def show_distribution(ctx: typer.Context, device: Device, fields: Fields = "") -> None:
    """Show the distribution of a device, and its files.

    Examples:
      meetingctl fleet distributions show cam-7
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.catalog.list_files(device)
    shown = {"device_key": device, "device_type": found["devicetype"], "distribution": found["distribution"]}
    run.out.record({**shown, "files": found["files"]}, fields=fields)


@distributions.command("get")
def get_distrib_json(
    ctx: typer.Context,
    device: Device,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="write it to this file")] = None,
    dry_run: DryRun = False,
) -> None:
    """Show distrib.json of a device's distribution, as it is stored.

    Examples:
      meetingctl fleet distributions get cam-7
      meetingctl fleet distributions get cam-7 --out distrib.json
    """
    import json

    run = of(ctx)
    with run.open_client() as client:
        content = client.catalog.get_distrib_json(device)
    if out is None:
        run.out.value(json.loads(content), text=content.decode())
    elif dry_run:
        tell_plan(run, "write", out)
    else:
        _write(Path(out), content)
        run.out.value({"file": out, "size_bytes": len(content)}, text=out)


@distributions.command("put")
def put_distrib_json(
    ctx: typer.Context,
    device: Device,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON, at most 256 KiB", show_default=False)],
    dry_run: DryRun = False,
) -> None:
    """Replace distrib.json of a device's distribution: all devices of the distribution get it.

    Examples:
      meetingctl fleet distributions put cam-7 distrib.json
      meetingctl fleet distributions put cam-7 distrib.json --dry-run
    """
    import json

    from meetingctl.core.errors import InvalidInput
    from meetingctl.core.paths import read_small_text

    run = of(ctx)
    text = read_small_text(need_file(file), limit_bytes=256 * 1024)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{file}: not JSON", hint=run.line("fleet", "distributions", "get", device)) from None
    with run.open_client() as client:
        found = client.catalog.list_files(device)
        place = f"{found['devicetype']}/{found['distribution']}"
        if dry_run:
            tell_plan(run, "replace distrib.json of", place)
            return
        client.catalog.put_distrib_json(device, value)
    run.out.value({"device_type": found["devicetype"], "distribution": found["distribution"]}, text=place)
