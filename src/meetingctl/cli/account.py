"""`login`, `logout`, `whoami`: the credential that this command line presents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import verb

if TYPE_CHECKING:
    from meetingctl.core.secret import Secret

_WHOAMI_ORDER = ("principal", "name", "kind", "role", "mode", "expires_at", "server_url", "profile")


@verb("login")
def login(
    ctx: typer.Context,
    key_file: Annotated[
        str | None,
        typer.Option("--key-file", metavar="FILE", help="read the API key from this file, or a credentials.toml"),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Store the API key of a server.

    Asks for the key, or reads it from --key-file or standard input. The file holds the key alone, or is the
    credentials.toml that a server wrote, which names the server too. The server is asked who the key belongs to before
    anything is written. The key goes into your own credentials.toml, which only you may read.

    Examples:
      meetingctl login --server-url https://fleet.example.org
      meetingctl login --server-url https://fleet.example.org --key-file admin.key
      sudo meetingctl login --key-file /var/lib/meetingctl/credentials.toml
      pass show fleet | meetingctl login --profile site-a --server-url https://a.example.org
    """
    from meetingctl.cli.config_file import put_credentials

    run = of(ctx)
    run.may_name_new_profile = True
    profile = run.sources.profile
    key = _read_key(run, key_file) if key_file is not None else None
    server_url = run.settings.server_url
    _warn_about_plain_http(run, server_url)
    if key is None:
        key = run.read_secret(f"API key for {server_url}", flag="--key-file FILE")
    with run.open_client(api_key=key) as client:
        identity = client.whoami()
    path = run.places.credentials_file
    if dry_run:
        tell_plan(run, "store the API key of", server_url, profile=profile, file=str(path), identity=identity)
        return
    put_credentials(path, profile, {"server_url": server_url, "api_key": key.reveal()})
    run.out.note(f"stored in {path}")
    run.out.record(identity | {"server_url": server_url, "profile": profile}, order=_WHOAMI_ORDER)


def _read_key(run: Invocation, key_file: str) -> Secret:
    """Read a key; a server's credentials.toml also names the server, unless the command line does."""
    from meetingctl.cli.layers import DEFAULT_PROFILE, parse_file
    from meetingctl.core.errors import ConfigError
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.secret import Secret

    path = Path(key_file)
    text = read_small_text(path).strip()
    if len(text.split()) == 1:
        return Secret(text)
    try:
        profiles = parse_file(path, text, holds_secrets=True).profiles
    except ConfigError:
        profiles = {}
    stored = profiles.get(run.sources.profile) or profiles.get(DEFAULT_PROFILE) or {}
    if "api_key" not in stored:
        run.refuse(f"{key_file}: holds no API key", hint="the key stands alone, or in the credentials.toml of a server")
    if "server_url" not in run.options:
        run.set_options(server_url=stored.get("server_url"))
    return Secret(str(stored["api_key"]))


def _warn_about_plain_http(run: Invocation, url: str) -> None:
    from meetingctl.core.net import is_loopback

    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        run.out.warn(f"{url} is not encrypted: others on the way can read the key", hint="use an https:// address")


@verb("logout")
def logout(ctx: typer.Context, dry_run: DryRun = False) -> None:
    """Forget the stored API key.

    The key itself stays valid on the server; `meetingctl token revoke` ends it.

    Examples:
      meetingctl logout
      meetingctl logout --profile site-a
    """
    from meetingctl.cli.config_file import drop_credentials

    run = of(ctx)
    profile, path = run.sources.profile, run.places.credentials_file
    stored = "api_key" in run.sources.credentials.profiles.get(profile, {})
    if dry_run:
        tell_plan(run, "forget the API key of", f"profile {profile}", would_change=stored, file=str(path))
        return
    if stored:
        drop_credentials(path, profile)
    run.out.note(f"{'forgot the API key' if stored else 'nothing was stored'} of profile {profile} in {path}")
    if run.out.is_json:
        run.out.value({"profile": profile, "removed": stored})


@verb("whoami")
def whoami(ctx: typer.Context) -> None:
    """Show who the server takes you for.

    Examples:
      meetingctl whoami
      meetingctl whoami --json
    """
    run = of(ctx)
    with run.open_client() as client:
        identity = client.whoami()
    facts = {"server_url": run.settings.server_url, "profile": run.sources.profile}
    run.out.record(identity | facts, order=_WHOAMI_ORDER)
