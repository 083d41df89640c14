"""`device record`: record the stream of this camera, and look after the recordings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters
from meetingctl.cli.tree import Noun
from meetingctl.core.errors import ConfigError, MeetingctlError, SomeFailed, UsageError

if TYPE_CHECKING:
    from meetingctl.device.config import DeviceConfig
    from meetingctl.device.media.cache import MediaCache
    from meetingctl.device.system import System

app = Noun()

Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="names as `device record list` shows them", show_default=False),
]
_STATUS_ORDER = ("running", "state", "reason", "hint", "segment", "bytes", "source", "failures", "restarts")


@app.command("run")
def run_recorder(ctx: typer.Context, root: Root = "") -> None:
    """Record the stream in the foreground, for systemd.

    SIGHUP reads config.env again, SIGTERM closes the last segment. Exit code 0 also with RECORD_ENABLE=no, 78 for a
    configuration that must be corrected, 1 for anything else.

    Examples:
      meetingctl device record run
      meetingctl device record run --root /tmp/camera
    """
    from meetingctl.cli.device_daemon import become_daemon

    become_daemon(of(ctx), "meetingctl.device.recorder", root)


@app.command("status")
def show_status(ctx: typer.Context, root: Root = "", fields: Fields = "") -> None:
    """Show what the recorder does, how full the disk is and how the media cache stands.

    Examples:
      meetingctl device record status
      meetingctl device record status --json
      meetingctl device record status --fields state,segment,reason
    """
    from meetingctl.core.clock import iso_text
    from meetingctl.core.layout import RECORDER_UNIT
    from meetingctl.device.recorder.control import running_pid
    from meetingctl.device.recorder.progress import read_progress

    run = of(ctx)
    system = open_system(run, root)
    progress = read_progress(system) or {"state": "stopped"}
    is_running = running_pid(progress) is not None
    if (updated := progress.pop("updated_at", None)) is not None:
        progress["updated_at"] = iso_text(int(updated) * 1000)
    facts = {"running": is_running, **progress, "cache": _statistics(run, system)}
    if not is_running and facts["state"] not in {"off", "stopped"}:
        facts |= {"state": "stopped", "reason": "it ended without a word"}
    run.out.record(facts if run.out.is_json else _flat(facts), fields=fields, order=_STATUS_ORDER)
    if not is_running:
        run.out.note(f"the recorder does not run; start it with: systemctl start {RECORDER_UNIT}")


@app.command("reload")
def reload_config(ctx: typer.Context, root: Root = "") -> None:
    """Let the running recorder read config.env again; nothing happens when it has a fault.

    Examples:
      meetingctl device record reload
    """
    from meetingctl.device.config import read_config
    from meetingctl.device.recorder.control import ask_reload

    run = of(ctx)
    system = open_system(run, root)
    for problem in read_config(system).faults():
        if problem.kind == "broken" or "R" in problem.readers:
            raise ConfigError(f"config.env: {problem.text()}", hint="meetingctl device config check")
    pid = ask_reload(system)
    run.out.value({"pid": pid}, text=f"the recorder (process {pid}) reads config.env again")


@app.command("list")
def list_recordings(
    ctx: typer.Context,
    root: Root = "",
    only: Annotated[
        str, typer.Option("--only", metavar="KIND", help="all, locked, unlocked, ts, mp4, mkv or avi")
    ] = "all",
    sort: Annotated[
        str, typer.Option("--sort", metavar="ORDER", help="date, name or size with -asc or -desc")
    ] = "date-desc",
    search: Annotated[str, typer.Option("--search", metavar="TEXT", help="part of the name", show_default=False)] = "",
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the recordings; the one being written has the state "recording".

    Examples:
      meetingctl device record list
      meetingctl device record list --only locked --sort size-desc
      meetingctl device record list --search 20260117 --fields name,duration,size_bytes --json
    """
    from meetingctl.device.media import catalog

    run = of(ctx)
    system, config = _open(run, root)
    with _cache(run, system) as cache:
        rows = catalog.list_recordings(system, config.record_dir, cache)
    rows = catalog.select_recordings(rows, only=only, sort=sort, search=search)
    columns = ("name", "modified_iso", "duration_display", "size_display", "resolution", "state", "locked")
    run.out.rows(rows, columns, empty=f"no recordings in {config.record_dir}", fields=fields, filters=filters)


