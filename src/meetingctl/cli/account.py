"""`login`, `logout`, `whoami`: the credential that this command line presents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.tree import verb

if TYPE_CHECKING:
    from meetingctl.core.secret import Secret

_WHOAMI_ORDER = ("principal", "name", "kind", "role", "mode", "expires_at", "server_url", "profile")


@verb("login")
def login(
    ctx: typer.Context,
    key_file: Annotated[
        str | None, typer.Option("--key-file", metavar="FILE", help="read the API key from this file")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Store the API key of a server.

    Asks for the key, or reads it from --key-file or standard input. The server is asked who the key belongs to before
    anything is written. The key goes into credentials.toml, which only you may read.

    Examples:
      meetingctl login --server-url https://fleet.example.org
      meetingctl login --key-file admin.key
      pass show fleet | meetingctl login --profile site-a --server-url https://a.example.org
    """
    from meetingctl.cli.config_file import put_credentials
    from meetingctl.client import FleetClient

    run = of(ctx)
    run.may_name_new_profile = True
    profile = run.sources.profile
    settings = run.settings
    _warn_about_plain_http(run, settings.server_url)
    key = _read_key(run, key_file)
    with FleetClient(settings.server_url, api_key=key, timeout_s=settings.timeout_s) as client:
        identity = client.whoami()
    path = run.places.credentials_file
    if dry_run:
        run.out.note(f"would write the key of {settings.server_url} to {path} [{profile}]")
    else:
        put_credentials(path, profile, {"server_url": settings.server_url, "api_key": key.reveal()})
        run.out.note(f"stored in {path}")
    run.out.record(identity | {"server_url": settings.server_url, "profile": profile}, order=_WHOAMI_ORDER)


def _read_key(run: Invocation, key_file: str | None) -> Secret:
    from meetingctl.core.secret import Secret

    if key_file is None:
        return run.read_secret(f"API key for {run.settings.server_url}", flag="--key-file FILE")
    text = Path(key_file).read_text(encoding="utf-8").strip()
    if not text or len(text.split()) != 1:
        run.refuse(f"{key_file}: holds no API key", hint="the file holds the key in one line")
    return Secret(text)


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
    if stored and not dry_run:
        drop_credentials(path, profile)
    verb_text = "nothing was stored" if not stored else "would forget the key" if dry_run else "forgot the key"
    run.out.note(f"{verb_text} of profile {profile} in {path}")
    if run.out.is_json:
        run.out.value({"profile": profile, "removed": stored and not dry_run})


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
