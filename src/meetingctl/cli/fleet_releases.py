"""`fleet releases` and `fleet channels`: what is published, and which version devices should have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meetingctl.cli.fleet_publish import DistributionOption, TypeOption
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters
from meetingctl.cli.output import Column
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import Noun

releases = Noun()
channels = Noun()

_COLUMNS = ("device_type", "distribution", "version", "current", "signature", "size_bytes", "published_at", "notes")
_CHANNEL_COLUMNS = (
    Column("id"),
    Column("device_type", "type"),
    Column("distribution"),
    Column("channel"),
    Column("target_version", "target"),
    Column("active"),
    Column("artifacts_status", "files"),
    Column("updated_at"),
)

Release = Annotated[
    str, typer.Argument(metavar="TYPE/DISTRIBUTION/VERSION", help="name of the release", show_default=False)
]
Channel = Annotated[
    str,
    typer.Argument(metavar="TYPE/DISTRIBUTION/CHANNEL", help="the last part may be left out", show_default=False),
]


def read_release(run: Invocation, text: str) -> dict[str, str]:
    """Read the name of a release."""
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        run.refuse(f"no name of a release: {text[:80]!r}", hint="write for example rpicam/trixie/1.4.0")
    return dict(zip(("device_type", "distribution", "version"), parts, strict=True))


def read_channel(run: Invocation, text: str) -> dict[str, str]:
    """Read the name of a channel; without its last part it is `default`."""
    parts = text.split("/")
    if len(parts) == 2:
        parts.append("default")
    if len(parts) != 3 or not all(parts):
        run.refuse(f"no name of a channel: {text[:80]!r}", hint="write for example rpicam/trixie/default")
    return dict(zip(("device_type", "distribution", "channel"), parts, strict=True))


@releases.command("list")
def list_releases(
    ctx: typer.Context,
    device_type: TypeOption = None,
    distribution: DistributionOption = None,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the releases, newest publication first.

    Examples:
      meetingctl fleet releases list
      meetingctl fleet releases list --type rpicam --filter current=true
    """
    run = of(ctx)
    with run.open_client() as client:
        found = list(client.releases.list(device_type=device_type, distribution=distribution))
    run.out.rows(found, _COLUMNS, empty="no releases", fields=fields, filters=filters)


@releases.command("show")
def show_release(ctx: typer.Context, release: Release, fields: Fields = "") -> None:
    """Show one release: its manifest, its files and whether they are intact.

    Examples:
      meetingctl fleet releases show rpicam/trixie/1.4.0
    """
    run = of(ctx)
    named = read_release(run, release)
    with run.open_client() as client:
        found = client.releases.verify(named)
    run.out.record({key: value for key, value in found.items() if key != "ok"}, fields=fields)


@releases.command("verify")
def verify_releases(
    ctx: typer.Context,
    release: Annotated[str | None, typer.Argument(metavar="TYPE/DISTRIBUTION/VERSION", help="this one only")] = None,
    every: Annotated[bool, typer.Option("--all", help="every release, and what lies there without a record")] = False,
) -> int:
    """Compare releases with what was published; exit code 1 when something is wrong.

    Examples:
      meetingctl fleet releases verify --all
      meetingctl fleet releases verify rpicam/trixie/1.4.0
    """
    run = of(ctx)
    if (release is None) != every:
        run.refuse("name a release, or --all", hint="meetingctl fleet releases verify --all")
    with run.open_client() as client:
        if release is None:
            reply = client.releases.verify_all()
            faults = list(reply.get("faults") or [])
        else:
            found = client.releases.verify(read_release(run, release))
            faults = [{"name": release, "fault": f"missing: {name}"} for name in found.get("missing_files") or []]
            if not faults and not found.get("sha256_match"):
                faults = [{"name": release, "fault": "the archive is not the one that was published"}]
    run.out.rows(faults, ("name", "fault"), empty="all is intact")
    return 1 if faults else 0


