"""`fleet publish`, `fleet updates`, `fleet history`: hand a release in, and see what the fleet made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from meetingctl.cli.invocation import of
from meetingctl.cli.options import DryRun, Fields, Filters, Watch
from meetingctl.cli.output import Column
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.watch import show_until_stopped

STATE_COLUMNS = (
    Column("device_key", "device"),
    Column("state"),
    Column("installed_version", "installed"),
    Column("target_version", "target"),
    Column("channel"),
    Column("last_attempt_status", "last attempt"),
    Column("last_seen"),
)
HISTORY_COLUMNS = (
    Column("id"),
    Column("device_key", "device"),
    Column("from_version", "from"),
    Column("to_version", "to"),
    Column("status"),
    Column("created_at", "at"),
    Column("duration"),
    Column("message"),
)

TypeOption = Annotated[str | None, typer.Option("--type", metavar="NAME", help="device type")]
DistributionOption = Annotated[str | None, typer.Option("--distribution", metavar="NAME", help="distribution")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="at most this many, before filters")]


def publish_release(
    ctx: typer.Context,
    archive: Annotated[str, typer.Argument(metavar="FILE", help="archive, .tar.gz or .zip", show_default=False)],
    device_type: TypeOption = None,
    distribution: DistributionOption = None,
    version: Annotated[
        str | None, typer.Option("--release-version", metavar="VERSION", help="version of the release")
    ] = None,
    notes: Annotated[str, typer.Option("--notes", metavar="TEXT", help="what is new")] = "",
    manifest: Annotated[
        str | None, typer.Option("--manifest", metavar="FILE", help="send this manifest instead of a made one")
    ] = None,
    signature: Annotated[
        str | None, typer.Option("--signature", metavar="FILE", help="ed25519 signature of the manifest")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Publish a release: an archive with a manifest, which never changes after that.

    Publishing the same bytes again is fine. Without --manifest one is made from the options. The version of an update
    package of a camera, as `builder bundle` makes it, is read from the package.

    Examples:
      meetingctl fleet publish app.tar.gz --type rpicam --distribution trixie --release-version 1.4.0
      meetingctl fleet publish rpi-cam-update_1.4.0_20261121_101500.tar.gz --type rpicam --distribution trixie
      meetingctl fleet publish app.tar.gz --manifest manifest.json --signature manifest.sig
      meetingctl fleet publish app.zip --type rpicam --distribution trixie --release-version 2 --dry-run
    """
    from meetingctl.core.errors import NotFound
    from meetingctl.core.versions import parse_manifest

    run = of(ctx)
    path = Path(archive)
    if not path.is_file():
        raise NotFound(f"{archive}: no such file", hint="name the archive of the release")
    if manifest is not None:
        if any(value is not None for value in (device_type, distribution, version)) or notes:
            run.refuse("--manifest says it all", hint="leave out --type, --distribution, --release-version and --notes")
        content = Path(manifest).read_bytes()
    else:
        version = version if version is not None else _packaged_version(path)
        if device_type is None or distribution is None or version is None:
            run.refuse("a release needs --type, --distribution and --release-version, or --manifest")
        content = _make_manifest(path, device_type, distribution, version, notes)
    facts = parse_manifest(content)
    named = {"device_type": facts.device_type, "distribution": facts.distribution, "version": facts.version}
    if dry_run:
        tell_plan(run, "publish", "/".join(named.values()), sha256=facts.sha256, size_bytes=facts.size_bytes)
        return
    sealed = Path(signature).read_bytes() if signature is not None else None
    with run.open_client() as client:
        reply = client.releases.publish(named, manifest=content, archive=path, signature=sealed, notes=facts.notes)
    run.out.record({key: value for key, value in reply.items() if key != "ok"})


