"""`fleet keys`: SSH keys of devices, and the key pair of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meetingctl.cli.invocation import of
from meetingctl.cli.options import Device, Devices, DryRun, Fields, Filters
from meetingctl.cli.output import Column
from meetingctl.cli.targets import for_each, tell_plan
from meetingctl.cli.tree import Noun

app = Noun()

_COLUMNS = (
    Column("device_key", "device"),
    Column("ssh_user", "user"),
    Column("status"),
    Column("fingerprint"),
    Column("modified"),
    Column("last_ssh", "last used"),
)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the SSH keys of all devices.

    Examples:
      meetingctl fleet keys list
      meetingctl fleet keys list --filter status=revoked
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.ssh_keys.list_keys()
    run.out.rows(found, _COLUMNS, empty="no device has a key", fields=fields, filters=filters)


@app.command("show")
def show_key(ctx: typer.Context, device: Device, fields: Fields = "") -> None:
    """Show the SSH key of one device.

    Examples:
      meetingctl fleet keys show cam-7
      meetingctl fleet keys show cam-7 --fields pubkey -o plain
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.ssh_keys.get_key(device)
    run.out.record(found, fields=fields)


@app.command("add")
def add_key(
    ctx: typer.Context,
    device: Device,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="public key of the device: a .pub file")],
    user: Annotated[
        str | None, typer.Option("--ssh-user", metavar="NAME", help="user that the key may log in as on the server")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Set the SSH key of a device; it takes the place of the one before, and frees a revoked one.

    Examples:
      meetingctl fleet keys add cam-7 id_ed25519.pub
      meetingctl fleet keys add cam-7 id_ed25519.pub --ssh-user tunnel
    """
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.sshkey import parse_public_key

    run = of(ctx)
    line = read_small_text(file).strip()
    key, _ = parse_public_key(line)
    with run.open_client() as client:
        if dry_run:
            client.get_device(device)
            tell_plan(run, "set the key of", device, fingerprint=key.fingerprint)
            return
        client.ssh_keys.set_key(device, line, ssh_user=user)
        found = client.ssh_keys.get_key(device)
    run.out.record(found)


@app.command("rm")
def remove_keys(ctx: typer.Context, devices: Devices, dry_run: DryRun = False) -> int:
    """Revoke the SSH keys of devices; the records stay, and nobody logs in with them.

    Examples:
      meetingctl fleet keys rm cam-7
    """
    run = of(ctx)
    with run.open_client() as client:
        act = client.ssh_keys.get_key if dry_run else client.ssh_keys.revoke_key
        return for_each(run, "revoke the key of", devices, act, dry_run=dry_run)


@app.command("log")
def show_log(
    ctx: typer.Context,
    device: Device,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show what happened to the SSH key of a device, newest first.

    Examples:
      meetingctl fleet keys log cam-7
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.ssh_keys.list_log(device)
    columns = ("timestamp", "action", "fingerprint", "actor", "remote")
    run.out.rows(found, columns, empty=f"{device}: nothing happened yet", fields=fields, filters=filters)


@app.command("export-ppk")
def export_ppk(
    ctx: typer.Context,
    device: Device,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="where to write the key", show_default=False)],
    dry_run: DryRun = False,
) -> None:
    """Write the private key that the server keeps for a device, for PuTTY; its passphrase is shown once.

    Off unless the server's setting device_private_keys_dir names a folder. The export is audited.

    Examples:
      meetingctl fleet keys export-ppk cam-7 --out cam-7.ppk
    """
    from meetingctl.core.paths import write_atomic

    run = of(ctx)
    with run.open_client() as client:
        if dry_run:
            client.get_device(device)
            tell_plan(run, "export the private key of", device, file=str(out))
            return
        content, passphrase = client.ssh_keys.export_ppk(device)
    write_atomic(out, content, mode=0o600)
    run.out.value({"device_key": device, "file": str(out), "passphrase": passphrase}, text=f"{out}\t{passphrase}")


@app.command("server")
def show_server_key(ctx: typer.Context, fields: Fields = "") -> None:
    """Show the public key with which the server logs in to devices.

    Examples:
      meetingctl fleet keys server
      meetingctl fleet keys server --fields pubkey -o plain
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.ssh_keys.get_server_key()
    run.out.record(found, fields=fields)


@app.command("rotate")
def rotate_server_key(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="a public key whose private half is kept elsewhere")
    ] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="devices know the new key: retire the old ones")] = False,
    dry_run: DryRun = False,
) -> None:
    """Make a new key pair for the server; the old one is kept until --confirm.

    Devices fetch the new public key from /api/ssh/pubkey.

    Examples:
      meetingctl fleet keys rotate
      meetingctl fleet keys rotate --confirm
      meetingctl fleet keys rotate server.pub
    """
    from meetingctl.core.paths import read_small_text

    run = of(ctx)
    if dry_run:
        tell_plan(run, "retire the old pairs of" if confirm else "rotate", "the server's key")
        return
    with run.open_client() as client:
        if confirm:
            retired = client.ssh_keys.confirm_server_key()
            run.out.value({"retired": retired}, text=f"retired {retired}")
            return
        if file is not None:
            run.confirm("take this public key for the server's? The pairs before it are retired.")
            client.ssh_keys.set_server_key(read_small_text(file).strip())
        else:
            client.ssh_keys.rotate_server_key()
        found = client.ssh_keys.get_server_key()
    run.out.record(found)
    if file is None:
        run.out.note(f"when the devices know it: {run.line('fleet', 'keys', 'rotate', '--confirm')}")
