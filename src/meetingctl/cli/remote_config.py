"""`meetingctl remote config`: config.env and the JSON files of devices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli import remote_config_edit as editing
from meetingctl.cli.invocation import Invocation
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of
from meetingctl.cli.tree import Noun
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.remote.config import FarFile
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit

app = Noun()
AUTO = "auto"
MAX_FILE_BYTES = 1024 * 1024

FileOption = Annotated[
    str, typer.Option("--file", metavar="NAME", help="file below /etc/rpi-cam, or its absolute path; *.env or *.json")
]
RestartOption = Annotated[
    list[str] | None,
    typer.Option("--restart", metavar="UNIT", help="restart it when something changed; auto: what reads the keys"),
]
Reveal = Annotated[bool, typer.Option("--reveal", help="show passwords instead of ***")]
_DIFF_COLUMNS = ("target", "key", "old", "new")


@app.command("get")
@on_devices()
def get_values(
    ctx: typer.Context,
    devices: Devices,
    words: Annotated[list[str] | None, typer.Argument(metavar="TARGET... KEY...", help="devices, then keys")] = None,
    file: FileOption = "config.env",
    reveal: Reveal = False,
) -> int:
    """Show values of keys; of config.env also their defaults. A key of a JSON file is a dotted path.

    Examples:
      meetingctl remote config get demo-cam RTSP_PORT
      meetingctl remote config get --all VIDEOIN_FPS --json
      meetingctl remote config get demo-cam networks.0.ssid --file wifi_failover.json
    """
    from meetingctl.remote.config import file_path, split_words

    path = file_path(file)
    targets, named = split_words(words or (), is_key=lambda word: editing.is_known_key(path, word), takes_value=False)
    keys = [name for name, _ in named]
    editing.check_keys(path, keys)

    def look(found: FarFile) -> list[dict[str, Any]]:
        values = editing.get_values(path, found.text, keys, reveal=reveal)
        return [{"key": key, "value": value} for key, value in values.items()]

    return _read(devices, targets, path, look, ("target", "key", "value"))


@app.command("list")
@on_devices()
def list_values(
    ctx: typer.Context,
    devices: Devices,
    file: FileOption = "config.env",
    changed: Annotated[bool, typer.Option("--changed", help="only keys that the file sets")] = False,
    reveal: Reveal = False,
) -> int:
    """Show all keys of a file with their values; passwords are ***.

    Examples:
      meetingctl remote config list demo-cam --changed
      meetingctl remote config list demo-cam --file meeting.json
    """
    from meetingctl.remote.config import file_path

    path = file_path(file)

    def look(found: FarFile) -> list[dict[str, Any]]:
        if editing.is_env(path):
            rows = editing.list_keys(found.text, reveal=reveal)
            return [row for row in rows if not changed or row["origin"] != "default"]
        values = editing.read_values(path, found.text, reveal=reveal)
        return [{"key": key, "value": value, "origin": key} for key, value in values.items()]

    return _read(devices, None, path, look, ("target", "key", "value", "origin"))


def _read(
    devices: Devices,
    targets: Sequence[str] | None,
    path: str,
    look: Callable[[FarFile], list[dict[str, Any]]],
    columns: Sequence[str],
) -> int:
    from meetingctl.remote.config import read_file
    from meetingctl.remote.staging import open_staging

    async def work(visit: Visit) -> Done:
        from meetingctl.core.errors import NotFound
        from meetingctl.remote.fanout import Done

        async with open_staging(visit) as staging:
            found = await read_file(staging, path)
        if found.sha256 is None and not editing.is_env(path):
            raise NotFound(f"{visit.target}: no such file: {path}")
        return Done(details={"file": path, "values": look(found)})

    chosen = devices.choose(targets)
    return chosen.visit(work, lambda reports: devices.run.out.rows(rows_of(reports, "values"), columns, empty="no key"))


@app.command("set")
@on_devices()
def set_values(
    ctx: typer.Context,
    devices: Devices,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="TARGET... KEY [VALUE]", help="devices, then KEY VALUE or several KEY=VALUE"),
    ] = None,
    file: FileOption = "config.env",
    restart: RestartOption = None,
    dry_run: DryRun = False,
) -> int:
    """Change keys. Everything is checked before anything is written; the rest of the file stays as it is.

    Owner and mode stay, a copy of the old file is left beside it as FILE.bak-YYYYmmddHHMMSS. Without VALUE, or with -,
    it is asked for or read from standard input: passwords never stand on the command line.

    Examples:
      meetingctl remote config set demo-cam VIDEOIN_FPS 20 --restart auto
      meetingctl remote config set tag:lobby VIDEOIN_WIDTH=1280 VIDEOIN_HEIGHT=720 --dry-run
      meetingctl remote config set demo-cam RTSP_PASSWORD < password.txt
      meetingctl remote config set demo-cam enabled true --file wifi_failover.json
    """
    from meetingctl.remote.config import file_path, split_words

    path = file_path(file)
    targets, named = split_words(words or (), is_key=lambda word: editing.is_known_key(path, word), takes_value=True)
    editing.check_keys(path, [name for name, _ in named])
    wanted = {name: _new_text(devices.run, name, value) for name, value in named}
    editing.check_wanted(path, wanted)
    return _change(devices, targets, path, wanted, restart=restart, dry_run=dry_run)


@app.command("unset")
@on_devices()
def unset_values(
    ctx: typer.Context,
    devices: Devices,
    words: Annotated[list[str] | None, typer.Argument(metavar="TARGET... KEY...", help="devices, then keys")] = None,
    file: FileOption = "config.env",
    restart: RestartOption = None,
    dry_run: DryRun = False,
) -> int:
    """Take keys out of a file, so that the defaults count again.

    Examples:
      meetingctl remote config unset demo-cam VIDEOIN_FPS
    """
    from meetingctl.remote.config import file_path, split_words

    path = file_path(file)
    targets, named = split_words(words or (), is_key=lambda word: editing.is_known_key(path, word), takes_value=False)
    keys = [name for name, _ in named]
    editing.check_keys(path, keys)
    return _change(devices, targets, path, dict.fromkeys(keys), restart=restart, dry_run=dry_run)


def _new_text(run: Invocation, name: str, value: str | None) -> str:
    from meetingctl.remote.config import MASK, mask

    is_secret = mask(name, "x") == MASK
    if value in {None, "-"}:
        return run.read_secret(name, flag="standard input").reveal()
    if is_secret and value:
        raise UsageError(f"{name} is a secret: not on the command line", hint="leave out VALUE and give it on stdin")
    return value or ""


def _change(
    devices: Devices,
    targets: Sequence[str],
    path: str,
    wanted: editing.Wanted,
    *,
    restart: Sequence[str] | None,
    dry_run: bool,
) -> int:
    return _write(devices, targets, path, lambda old: editing.edit(path, old, wanted), restart=restart, dry_run=dry_run)


def _write(
    devices: Devices,
    targets: Sequence[str],
    path: str,
    change: Callable[[str], str],
    *,
    restart: Sequence[str] | None,
    dry_run: bool,
) -> int:
    """Change a file on each device, restart what was asked for, and show what differs."""
    from meetingctl.cli.remote_logs import known_units
    from meetingctl.remote.config import diff_values, read_file, write_file
    from meetingctl.remote.staging import open_staging

    units = known_units([unit for unit in restart or () if unit != AUTO])
    is_auto = AUTO in (restart or ())

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done

        async with open_staging(visit) as staging:
            found = await read_file(staging, path)
            new = change(found.text)
            before, after = (editing.read_values(path, text, reveal=True) for text in (found.text, new))
            rows = diff_values(before, after)
            is_changed = new != found.text and not dry_run
            backup = await write_file(staging, found, new) if is_changed else None
        chosen = [*units, *(editing.units_for(path, [row["key"] for row in rows]) if is_auto else ())]
        restarted = await _restart(visit, chosen, only_running=is_auto) if is_changed else []
        details = {"file": path, "changes": rows, "changed": is_changed, "backup": backup}
        return Done(details={**details, "restarted": restarted, "dry_run": dry_run})

    chosen = devices.choose(targets)
    return chosen.visit(work, lambda reports: _show_changes(devices.run, reports))


async def _restart(visit: Visit, units: Sequence[str], *, only_running: bool) -> list[str]:
    from meetingctl.remote.services import Step, apply_steps, read_states

    if not units:
        return []
    names = list(dict.fromkeys(units))
    if only_running:
        names = [state.unit for state in await read_states(visit, names) if state.is_active]
    await apply_steps(visit, [Step(unit, "restart", "configuration changed") for unit in names])
    return names


def _show_changes(run: Invocation, reports: Sequence[Report]) -> None:
    run.out.rows(rows_of(reports, "changes"), _DIFF_COLUMNS, empty="nothing to change")
    for report in reports:
        if backup := report.details.get("backup"):
            run.out.detail(f"{report.target}: the old file is {backup}")


@app.command("diff")
@on_devices()
def diff_file(
    ctx: typer.Context,
    devices: Devices,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TARGET... FILE", help="devices, then a file here")
    ] = None,
    file: FileOption = "",
    exit_code: Annotated[bool, typer.Option("--exit-code", help="end with 3 when something differs")] = False,
) -> int:
    """Show by which keys a file of devices differs from one here; passwords are ***, also where they differ.

    The file on the device has the name of the one here, unless --file says otherwise.

    Examples:
      meetingctl remote config diff demo-cam ./config.env
      meetingctl remote config diff --all ./config.env --exit-code
    """
    from meetingctl.remote.config import diff_values, read_file
    from meetingctl.remote.staging import open_staging

    targets, here = _split_file(words)
    path, text = _read_here(here, file)
    wanted, differing = editing.read_values(path, text, reveal=True), list[str]()

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done

        async with open_staging(visit) as staging:
            found = await read_file(staging, path)
        rows = diff_values(editing.read_values(path, found.text, reveal=True), wanted)
        differing.extend([str(visit.target)] if rows else [])
        return Done(details={"file": path, "changes": rows, "differs": bool(rows)})

    def show(reports: Sequence[Report]) -> None:
        devices.run.out.rows(rows_of(reports, "changes"), _DIFF_COLUMNS, empty="nothing differs")

    code = devices.choose(targets).visit(work, show)
    return code or (3 if exit_code and differing else 0)


@app.command("push")
@on_devices()
def push_file(
    ctx: typer.Context,
    devices: Devices,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TARGET... FILE", help="devices, then a file here")
    ] = None,
    file: FileOption = "",
    restart: RestartOption = None,
    identity_too: Annotated[
        bool, typer.Option("--with-identity", help="also the keys MEETING_*, which belong to one device")
    ] = False,
    dry_run: DryRun = False,
) -> int:
    """Replace a whole file of devices by one here, which is checked first.

    The keys MEETING_* of config.env stay those of each device. Owner, mode and a copy of the old file: as with set.

    Examples:
      meetingctl remote config push tag:lobby ./config.env --dry-run
      meetingctl remote config push demo-cam ./wifi_failover.json
    """
    targets, here = _split_file(words)
    path, text = _read_here(here, file)
    editing.check_whole(path, text)
    keeps = editing.is_env(path) and not identity_too

    def change(old: str) -> str:
        return editing.keep_identity(old, text) if keeps else text

    return _write(devices, targets, path, change, restart=restart, dry_run=dry_run)


@app.command("pull")
@on_devices()
def pull_file(
    ctx: typer.Context,
    devices: Devices,
    file: FileOption = "config.env",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder here, made when missing")] = Path(),
) -> int:
    """Fetch a file of devices as it is, passwords included, into DIR/DEVICE/NAME; only you may read it.

    Examples:
      meetingctl remote config pull demo-cam
      meetingctl remote config pull --all --file meeting.json --out ./kept
    """
    from meetingctl.remote.config import file_path, read_file
    from meetingctl.remote.staging import open_staging

    path = file_path(file)

    async def work(visit: Visit) -> Done:
        from meetingctl.core.errors import NotFound
        from meetingctl.remote.fanout import Done

        async with open_staging(visit) as staging:
            found = await read_file(staging, path)
        if found.sha256 is None:
            raise NotFound(f"{visit.target}: no such file: {path}")
        place = out / re.sub(r"[^A-Za-z0-9.-]+", "_", str(visit.target)).strip("_.") / Path(path).name
        _keep(place, found.text)
        return Done(details={"file": path, "here": str(place), "size_bytes": len(found.text.encode())})

    def show(reports: Sequence[Report]) -> None:
        rows = [{"target": report.target, **report.details} for report in reports if report.details]
        if rows:
            devices.run.out.rows(rows, ("target", "here", "size_bytes"), empty="")

    return devices.choose().visit(work, show)


def _keep(place: Path, text: str) -> None:
    from meetingctl.core.errors import MeetingctlError
    from meetingctl.core.paths import write_atomic

    try:
        write_atomic(place, text, mode=0o600)
    except OSError as exc:
        raise MeetingctlError(f"cannot write {place}: {(exc.strerror or str(exc)).lower()}") from exc


def _split_file(words: Sequence[str] | None) -> tuple[list[str], Path]:
    if not words:
        raise UsageError("missing FILE", hint="name a file here, for example ./config.env")
    return list(words[:-1]), Path(words[-1])


def _read_here(here: Path, name: str) -> tuple[str, str]:
    """Return the path on the device and the text of a file here. Raises: NotFound, InvalidInput, TooLarge."""
    from meetingctl.core.errors import NotFound
    from meetingctl.core.paths import read_small_text
    from meetingctl.remote.config import file_path

    path = file_path(name or here.name)
    if not here.is_file():
        raise NotFound(f"no such file here: {here}", hint="name it last: meetingctl remote config push TARGET FILE")
    return path, read_small_text(here, limit_bytes=MAX_FILE_BYTES)
