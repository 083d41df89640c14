"""`device config`: read, change and check config.env on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters
from meetingctl.cli.tree import Noun
from meetingctl.core.errors import ConfigError, NotFound, UsageError

if TYPE_CHECKING:
    from meetingctl.device.config import Key, Loaded, Problem

app = Noun()

KeyName = Annotated[
    str, typer.Argument(metavar="KEY", help="key of config.env, as `device config list` shows it", show_default=False)
]
_EFFECTS = {
    "live": "at the next reload, without dropping viewers",
    "swap": "at the next reload, with new media",
    "rebind": "at the next reload, on the new port",
    "none": "when its daemon starts again",
}


@app.command("get")
def get_value(
    ctx: typer.Context,
    key: KeyName,
    reveal: Annotated[bool, typer.Option("--reveal", help="print a password instead of ***")] = False,
    root: Root = "",
) -> None:
    """Print the value of one key, or its default.

    Examples:
      meetingctl device config get RTSP_PORT
      meetingctl device config get RTSP_PASSWORD --reveal
    """
    from meetingctl.device.config import find_key, read_config

    run = of(ctx)
    known = find_key(key)
    loaded = read_config(open_system(run, root))
    for problem in loaded.faults():
        if problem.key in {known.name, *known.aliases}:
            run.out.warn(f"config.env: {problem.text()}; the default counts")
    row = _row(known, loaded)
    if reveal:
        row["value"] = known.kind.write(getattr(loaded.config, known.field))
    run.out.value(row, text=str(row["value"]))


@app.command("set")
def set_value(
    ctx: typer.Context,
    key: KeyName,
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="VALUE", help="new value, '' for the default; a password is asked for or read from stdin"
        ),
    ] = None,
    root: Root = "",
    dry_run: DryRun = False,
) -> None:
    """Change one key; comments, order and unknown keys of the file stay.

    Passwords never stand on the command line, where other users could see them.

    Examples:
      meetingctl device config set VIDEOIN_FPS 20
      meetingctl device config set VIDEO_OVERLAY_TEXT "{CAMERA_TYPE} {VIDEO_RESOLUTION}" --dry-run
      meetingctl device config set RTSP_PASSWORD < password.txt
    """
    from meetingctl.core.layout import CONFIG_ENV
    from meetingctl.device.config import change_config, find_key, plan_changes, read_env

    run = of(ctx)
    known, system = find_key(key), open_system(run, root)
    wanted = {key: _new_text(run, known, value)}
    changes = plan_changes(read_env(system), wanted)
    if not dry_run:
        change_config(system, wanted)
    shown = {name: "***" if known.kind.name == "secret" and text else text for name, text in changes.items()}
    facts = {"changes": shown, "file": CONFIG_ENV, "reload": known.reload, "dry_run": dry_run}
    if run.out.is_json:
        run.out.value(facts)
        return
    run.out.note(f"{'would change' if dry_run else 'changed'} {', '.join(changes)} in {CONFIG_ENV}")
    run.out.detail(f"{known.name} counts {_EFFECTS[known.reload]}")


@app.command("list")
def list_values(
    ctx: typer.Context,
    root: Root = "",
    changed: Annotated[bool, typer.Option("--changed", help="only keys that the file sets")] = False,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show all keys with their values; passwords are ***.

    Examples:
      meetingctl device config list
      meetingctl device config list --changed
      meetingctl device config list --filter "key=VIDEO*" --fields key,value,default,allowed
    """
    from meetingctl.device.config import all_keys, read_config

    run = of(ctx)
    loaded = read_config(open_system(run, root))
    keys = [key for key in all_keys().values() if not changed or loaded.origins[key.name] != "default"]
    rows = [_row(key, loaded) for key in keys]
    run.out.rows(rows, ("key", "value", "origin"), empty="no key is set", fields=fields, filters=filters)


@app.command("check")
def check_file(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="check this file instead of the device's", show_default=False)
    ] = None,
    root: Root = "",
) -> None:
    """Check config.env; exit code 78 when a value is wrong or missing.

    Unknown and repeated keys are told, and are no fault: other programs may keep theirs in the same file.

    Examples:
      meetingctl device config check
      meetingctl device config check ./config.env --json
    """
    from meetingctl.core.layout import CONFIG_ENV

    run = of(ctx)
    loaded = _load_file(Path(file)) if file else _load_device(run, root)
    name, faults = file or CONFIG_ENV, loaded.faults()
    problems = [_problem_row(problem) for problem in loaded.problems]
    if run.out.is_json:
        run.out.value({"ok": not faults, "file": name, "problems": problems})
        raise typer.Exit(ConfigError.exit_code if faults else 0)
    if problems:
        run.out.rows(problems, ("level", "text"), empty="")
    if faults:
        key = next((problem.key for problem in faults if problem.key), "")
        fix = f"meetingctl device config set {key} VALUE"
        if file or not key:
            fix = f"correct line {faults[0].line} of {name} and check again"
        raise ConfigError(f"{name}: invalid, {len(faults)} to correct", hint=fix)
    run.out.value(None, text=f"{name}: ok")


def _row(key: Key, loaded: Loaded) -> dict[str, Any]:
    from meetingctl.device.config import shown_value

    return {
        "key": key.name,
        "value": shown_value(key, loaded.config),
        "origin": loaded.origins[key.name],
        "default": "" if key.kind.name == "secret" else key.kind.write(key.default),
        "allowed": key.kind.allowed,
        "reload": key.reload,
        "help": key.help,
    }


def _problem_row(problem: Problem) -> dict[str, Any]:
    return {
        "level": "fault" if problem.is_fault else "note",
        "kind": problem.kind,
        "line": problem.line or None,
        "key": problem.key,
        "value": problem.value,
        "allowed": problem.allowed,
        "text": problem.text(),
    }


def _new_text(run: Invocation, key: Key, value: str | None) -> str:
    """Return the wanted text. Raises: UsageError for a password on the command line, or no value."""
    if key.kind.name != "secret":
        if value is None:
            raise UsageError(f"{key.name}: no VALUE", hint=f"meetingctl device config set {key.name} VALUE")
        return value
    if value:
        raise UsageError(
            f"{key.name} is a password: not on the command line",
            hint=f"meetingctl device config set {key.name} < FILE",
        )
    return "" if value == "" else run.read_secret(key.name, flag="a file").reveal()


def _load_device(run: Invocation, root: str) -> Loaded:
    from meetingctl.device.config import read_config

    return read_config(open_system(run, root))


def _load_file(path: Path) -> Loaded:
    from meetingctl.device.config import load_config
    from meetingctl.device.config.envfile import parse_env

    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    return load_config(parse_env(path.read_text(encoding="utf-8", errors="surrogateescape")))
