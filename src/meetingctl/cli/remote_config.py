"""`meetingctl remote config`: config.env and the JSON files of devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli import remote_config_edit as editing
from meetingctl.cli import remote_config_files as files
from meetingctl.cli.invocation import Invocation
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_config_write import FileOption, RestartOption, write_change
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of
from meetingctl.cli.tree import Noun
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.remote.config import FarFile
    from meetingctl.remote.fanout import Done
    from meetingctl.remote.visit import Visit

app = Noun()
Reveal = Annotated[bool, typer.Option("--reveal", help="show passwords instead of ***")]


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
    return write_change(
        devices, targets, path, lambda old: editing.edit(path, old, wanted), restart=restart, dry_run=dry_run
    )


app.command("diff")(files.diff_file)
app.command("push")(files.push_file)
app.command("pull")(files.pull_file)