@app.command("prune")
def prune_recordings(
    ctx: typer.Context,
    root: Root = "",
    min_free_mb: Annotated[
        int | None,
        typer.Option("--min-free-mb", metavar="MB", min=0, help="instead of MIN_FREE_DISK_MB", show_default=False),
    ] = None,
    max_mb: Annotated[
        int | None, typer.Option("--max-mb", metavar="MB", min=0, help="instead of MAX_DISK_MB", show_default=False)
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make room as the recorder does: logs and packages first, then the oldest recordings.

    Locked recordings, the newest one, the one being written and files of others stay. Exit code 1 when that is not
    enough.

    Examples:
      meetingctl device record prune --dry-run
      meetingctl device record prune --max-mb 5000
    """
    from dataclasses import replace

    from meetingctl.core.errors import StorageFull
    from meetingctl.device.recorder.folder import RecordFolder
    from meetingctl.device.recorder.room import limits_of, make_room, plan_folder

    run = of(ctx)
    system, config = _open(run, root)
    config = replace(
        config,
        min_free_disk_mb=config.min_free_disk_mb if min_free_mb is None else min_free_mb,
        max_disk_mb=config.max_disk_mb if max_mb is None else max_mb,
    )
    folder = RecordFolder(system, config.record_dir)
    if dry_run:
        plan = plan_folder(system, folder, limits_of(config))
        deleted, freed_bytes = [item.name for item in plan.delete], plan.freed_bytes
        problem = "limits cannot be held" if plan.is_stuck else ""
    else:
        with _cache(run, system) as cache:
            room = make_room(system, folder, config, on_deleted=lambda name: _forget(system, cache, config, name))
        deleted, freed_bytes, problem = list(room.deleted), room.freed_bytes, room.problem
    facts = {"deleted": deleted, "freed_bytes": freed_bytes, "problem": problem, "dry_run": dry_run}
    verb = "would delete" if dry_run else "deleted"
    from meetingctl.cli.output import printable

    shown = [printable(name) for name in deleted]
    run.out.value(facts, text="\n".join([*shown, f"{verb} {len(deleted)} recordings, {freed_bytes} bytes"]))
    if problem:
        if run.out.is_json:
            raise typer.Exit(StorageFull.exit_code)
        raise StorageFull(f"{config.record_dir}: {problem}", hint="meetingctl device record list --only locked")


@app.command("delete")
def delete_recordings(
    ctx: typer.Context,
    names: Names,
    root: Root = "",
    force: Annotated[bool, typer.Option("--force", help="delete locked recordings too")] = False,
) -> None:
    """Delete recordings with their thumbnails; locked ones are skipped without --force.

    Examples:
      meetingctl device record delete rec_20260117_143025.ts --yes
      meetingctl device record delete rec_20260117_143025.ts --force --yes
    """
    from meetingctl.device.media import catalog

    run = of(ctx)
    system, config = _open(run, root)
    run.confirm(f"delete {len(names)} recordings?")
    with _cache(run, system) as cache:
        done = catalog.delete_recordings(system, config.record_dir, names, force=force, cache=cache)
    facts = {"deleted": done.deleted, "skipped_locked": done.skipped_locked, "failed": done.failed}
    run.out.value(facts, text="\n".join(f"deleted {name}" for name in done.deleted) or "nothing deleted")
    for name in done.skipped_locked:
        run.out.warn(f"{name} is locked", hint=f"meetingctl device record unlock {name}")
    if done.failed:
        if run.out.is_json:
            raise typer.Exit(SomeFailed.exit_code)
        name, reason = next(iter(done.failed.items()))
        raise SomeFailed(f"{len(done.failed)} not deleted, first: {reason}", hint=f"check the name {name!r}")


@app.command("lock")
def lock_recordings(ctx: typer.Context, names: Names, root: Root = "") -> None:
    """Keep recordings: neither the recorder nor a plain delete removes them.

    Examples:
      meetingctl device record lock rec_20260117_143025.ts
    """
    _change_locks(of(ctx), root, names, lock=True)


@app.command("unlock")
def unlock_recordings(ctx: typer.Context, names: Names, root: Root = "") -> None:
    """Let recordings be deleted again.

    Examples:
      meetingctl device record unlock rec_20260117_143025.ts
    """
    _change_locks(of(ctx), root, names, lock=False)


@app.command("export")
def export_recordings(
    ctx: typer.Context,
    names: Names,
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="file or folder to write to")] = Path(),
    mp4: Annotated[bool, typer.Option("--mp4", help="write MP4, without encoding anything again")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a file that exists")] = False,
    root: Root = "",
) -> None:
    """Copy closed recordings to a file or a folder; a file appears when it is complete.

    Examples:
      meetingctl device record export rec_20260117_143025.ts --out /media/usb
      meetingctl device record export rec_20260117_143025.ts --mp4 --out evidence.mp4
    """
    from meetingctl.device.media import catalog
    from meetingctl.device.media.export import export_recording, target_of

    run = of(ctx)
    system, config = _open(run, root)
    if len(names) > 1 and not out.is_dir():
        raise UsageError(f"--out {out}: several recordings need a folder", hint=f"mkdir -p {out}")
    paths = [catalog.find_recording(system, config.record_dir, name) for name in names]
    rows = []
    for path in paths:
        target = target_of(path, out, as_mp4=mp4)
        size_bytes = export_recording(system, path, target, as_mp4=mp4, replace=force)
        rows.append({"name": Path(path).name, "target": str(target), "size_bytes": size_bytes})
    run.out.rows(rows, ("name", "target", "size_bytes"), empty="nothing to export")


@app.command("thumbnail")
def make_thumbnails(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="recordings; none: all without a thumbnail")
    ] = None,
    root: Root = "",
    force: Annotated[bool, typer.Option("--force", help="make it again when it is there")] = False,
) -> None:
    """Make thumbnails now, and print where they are; exit code 3 when some recordings have no picture.

    Examples:
      meetingctl device record thumbnail
      meetingctl device record thumbnail rec_20260117_143025.ts --force
    """
    from meetingctl.device.media import catalog
    from meetingctl.device.media.files import media_files

    run = of(ctx)
    system, config = _open(run, root)
    if names:
        paths = [catalog.find_recording(system, config.record_dir, name) for name in names]
    else:
        paths = media_files(system, config.record_dir)
    with _cache(run, system, create=True) as cache:
        rows = [row for path in paths if (row := _thumbnail(system, cache, path, force=force, tell_all=bool(names)))]
    run.out.rows(rows, ("name", "state", "thumbnail"), empty="no thumbnail is missing")
    if failed := [row["name"] for row in rows if row["state"] == "failed"]:
        if run.out.is_json:
            raise typer.Exit(SomeFailed.exit_code)
        raise SomeFailed(f"{len(failed)} without a picture, first {failed[0]}", hint=f"ffprobe {failed[0]}")


def _thumbnail(
    system: System, cache: MediaCache | None, path: str, *, force: bool, tell_all: bool
) -> dict[str, Any] | None:
    """Make one thumbnail and return what happened; None for one that was there and is not asked for by name."""
    from meetingctl.device.media.probe import probe
    from meetingctl.device.media.thumbnail import is_fresh, make_thumbnail, thumbnail_of

    state = "kept"
    if force or not is_fresh(system, path):
        state = "made" if make_thumbnail(system, path) else "failed"
    if cache is not None:
        cache.note_file(path, None if cache.is_current(path) else probe(system, system.path(path)))
    if state == "kept" and not tell_all:
        return None
    thumbnail = None if state == "failed" else thumbnail_of(path)
    return {"name": Path(path).name, "state": state, "thumbnail": thumbnail}


def _change_locks(run: Invocation, root: str, names: list[str], *, lock: bool) -> None:
    from meetingctl.device.media.catalog import find_recording
    from meetingctl.device.recorder.locks import change_locks
    from meetingctl.device.recorder.naming import parse_base_name

    system, config = _open(run, root)
    for name in names:
        if lock:
            find_recording(system, config.record_dir, name)
        else:
            parse_base_name(name)  # its file may be gone by now
    locked = change_locks(system, lock=names) if lock else change_locks(system, unlock=names)
    run.out.value({"locked": sorted(locked)}, text="\n".join(sorted(locked)) or "nothing is locked")


def _open(run: Invocation, root: str) -> tuple[System, DeviceConfig]:
    from meetingctl.device.config import read_config

    system = open_system(run, root)
    return system, read_config(system).config


@contextmanager
def _cache(run: Invocation, system: System, *, create: bool = False) -> Iterator[MediaCache | None]:
    """Yield the media cache, None when it is missing or cannot be opened: recordings are there without it too."""
    from meetingctl.core.layout import MEDIA_CACHE_DB
    from meetingctl.device.media.cache import MediaCache

    if not create and not system.path(MEDIA_CACHE_DB).exists():
        yield None
        return
    try:
        cache = MediaCache(system)
    except MeetingctlError as error:
        run.out.detail(f"no media cache: {error.message}")
        yield None
        return
    with cache:
        yield cache


def _forget(system: System, cache: MediaCache | None, config: DeviceConfig, name: str) -> None:
    from meetingctl.device.media.thumbnail import drop_thumbnail

    path = f"{config.record_dir.rstrip('/')}/{name}"
    drop_thumbnail(system, path)
    if cache is not None:
        cache.forget(path)


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """Lift the groups of the facts to one level for people, without the times of the clock that nobody reads."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{key}": item for key, item in value.items()}
        elif not name.endswith("_monotonic_s"):
            flat[name] = value
    return flat


def _statistics(run: Invocation, system: System) -> dict[str, Any]:
    with _cache(run, system) as cache:
        return cache.statistics() if cache is not None else {}
