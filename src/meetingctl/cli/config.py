"""`config`: read and change the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import Noun

app = Noun()
profile_app = Noun()
app.add("profile", profile_app, "Keep several servers or sites apart.")

Key = Annotated[str, typer.Argument(metavar="SETTING", help="setting, as `config list` shows it", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="PROFILE", help="name of the profile", show_default=False)]


def describe_settings(run: Invocation) -> list[dict[str, Any]]:
    """Return every setting as a row of key, value, origin, group and help; secrets are hidden."""
    from meetingctl.core.settings import setting_infos

    return [_row(run, key) | {"group": info.group, "help": info.help} for key, info in setting_infos().items()]


def _row(run: Invocation, key: str) -> dict[str, Any]:
    from meetingctl.core.settings import shown_value

    resolved = run.resolved
    return {"key": key, "value": shown_value(getattr(resolved.settings, key)), "origin": resolved.origins[key]}


def _example(run: Invocation, key: str) -> str:
    """Return a line that sets a setting to what it is now, or says what it is for when it is empty."""
    import shlex

    from meetingctl.core.settings import setting_infos, shown_value

    value = shown_value(getattr(run.settings, key))
    if isinstance(value, dict):
        value = [f"{name}={item}" for name, item in value.items()]
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value or "")
    is_whole = bool(text) and "***" not in text
    return f"meetingctl config set {key} {shlex.quote(text)}" if is_whole else f"{key}: {setting_infos()[key].help}"


def _known_key(key: str) -> str:
    """Accept `server-url` for `server_url`. Raises: ConfigError with the nearest match."""
    import difflib

    from meetingctl.core.errors import InvalidInput
    from meetingctl.core.settings import setting_infos

    name = key.replace("-", "_")
    if name not in setting_infos():
        near = difflib.get_close_matches(name, setting_infos(), n=1)
        raise InvalidInput(f"no setting {key!r}", hint=f"did you mean {near[0]}?" if near else "meetingctl config list")
    return name


@app.command("get")
def get_setting(ctx: typer.Context, key: Key) -> None:
    """Print the value of one setting.

    Examples:
      meetingctl config get server_url
      meetingctl config get timeout_s --profile site-a
    """
    run = of(ctx)
    row = _row(run, _known_key(key))
    value = row["value"]
    run.out.value(row, text=",".join(map(str, value)) if isinstance(value, list) else str(value))


@app.command("set")
def set_setting(
    ctx: typer.Context,
    key: Key,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="new value; a secret is asked for or read from standard input"),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Write one setting to the user's configuration file.

    Comments in the file stay. With --profile the setting counts for that profile only. Secrets go to credentials.toml,
    and never stand on a command line, where other users could see them.

    Examples:
      meetingctl config set server_url https://fleet.example.org
      meetingctl config set timeout_s 10s --profile site-a
      meetingctl config set agent_token < token.txt
    """
    from meetingctl.cli.config_file import put_credentials, put_setting, toml_value
    from meetingctl.cli.layers import is_secret_setting
    from meetingctl.core.settings import shown_value

    run = of(ctx)
    name, profile = _known_key(key), run.sources.profile
    is_secret = is_secret_setting(name)
    if is_secret and value is not None:
        run.refuse(f"{name} is a secret: not on the command line", hint=f"meetingctl config set {name} < FILE")
    if not is_secret and value is None:
        run.refuse(f"{name}: no VALUE", hint=_example(run, name))
    path = run.places.credentials_file if is_secret else run.places.user_file
    new = run.read_secret(name, flag="a file").reveal() if is_secret else toml_value(name, value or "")
    if not dry_run and is_secret:
        put_credentials(path, profile, {name: new})
    elif not dry_run:
        put_setting(path, profile, name, new)
    facts = {"key": name, "value": "***" if is_secret else shown_value(new), "profile": profile, "file": str(path)}
    _tell(run, ("set", "set"), name, facts, dry_run=dry_run)


@app.command("unset")
def unset_setting(ctx: typer.Context, key: Key, dry_run: DryRun = False) -> None:
    """Remove one setting from the user's files, so that weaker layers count again.

    Examples:
      meetingctl config unset timeout_s
    """
    from meetingctl.cli.config_file import drop_secret, drop_setting
    from meetingctl.cli.layers import is_secret_setting
    from meetingctl.core.errors import NotFound

    run = of(ctx)
    name, profile = _known_key(key), run.sources.profile
    is_secret = is_secret_setting(name)
    path = run.places.credentials_file if is_secret else run.places.user_file
    file = run.sources.credentials if is_secret else run.sources.user
    if dry_run and name not in file.profiles.get(profile, {}):
        raise NotFound(f"{name} is not set in {path} [{profile}]", hint="meetingctl config list --origin")
    if not dry_run:
        (drop_secret if is_secret else drop_setting)(path, profile, name)
    facts = {"key": name, "value": None, "profile": profile, "file": str(path)}
    _tell(run, ("unset", "unset"), name, facts, dry_run=dry_run)


def _tell(run: Invocation, verb: tuple[str, str], name: str, change: dict[str, Any], *, dry_run: bool) -> None:
    """Say what was changed, or would be; `verb` is the action and its past form."""
    action, done = verb
    if dry_run:
        tell_plan(run, action, name, **change)
    elif run.out.is_json:
        run.out.value(change)
    else:
        run.out.note(f"{done} {name} in {change['file']} [{change['profile']}]")


