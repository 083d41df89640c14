"""`builder`: files and a manifest become an archive, and the archive a release."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.builder_bundle import bundle_package
from meetingctl.cli.fleet_types import need_file
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters
from meetingctl.cli.progress import Bar
from meetingctl.cli.targets import for_each, tell_plan
from meetingctl.cli.tree import Noun

if TYPE_CHECKING:
    from meetingctl.client.builder import Builder

app = Noun()
app.command("bundle")(bundle_package)
_POLL_S = 0.5


class Format(StrEnum):
    """What an archive can be; the names are the words of `--format`."""

    tar_gz = "tar.gz"
    zip = "zip"


Build = Annotated[str, typer.Argument(metavar="BUILD", help="id of the build", show_default=False)]
Job = Annotated[str, typer.Argument(metavar="JOB", help="id of the package job", show_default=False)]
Place = Annotated[str, typer.Argument(metavar="TYPE/DISTRIBUTION", help="name of the distribution", show_default=False)]
Release = Annotated[
    str, typer.Argument(metavar="TYPE/DISTRIBUTION/VERSION", help="name of the release", show_default=False)
]
Notes = Annotated[str, typer.Option("--notes", metavar="TEXT", help="what is new")]


def _read_parts(run: Invocation, text: str, names: tuple[str, ...]) -> dict[str, str]:
    parts = text.split("/")
    if len(parts) != len(names) or not all(parts):
        run.refuse(f"not {'/'.join(names).upper()}: {text[:80]!r}", hint="write for example rpicam/trixie/1.4.0")
    return dict(zip(names, parts, strict=True))


def _read_manifest(run: Invocation, file: Path) -> dict[str, Any]:
    from meetingctl.core.paths import read_small_text

    try:
        value = json.loads(read_small_text(file, limit_bytes=1024 * 1024))
    except ValueError as exc:
        run.refuse(f"{file}: no JSON: {exc}", hint="a manifest is a JSON object")
    if not isinstance(value, dict):
        run.refuse(f"{file}: no JSON object", hint='write for example {"device_type": "rpicam", ...}')
    return dict(value)


@app.command("start")
def start_build(
    ctx: typer.Context,
    place: Place,
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="its version; default: after the newest one")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", metavar="FILE", help="more of the manifest, as a JSON object")
    ] = None,
    notes: Notes = "",
    dry_run: DryRun = False,
) -> None:
    """Open a build; the id that it prints is what the other commands take.

    Examples:
      meetingctl builder start rpicam/trixie
      meetingctl builder start rpicam/trixie --version 1.4.0 --manifest build.json
    """
    run = of(ctx)
    named = _read_parts(run, place, ("device_type", "distribution"))
    facts = _read_manifest(run, manifest) if manifest is not None else {}
    with run.open_client() as client:
        chosen = version or facts.get("version") or client.builder.suggest_version(named)
        facts |= {**named, "version": chosen} | ({"notes": notes} if notes else {})
        if dry_run:
            tell_plan(run, "start", f"{place}/{chosen}", manifest=facts)
            return
        build = client.builder.start(facts)
    run.out.value({"build_id": build, "version": chosen}, text=build)
    run.out.note(f"next: {run.line('builder', 'upload', build, 'FILE')}")


@app.command("upload")
def upload_files(
    ctx: typer.Context,
    build: Build,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="files to add", show_default=False)],
    filetype: Annotated[str, typer.Option("--type", metavar="WORD", help="what kind of file it is")] = "",
    dry_run: DryRun = False,
) -> int:
    """Add files to a build, each over the one of its name.

    Examples:
      meetingctl builder upload 3fa9c1d2 app.py tool.sh
    """
    run = of(ctx)
    with run.open_client() as client:

        def send(name: str) -> None:
            path = need_file(name)
            if dry_run:
                client.builder.get_manifest(build)
                return
            bar = Bar(run, path.name, path.stat().st_size)
            try:
                client.builder.upload(build, path, filetype=filetype, tell=bar.add)
            finally:
                bar.close()

        return for_each(run, "upload", files, send, dry_run=dry_run)


@app.command("manifest")
def change_manifest(
    ctx: typer.Context,
    build: Build,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="a new manifest: a JSON object")] = None,
    dry_run: DryRun = False,
) -> None:
    """Show or replace the manifest of a build, and what is missing before it can be packaged.

    Examples:
      meetingctl builder manifest 3fa9c1d2
      meetingctl builder manifest 3fa9c1d2 build.json
    """
    run = of(ctx)
    facts = _read_manifest(run, file) if file is not None else None
    with run.open_client() as client:
        if facts is not None and dry_run:
            client.builder.get_manifest(build)
            tell_plan(run, "replace the manifest of", build, manifest=facts)
            return
        if facts is not None:
            client.builder.set_manifest(build, facts)
        found = client.builder.get_manifest(build)
    run.out.record({"build_id": build, **found})


@app.command("package")
def package_build(
    ctx: typer.Context,
    build: Build,
    kind: Annotated[Format, typer.Option("--format", help="kind of the archive")] = Format.tar_gz,
    wait: Annotated[bool, typer.Option("--wait", help="wait until the archive is there")] = False,
    dry_run: DryRun = False,
) -> int:
    """Pack a build into an archive, in the background on the server.

    Exit code: 1 when --wait sees the job fail.

    Examples:
      meetingctl builder package 3fa9c1d2 --wait
      meetingctl builder package 3fa9c1d2 --format zip
    """
    run = of(ctx)
    with run.open_client() as client:
        if dry_run:
            facts = client.builder.get_manifest(build)
            tell_plan(run, "package", build, would_change=bool(facts.get("valid")), missing=facts["missing"])
            return 0
        job = client.builder.package(build, kind.value)
        found = _follow(run, client.builder, job) if wait else client.builder.status(job)
    run.out.record({"job_id": job, **found})
    if not wait:
        run.out.note(f"next: {run.line('builder', 'status', job)}")
    return 1 if found["state"] == "failed" else 0


@app.command("status")
def show_status(
    ctx: typer.Context,
    job: Job,
    wait: Annotated[bool, typer.Option("--wait", help="wait until the job has ended")] = False,
    fields: Fields = "",
) -> None:
    """Show how far a package job is.

    Examples:
      meetingctl builder status 91b2c3d4
      meetingctl builder status 91b2c3d4 --wait --json
    """
    run = of(ctx)
    with run.open_client() as client:
        found = _follow(run, client.builder, job) if wait else client.builder.status(job)
    run.out.record({"job_id": job, **found}, fields=fields)


def _follow(run: Invocation, builder: Builder, job: str) -> dict[str, Any]:
    """Ask until the job has ended."""
    shown = -1
    while True:
        found = builder.status(job)
        if found["state"] not in ("queued", "running"):
            return found
        if found["progress"] != shown and not run.is_json:
            shown = found["progress"]
            run.out.detail(f"{found['state']}: {shown} %")
        time.sleep(_POLL_S)


@app.command("cancel")
def cancel_jobs(
    ctx: typer.Context,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="ids of package jobs", show_default=False)],
    dry_run: DryRun = False,
) -> int:
    """End package jobs that wait or run.

    Examples:
      meetingctl builder cancel 91b2c3d4
    """
    run = of(ctx)
    with run.open_client() as client:
        act = client.builder.status if dry_run else client.builder.cancel
        return for_each(run, "cancel", jobs, act, dry_run=dry_run)


@app.command("download")
def download_archive(
    ctx: typer.Context,
    job: Job,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="where to", show_default=False)],
    dry_run: DryRun = False,
) -> None:
    """Download the archive of a finished job, and check its hash.

    Examples:
      meetingctl builder download 91b2c3d4 --out app.tar.gz
    """
    import hashlib

    from meetingctl.core.errors import MeetingctlError

    run = of(ctx)
    with run.open_client() as client:
        found = client.builder.status(job)
        if dry_run:
            tell_plan(run, "download", job, would_change=found["state"] == "done", file=str(out))
            return
        part = out.with_name(f"{out.name}.part")
        with part.open("wb") as file:
            client.builder.download(job, file)
    with part.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != found.get("sha256"):
        part.unlink()
        raise MeetingctlError(f"job {job}: the archive is damaged", hint="download it again")
    part.replace(out)
    run.out.value({"file": str(out), "sha256": sha256, "size_bytes": out.stat().st_size}, text=str(out))


@app.command("commit")
def commit_job(ctx: typer.Context, job: Job, notes: Notes = "", dry_run: DryRun = False) -> None:
    """Publish the archive of a finished job; what is published never changes.

    Examples:
      meetingctl builder commit 91b2c3d4 --notes "smaller pictures"
    """
    run = of(ctx)
    with run.open_client() as client:
        if dry_run:
            tell_plan(run, "publish", job, would_change=client.builder.status(job)["state"] == "done")
            return
        found = client.builder.commit(job, notes)
    run.out.value({"release": found["path"], "url": found.get("published_url")}, text=str(found["path"]))


@app.command("history")
def show_history(
    ctx: typer.Context,
    place: Place,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show what was published, committed, duplicated and rolled back in a distribution, newest first.

    Examples:
      meetingctl builder history rpicam/trixie
    """
    run = of(ctx)
    named = _read_parts(run, place, ("device_type", "distribution"))
    with run.open_client() as client:
        found = client.builder.history(named)
    columns = ("version", "action", "created_at", "author", "size", "notes")
    run.out.rows(found, columns, empty=f"{place}: nothing was published", fields=fields, filters=filters)


