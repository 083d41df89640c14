"""`token`: API keys for people, tools, the tunnel proxy and sshd."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import of
from meetingctl.cli.options import DryRun, Fields, Filters, parse_life_s
from meetingctl.cli.targets import for_each, tell_plan
from meetingctl.cli.tree import Noun

if TYPE_CHECKING:
    from meetingctl.client import FleetClient

app = Noun()

ROLES = ("viewer", "operator", "admin", "proxy", "sshd")
_COLUMNS = ("id", "name", "role", "permissions", "device_types", "tags", "expires_at", "last_used_at", "revoked")


@app.command("list")
def list_keys(
    ctx: typer.Context,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the API keys, without their secrets.

    Examples:
      meetingctl token list
      meetingctl token list --filter revoked=false --filter role=admin
    """
    run = of(ctx)
    with run.open_client() as client:
        keys = client.list_keys()
    run.out.rows(keys, _COLUMNS, empty="no API keys", fields=fields, filters=filters)


@app.command("create")
def create_key(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="who or what will use it", show_default=False)],
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="viewer, operator, admin, proxy or sshd")
    ] = "viewer",
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION", help="how long it works, for example 90d")
    ] = None,
    permissions: Annotated[
        list[str], typer.Option("--permission", metavar="NAME", help="no more than this; repeatable")
    ] = [],  # noqa: B006 - Typer reads the default and copies it
    device_types: Annotated[
        list[str], typer.Option("--type", metavar="NAME", help="only devices of this type; repeatable")
    ] = [],  # noqa: B006
    tags: Annotated[
        list[str], typer.Option("--tag", metavar="TAG", help="only devices with this tag; repeatable")
    ] = [],  # noqa: B006
    dry_run: DryRun = False,
) -> None:
    """Create an API key and print it; it is never shown again.

    A key can be limited to permissions, device types and tags; `role show` lists the permissions of a role. No key can
    make a wider one than itself.

    Examples:
      meetingctl token create dashboard
      meetingctl token create ci --role operator --permission updates:publish --type rpicam --expires 90d > ci.key
    """
    run = of(ctx)
    if role not in ROLES:
        run.refuse(f"no role {role[:40]!r}", hint=f"use one of {', '.join(ROLES)}")
    expires_in_s = parse_life_s(expires, "--expires") if expires is not None else None
    given = {"permissions": permissions, "device_types": device_types, "tags": tags}
    limits: dict[str, Any] = {limit: words for limit, words in given.items() if words}
    if dry_run:
        tell_plan(run, f"create a {role} API key for", name, role=role, expires_in_s=expires_in_s, limits=limits)
        return
    with run.open_client() as client:
        made = client.create_key(name, role=role, expires_in_s=expires_in_s, limits=limits)
    run.out.note(f"API key {made.get('id')} for {name}, role {role}; it is shown once:")
    run.out.value(made, text=str(made.get("key")))


@app.command("revoke")
def revoke_keys(
    ctx: typer.Context,
    key_ids: Annotated[
        list[str], typer.Argument(metavar="KEY_ID...", help="ids, as `token list` shows them", show_default=False)
    ],
    dry_run: DryRun = False,
) -> int:
    """Revoke API keys at once; who uses them is locked out.

    Examples:
      meetingctl token revoke 3fa9c1d2a7b4 --yes
    """
    run = of(ctx)
    if not dry_run:
        run.confirm(f"revoke {', '.join(key_ids)}?")
    with run.open_client() as client:
        return for_each(run, "revoke", key_ids, _find_key(client) if dry_run else client.revoke_key, dry_run=dry_run)


def _find_key(client: FleetClient) -> Callable[[str], None]:
    """Return a function that raises NotFound for an id that no API key has."""
    from meetingctl.core.errors import NotFound

    known = {str(key.get("id")) for key in client.list_keys()}

    def find(key_id: str) -> None:
        if key_id not in known:
            raise NotFound(f"key {key_id}: not found", hint="meetingctl token list")

    return find