@app.command("list")
def list_settings(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="also show where each value comes from")] = False,
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="cli, log, server, api, tunnel, agent or remote")
    ] = "",
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show all settings.

    Examples:
      meetingctl config list
      meetingctl config list --origin --group tunnel
      meetingctl config list --filter "key=tunnel_*" --json
    """
    run = of(ctx)
    described = describe_settings(run)
    groups = list(dict.fromkeys(row["group"] for row in described))
    if group not in {"", *groups}:
        run.refuse(f"no group {group[:40]!r}", hint=f"use one of {', '.join(groups)}")
    rows = [row for row in described if group in {"", row["group"]}]
    columns = ("key", "value", "origin") if origin else ("key", "value", "help")
    run.out.rows(rows, columns, empty="no settings", fields=fields, filters=filters)


@app.command("path")
def show_paths(ctx: typer.Context) -> None:
    """Show which files and folders are used.

    Examples:
      meetingctl config path
    """
    run = of(ctx)
    places = run.places
    paths = {
        "system_config": places.system_file,
        "user_config": places.user_file,
        "credentials": places.credentials_file,
        "data_dir": run.data_dir,
        "cache_dir": places.cache_dir,
    }
    run.out.record({name: str(path) for name, path in paths.items()})


@app.command("check")
def check_files(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="check this file only")] = None,
) -> None:
    """Check configuration files; exit code 78 when one is wrong.

    Examples:
      meetingctl config check
      meetingctl config check /etc/meetingctl/config.toml
    """
    from meetingctl.cli.layers import read_config

    run = of(ctx)
    if file is not None:
        path = Path(file)
        profiles = read_config(path, must_exist=True).profiles
        facts = {"file": str(path), "ok": True, "profiles": list(profiles)}
        run.out.value(facts, text=f"{path}: ok")
        return
    resolved = run.resolved
    changed = sum(1 for origin in resolved.origins.values() if origin != "default")
    facts = {"ok": True, "profile": run.sources.profile, "settings": len(resolved.origins), "changed": changed}
    run.out.value(facts, text=f"ok: {changed} of {len(resolved.origins)} settings differ from the defaults")


@profile_app.command("list")
def list_profiles(ctx: typer.Context, fields: Fields = "") -> None:
    """Show the profiles; the active one is marked.

    Examples:
      meetingctl config profile list
    """
    from meetingctl.core.settings import shown_value

    run = of(ctx)
    sources = run.sources
    rows = [
        {
            "profile": name,
            "active": name == sources.profile,
            "server_url": shown_value(
                sources.credentials.profiles.get(name, {}).get("server_url")
                or sources.user.profiles.get(name, {}).get("server_url")
                or sources.system.profiles.get(name, {}).get("server_url")
            ),
            "has_key": "api_key" in sources.credentials.profiles.get(name, {}),
        }
        for name in sources.profile_names
    ]
    run.out.rows(rows, ("profile", "active", "server_url", "has_key"), empty="no profiles", fields=fields)


@profile_app.command("use")
def use_profile(ctx: typer.Context, name: Name, dry_run: DryRun = False) -> None:
    """Choose the profile that is used without --profile; `default` for none.

    Examples:
      meetingctl config profile use site-a
    """
    from meetingctl.cli.config_file import choose_profile

    run = of(ctx)
    if name not in run.sources.profile_names:
        run.refuse(f"no profile {name!r}", hint=f"meetingctl config profile add {name} --server-url URL")
    if not dry_run:
        choose_profile(run.places.user_file, name)
    _tell(run, ("use", "uses from now on"), f"profile {name}", _profile_change(run, name), dry_run=dry_run)


@profile_app.command("add")
def add_profile(ctx: typer.Context, name: Name, dry_run: DryRun = False) -> None:
    """Add a profile; --server-url and --timeout become its first settings.

    Examples:
      meetingctl config profile add site-a --server-url https://a.example.org
    """
    from meetingctl.cli.config_file import put_profile, toml_value
    from meetingctl.core.errors import InvalidInput

    run = of(ctx)
    if name in run.sources.user.profiles and name != "default":
        raise InvalidInput(f"profile {name!r} exists", hint=f"meetingctl config profile use {name}")
    given = [key for key in ("server_url", "timeout_s") if key in run.options]
    values = {str(key): toml_value(key, str(run.options[key])) for key in given}
    if not dry_run:
        put_profile(run.places.user_file, name, values)
    _tell(run, ("add", "added"), f"profile {name}", _profile_change(run, name), dry_run=dry_run)


@profile_app.command("remove")
def remove_profile(ctx: typer.Context, name: Name, dry_run: DryRun = False) -> None:
    """Remove a profile with its settings; its stored key goes too.

    Examples:
      meetingctl config profile remove site-a --yes
    """
    from meetingctl.cli.config_file import drop_credentials, drop_profile
    from meetingctl.core.errors import NotFound

    run = of(ctx)
    if name not in run.sources.user.profiles or name == "default":
        raise NotFound(f"no profile {name!r} in {run.places.user_file}", hint="meetingctl config profile list")
    if not dry_run:
        run.confirm(f"remove profile {name}?")
        drop_profile(run.places.user_file, name)
        if name in run.sources.credentials.profiles:
            drop_credentials(run.places.credentials_file, name)
    _tell(run, ("remove", "removed"), f"profile {name}", _profile_change(run, name), dry_run=dry_run)


def _profile_change(run: Invocation, name: str) -> dict[str, Any]:
    return {"key": "profile", "value": name, "profile": name, "file": str(run.places.user_file)}
