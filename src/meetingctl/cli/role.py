"""`role`: what each role may do, and which permissions can limit a key."""

from __future__ import annotations

from typing import Annotated

import typer

from meetingctl.cli.invocation import of
from meetingctl.cli.options import Fields, Filters
from meetingctl.cli.output import Column
from meetingctl.cli.tree import Noun

app = Noun()

_SEES = ("fleet:view", "updates:view")
_RUNS = (*_SEES, "fleet:manage", "updates:publish", "channels:edit")
ROLES: dict[str, tuple[tuple[str, ...], str]] = {
    "viewer": (_SEES, "reads everything but secrets"),
    "operator": (_RUNS, "works with devices, tunnels, builds, releases and rollouts"),
    "admin": ((*_RUNS, "admin:full"), "all of it: users, keys, secrets, the audit log"),
    "user": (("updates:view", "updates:publish", "channels:edit"), "a builder user of the original"),
    "proxy": ((), "the key of a tunnel proxy: what it needs, and nothing else"),
    "sshd": ((), "the key of an sshd that asks who may log in"),
}


@app.command("list")
def list_roles(
    ctx: typer.Context,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the roles of users and API keys.

    Examples:
      meetingctl role list
      meetingctl role list --json
    """
    rows = [
        {"role": role, "permissions": list(permissions), "about": about} for role, (permissions, about) in ROLES.items()
    ]
    columns = (Column("role"), Column("about"), Column("permissions"))
    of(ctx).out.rows(rows, columns, empty="no roles", fields=fields, filters=filters)


@app.command("show")
def show_role(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="name of the role", show_default=False)],
    fields: Fields = "",
) -> None:
    """Show one role: its permissions are what `token create --permission` can limit a key to.

    Examples:
      meetingctl role show operator
    """
    run = of(ctx)
    if role not in ROLES:
        run.refuse(f"no role {role[:40]!r}", hint=f"use one of {', '.join(ROLES)}")
    permissions, about = ROLES[role]
    run.out.record({"role": role, "about": about, "permissions": list(permissions)}, fields=fields)