def _packaged_version(path: Path) -> str | None:
    """Return the version of an update package; None for another archive. Raises: InvalidInput for a broken package."""
    from meetingctl.core.errors import InvalidInput
    from meetingctl.core.update_archive import MANIFEST_NAME
    from meetingctl.core.update_package import read_package

    try:
        package = read_package(path)
    except InvalidInput as error:
        if error.message == f"{path.name}: no {MANIFEST_NAME}" or not path.name.startswith("rpi-cam-update_"):
            return None
        raise
    if package.problems:
        raise InvalidInput(f"{path.name}: {package.problems[0]}", hint="meetingctl builder bundle")
    return package.version


def _make_manifest(path: Path, device_type: str, distribution: str, version: str, notes: str) -> bytes:
    import hashlib

    from meetingctl.core.clock import iso_text, now_ms
    from meetingctl.core.versions import Manifest, check_archive_name, check_name, check_version

    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Manifest(
        version=check_version(version),
        device_type=check_name(device_type, "device type"),
        distribution=check_name(distribution, "distribution"),
        archive=check_archive_name(path.name),
        sha256=sha256,
        size_bytes=path.stat().st_size,
        notes=notes,
        created_at=iso_text(now_ms()) or "",
    ).to_bytes()


def show_updates(
    ctx: typer.Context,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="UP_TO_DATE, OUTDATED, IN_PROGRESS, FAILED or UNKNOWN"),
    ] = None,
    device_type: TypeOption = None,
    distribution: DistributionOption = None,
    search: Annotated[str | None, typer.Option("--search", metavar="TEXT", help="part of a device key")] = None,
    export: Annotated[str | None, typer.Option("--export", metavar="FORMAT", help="write csv or json to --out")] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="file of --export")] = None,
    limit: Limit = None,
    watch: Watch = False,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show which version each device has and should have.

    Examples:
      meetingctl fleet updates
      meetingctl fleet updates --state OUTDATED --type rpicam
      meetingctl fleet updates --export csv --out fleet.csv
    """
    run = of(ctx)
    if (export is None) != (out is None) or export not in (None, "csv", "json"):
        run.refuse(
            "--export csv or json goes with --out FILE", hint="meetingctl fleet updates --export csv --out f.csv"
        )
    wanted = {"state": state, "device_type": device_type, "distribution": distribution, "search": search}
    with run.open_client() as client:
        if export is not None and out is not None:
            with Path(out).open("wb") as target:
                written = client.releases.export(export, wanted, target)
            run.out.value({"file": out, "format": export, "bytes": written}, text=f"wrote {out}")
            return

        def show() -> None:
            items = client.releases.fleet_state(wanted, limit=limit)
            run.out.rows(items, STATE_COLUMNS, empty="no devices", fields=fields, filters=filters)
            counts = client.releases.fleet_stats(wanted) if not run.out.is_json else {}
            run.out.note(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))

        show_until_stopped(run, show, watch=watch)


def show_history(
    ctx: typer.Context,
    device: Annotated[str | None, typer.Argument(metavar="DEVICE", help="this device only")] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATUS", help="success, failed, pending or in_progress")
    ] = None,
    version: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="updates to this version")] = None,
    date_from: Annotated[str | None, typer.Option("--from-day", metavar="YYYY-MM-DD", help="from this day on")] = None,
    date_to: Annotated[str | None, typer.Option("--until-day", metavar="YYYY-MM-DD", help="to the end of it")] = None,
    limit: Limit = 100,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the update attempts that devices reported, newest first.

    Examples:
      meetingctl fleet history
      meetingctl fleet history cam-7 --status failed
      meetingctl fleet history --to 1.4.0 --from-day 2026-11-01 --json
    """
    run = of(ctx)
    wanted: dict[str, Any] = {"device_key": device, "status": status, "version": version}
    wanted |= {"date_from": date_from, "date_to": date_to}
    with run.open_client() as client:
        items = list(client.releases.history(wanted, limit=limit))
        if device is not None and not items:
            client.get_device(device)
    run.out.rows(items, HISTORY_COLUMNS, empty="no updates yet", fields=fields, filters=filters)