@app.command("rollback")
def roll_back(ctx: typer.Context, release: Release, dry_run: DryRun = False) -> None:
    """Make an older version the current one, and the target of the default channel; nothing is deleted.

    Examples:
      meetingctl builder rollback rpicam/trixie/1.3.0
    """
    run = of(ctx)
    named = _read_parts(run, release, ("device_type", "distribution", "version"))
    version = named.pop("version")
    with run.open_client() as client:
        if dry_run:
            client.releases.verify({**named, "version": version})
            tell_plan(run, "make current", release)
            return
        run.confirm(f"make {release} the current version? Devices of the default channel take it.")
        client.builder.rollback(named, version)
    run.out.value({"release": release, "current": True}, text=release)


@app.command("duplicate")
def duplicate_release(
    ctx: typer.Context,
    release: Release,
    new_version: Annotated[str, typer.Argument(metavar="VERSION", help="the new number", show_default=False)],
    notes: Notes = "",
    dry_run: DryRun = False,
) -> None:
    """Publish a version once more under another number.

    Examples:
      meetingctl builder duplicate rpicam/trixie/1.3.0 1.3.1
    """
    run = of(ctx)
    named = _read_parts(run, release, ("device_type", "distribution", "version"))
    version = named.pop("version")
    with run.open_client() as client:
        if dry_run:
            client.releases.verify({**named, "version": version})
            tell_plan(run, "duplicate", release, version=new_version)
            return
        client.builder.duplicate(named, version, new_version, notes)
    made = "/".join([*named.values(), new_version])
    run.out.value({"release": made, "copy_of": release}, text=made)
