"""`user`: accounts of people on the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters
from meetingctl.cli.targets import for_each, tell_plan
from meetingctl.cli.tree import Noun

if TYPE_CHECKING:
    from meetingctl.core.secret import Secret

app = Noun()

ROLES = ("viewer", "operator", "admin", "user")
_COLUMNS = ("id", "username", "role", "authorized", "created_at")

Username = Annotated[str, typer.Argument(metavar="NAME", help="name of the account", show_default=False)]
Role = Annotated[str, typer.Option("--role", metavar="ROLE", help="viewer, operator, admin or user")]
KeyFile = Annotated[Path | None, typer.Option("--ssh-key", metavar="FILE", help="public SSH key: a .pub file")]
PasswordFile = Annotated[
    str | None, typer.Option("--password-file", metavar="FILE", help="read the password from this file")
]


@app.command("list")
def list_users(
    ctx: typer.Context,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the accounts of people.

    Examples:
      meetingctl user list
      meetingctl user list --filter role=admin
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.people.list_users()
    run.out.rows(found, _COLUMNS, empty="no accounts", fields=fields, filters=filters)


@app.command("show")
def show_user(ctx: typer.Context, name: Username, fields: Fields = "") -> None:
    """Show one account; of its token only the last characters.

    Examples:
      meetingctl user show anna
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.people.get_user(name)
    run.out.record(found, fields=fields)


@app.command("create")
def create_user(
    ctx: typer.Context,
    name: Username,
    role: Role = "user",
    ssh_key: KeyFile = None,
    password_file: PasswordFile = None,
    off: Annotated[bool, typer.Option("--off", help="create it, and let nobody in yet")] = False,
    dry_run: DryRun = False,
) -> None:
    """Create an account and print its token, which is never shown again.

    Asks for the password, or reads it from --password-file or standard input. Roles: `meetingctl role list`.

    Examples:
      meetingctl user create anna --role operator
      pass show fleet/anna | meetingctl user create anna --role viewer --ssh-key anna.pub
    """
    run = of(ctx)
    _check_role(run, role)
    pubkey = _read_pubkey(ssh_key)
    if dry_run:
        tell_plan(run, f"create a {role} account for", name, role=role, authorized=not off)
        return
    password = _read_password(run, password_file, f"Password for {name}")
    with run.open_client() as client:
        made = client.people.create_user(name, password=password, role=role, ssh_pubkey=pubkey, authorized=not off)
    run.out.note(f"account {name}, role {role}; its token is shown once:")
    run.out.value(made, text=str(made.get("token")))


@app.command("update")
def update_user(
    ctx: typer.Context,
    name: Username,
    role: Annotated[str | None, typer.Option("--role", metavar="ROLE", help="viewer, operator, admin or user")] = None,
    new_name: Annotated[str | None, typer.Option("--name", metavar="NEW", help="give it another name")] = None,
    ssh_key: KeyFile = None,
    no_ssh_key: Annotated[bool, typer.Option("--no-ssh-key", help="forget its public SSH key")] = False,
    on: Annotated[bool | None, typer.Option("--on/--off", help="let its owner in, or keep them out")] = None,
    dry_run: DryRun = False,
) -> None:
    """Change an account; a new role or --off ends its logins at once.

    Examples:
      meetingctl user update anna --role viewer
      meetingctl user update anna --off
      meetingctl user update anna --ssh-key anna.pub
    """
    run = of(ctx)
    if role is not None:
        _check_role(run, role)
    changes: dict[str, Any] = {"role": role, "username": new_name, "ssh_pubkey": _read_pubkey(ssh_key)}
    changes = {key: value for key, value in changes.items() if value is not None}
    changes |= {"ssh_pubkey": None} if no_ssh_key else {}
    changes |= {"authorized": int(on)} if on is not None else {}
    if not changes:
        run.refuse("nothing to change", hint="meetingctl user update --help")
    with run.open_client() as client:
        if dry_run:
            client.people.find_id(name)
            tell_plan(run, "change", name, changes=changes)
            return
        client.people.update_user(name, **changes)
        found = client.people.get_user(new_name or name)
    run.out.record(found)


@app.command("password")
def set_password(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="somebody else; default: your own account")] = None,
    password_file: PasswordFile = None,
    old_password_file: Annotated[
        str | None, typer.Option("--old-password-file", metavar="FILE", help="read your former password from this file")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Set a password: your own, which takes the old one, or as an administrator somebody else's.

    Asks, or reads the files, or reads standard input: a line each, the old one first. Ends the logins.

    Examples:
      meetingctl user password
      meetingctl user password anna
      meetingctl user password anna --password-file new.txt
    """
    run = of(ctx)
    whose = name or "your account"
    if dry_run:
        tell_plan(run, "set the password of", whose)
        return
    with run.open_client() as client:
        if name is None:
            old = _read_password(run, old_password_file, "Old password", flag="--old-password-file FILE")
            client.people.set_own_password(old=old, new=_read_password(run, password_file, "New password"))
        else:
            client.people.set_password(name, _read_password(run, password_file, f"New password for {name}"))
    run.out.note(f"the password of {whose} is set; logins made with the old one have ended")
    if run.out.is_json:
        run.out.value({"user": name, "changed": True})


@app.command("token")
def renew_token(ctx: typer.Context, name: Username, dry_run: DryRun = False) -> None:
    """Make a new token for an account and print it once; the one before stops working.

    Examples:
      meetingctl user token anna --yes
    """
    run = of(ctx)
    if dry_run:
        with run.open_client() as client:
            client.people.find_id(name)
        tell_plan(run, "renew the token of", name)
        return
    run.confirm(f"renew the token of {name}? Programs with the old one are locked out.")
    with run.open_client() as client:
        made = client.people.renew_token(name)
    run.out.note(f"token of {name}; it is shown once:")
    run.out.value({"user": name, "token": made["token"]}, text=str(made["token"]))


@app.command("rm")
def remove_users(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="names of accounts", show_default=False)],
    dry_run: DryRun = False,
) -> int:
    """Delete accounts with their tokens and logins; the last administrator stays.

    Examples:
      meetingctl user rm anna --yes
    """
    run = of(ctx)
    if not dry_run:
        run.confirm(f"delete {', '.join(names)}?")
    with run.open_client() as client:
        return for_each(
            run, "delete", names, client.people.find_id if dry_run else client.people.delete_user, dry_run=dry_run
        )


@app.command("keys")
def show_keys(ctx: typer.Context) -> None:
    """Print the public SSH keys of all accounts that are on, for sshd; only on the server's machine.

    Examples:
      meetingctl user keys -o plain
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.people.authorized_keys()
    run.out.value({"keys": found}, text="\n".join(found))


def _check_role(run: Invocation, role: str) -> None:
    if role not in ROLES:
        run.refuse(f"no role {role[:40]!r}", hint=f"use one of {', '.join(ROLES)}")


def _read_pubkey(path: Path | None) -> str | None:
    """Read one public key. Raises: InvalidInput for anything else, before it is sent."""
    if path is None:
        return None
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.sshkey import parse_public_key

    line = read_small_text(path).strip()
    parse_public_key(line)
    return line


def _read_password(run: Invocation, path: str | None, prompt: str, *, flag: str = "--password-file FILE") -> Secret:
    """Read a password from a file, a prompt or standard input, never from the command line."""
    if path is None:
        return run.read_secret(prompt, flag=flag)
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.secret import Secret

    text = read_small_text(Path(path)).strip("\r\n")
    if not text:
        run.refuse(f"{path}: empty", hint="write the password into the file")
    return Secret(text)
