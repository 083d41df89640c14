"""`meetingctl remote config diff|push|pull`: whole files of devices, beside those here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli import remote_config_edit as editing
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_config_write import DIFF_COLUMNS, FileOption, RestartOption, write_change
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit

MAX_FILE_BYTES = 1024 * 1024


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
        devices.run.out.rows(rows_of(reports, "changes"), DIFF_COLUMNS, empty="nothing differs")

    code = devices.choose(targets).visit(work, show)
    return code or (3 if exit_code and differing else 0)


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

    return write_change(devices, targets, path, change, restart=restart, dry_run=dry_run)


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