@releases.command("download")
def download_release(
    ctx: typer.Context,
    release: Release,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="where to; default: its own name here")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Download the archive of a release, going on where an earlier try ended, and check its hash.

    Examples:
      meetingctl fleet releases download rpicam/trixie/1.4.0
      meetingctl fleet releases download rpicam/trixie/1.4.0 --out /tmp/app.tar.gz
    """
    import hashlib

    from meetingctl.core.errors import MeetingctlError

    run = of(ctx)
    named = read_release(run, release)
    with run.open_client() as client:
        facts = client.releases.verify(named)
        manifest = facts.get("manifest") or {}
        target = Path(out or Path(str(facts.get("archive_name") or "archive")).name)
        if dry_run:
            tell_plan(run, "download", release, file=str(target))
            return
        part = target.with_name(f"{target.name}.part")
        start = part.stat().st_size if part.exists() else 0
        start = start if start < int(manifest.get("size") or 0) else 0
        with part.open("ab" if start else "wb") as file:
            client.releases.download(named, file, start=start)
    with part.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != manifest.get("sha256"):
        part.unlink()
        raise MeetingctlError(
            f"{release}: the archive is not the manifest's", hint="meetingctl fleet releases verify --all"
        )
    part.replace(target)
    run.out.value({"file": str(target), "sha256": sha256, "size_bytes": target.stat().st_size}, text=str(target))


@releases.command("notes")
def show_notes(ctx: typer.Context, release: Release) -> None:
    """Show the notes of a release.

    Examples:
      meetingctl fleet releases notes rpicam/trixie/1.4.0
    """
    run = of(ctx)
    named = read_release(run, release)
    with run.open_client() as client:
        notes = client.releases.notes(named)
    run.out.value({"release": release, "notes": notes}, text=notes)


@channels.command("list")
def list_channels(
    ctx: typer.Context,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the channels and the version each one names.

    Examples:
      meetingctl fleet channels list
      meetingctl fleet channels list --filter device_type=rpicam --json
    """
    run = of(ctx)
    with run.open_client() as client:
        found = list(client.releases.list_channels())
    run.out.rows(found, _CHANNEL_COLUMNS, empty="no channels", fields=fields, filters=filters)


@channels.command("set")
def set_channel(
    ctx: typer.Context,
    channel: Channel,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="version that its devices should have")],
    off: Annotated[bool, typer.Option("--off", help="let it name no version for now")] = False,
    dry_run: DryRun = False,
) -> None:
    """Create a channel, or change the version it names: all its devices follow at once.

    `fleet rollout start` does it wave by wave.

    Examples:
      meetingctl fleet channels set rpicam/trixie 1.4.0
      meetingctl fleet channels set rpicam/trixie/beta 1.5.0-rc1
    """
    run = of(ctx)
    named = read_channel(run, channel)
    if dry_run:
        tell_plan(run, "set", "/".join(named.values()), target_version=version, active=not off)
        return
    with run.open_client() as client:
        item = client.releases.set_channel({**named, "target_version": version, "active": not off})
    run.out.record(item)
    if item.get("artifacts_status") != "OK":
        run.out.warn(f"{version} is not published", hint="meetingctl fleet releases list")


@channels.command("rm")
def remove_channel(ctx: typer.Context, channel: Channel, dry_run: DryRun = False) -> None:
    """Delete a channel; its devices keep what they have.

    Examples:
      meetingctl fleet channels rm rpicam/trixie/beta --yes
    """
    from meetingctl.core.errors import NotFound

    run = of(ctx)
    named = read_channel(run, channel)
    with run.open_client() as client:
        found = [item for item in client.releases.list_channels() if all(item[key] == named[key] for key in named)]
        if not found:
            raise NotFound(f"{channel}: no such channel", hint="meetingctl fleet channels list")
        if dry_run:
            tell_plan(run, "delete", "/".join(named.values()))
            return
        run.confirm(f"delete channel {'/'.join(named.values())}?")
        client.releases.delete_channel(int(found[0]["id"]))
    run.out.value({"deleted": "/".join(named.values())}, text=f"deleted {'/'.join(named.values())}")
