"""`meetingctl remote`: another machine, over SSH."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli import (
    remote_backup,
    remote_config,
    remote_facts,
    remote_files,
    remote_install,
    remote_logs,
    remote_network,
    remote_onvif,
    remote_recordings,
    remote_services,
    remote_smoke,
    remote_update,
)
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_many import IdentityOption, UserOption, ViaOption, Way, known_hosts, open_access, route_json
from meetingctl.cli.remote_run import run_on_devices
from meetingctl.cli.tree import Noun, RestCommand

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access

app = Noun()


TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", help="a device key, or user@host[:port]")]

app.command("run", cls=RestCommand)(run_on_devices)
app.command("facts")(remote_facts.show_facts)
app.command("ip")(remote_facts.show_addresses)
app.command("discover")(remote_onvif.discover_cameras)
app.command("logs")(remote_logs.show_logs)
app.command("collect")(remote_logs.collect_logs)
app.command("copy")(remote_files.copy_files)
app.command("deploy")(remote_files.deploy_files)
app.command("install")(remote_install.install_device)
app.command("update")(remote_update.update_devices)
app.command("backup")(remote_backup.back_up_devices)
app.command("restore")(remote_backup.restore_device)
app.command("smoke")(remote_smoke.check_devices)
app.add("config", remote_config.app, "Read and change the configuration files of devices.")
app.add("network", remote_network.app, "See the network profiles of devices, and set wrong ones back.")
app.add("recordings", remote_recordings.app, "See, fetch and delete what cameras have recorded.")
app.add("services", remote_services.app, "See, start and stop the units of devices.")
app.command("reboot")(remote_services.reboot_devices)
app.command("shutdown")(remote_services.shut_devices_down)


@app.command("ssh")
def open_shell(
    ctx: typer.Context,
    target: TargetArgument,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD...]", help="a command instead of a shell, after two dashes")
    ] = None,
    user: UserOption = None,
    identity: IdentityOption = None,
    via: ViaOption = Way.auto,
    print_only: Annotated[bool, typer.Option("--print", help="print the ssh command instead of running it")] = False,
) -> int:
    """Open a shell on a device with OpenSSH.

    Takes the direct address, else the tunnel, which it opens; -v says which and why. The host key is pinned under the
    device's key, so that both ways share one pin. With --print the line can be pasted, or given to rsync -e.

    Exit code: that of ssh, which is the remote one, or 255 when the connection is lost.

    Examples:
      meetingctl remote ssh demo-cam
      meetingctl remote ssh demo-cam -v -- uptime
      meetingctl remote ssh demo-cam --print
    """
    from meetingctl.remote.openssh import find_ssh, plan_ssh

    run = of(ctx)
    run.set_options(ssh_user=user, ssh_identity=identity)
    program = "ssh" if print_only else find_ssh()
    with _open_access(run, target) as (access, parsed):
        route = asyncio.run(access.verify(parsed, via=via.value))
        argv = plan_ssh(
            parsed,
            route,
            login=access.login_for(parsed),
            known_hosts=access.pins.path,
            command=command or (),
        )
    if print_only:
        run.out.value({"target": str(parsed), "route": route_json(route), "argv": argv}, text=shlex.join(argv))
        return 0
    sys.stdout.flush()
    sys.stderr.flush()
    # What Python ignores, the program would inherit as ignored.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(program, argv)  # noqa: S606 - no shell is meant


@app.command("trust")
def trust_host(
    ctx: typer.Context,
    target: TargetArgument,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="FP", help="trust only the key with this SHA256 fingerprint")
    ] = None,
    via: ViaOption = Way.auto,
    dry_run: DryRun = False,
) -> None:
    """Pin the host key that a device shows now.

    It takes the place of a key that was pinned before.

    Compare the fingerprint with what the device itself says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub

    Examples:
      meetingctl remote trust demo-cam
      meetingctl remote trust demo-cam --fingerprint SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU
    """
    from meetingctl.core.errors import HostKeyChanged
    from meetingctl.core.sshkey import parse_fingerprint

    run = of(ctx)
    wanted = parse_fingerprint(fingerprint) if fingerprint else None
    with _open_access(run, target) as (access, parsed):
        name = _name(parsed)
        route, offered = asyncio.run(access.see_host_key(parsed, via=via.value))
        pinned = access.pins.pinned(name)
        if wanted is not None and offered.fingerprint != wanted:
            raise HostKeyChanged(
                f"{parsed}: {route} shows {offered.fingerprint}, not {wanted}",
                hint="on the device: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            )
        is_change = (offered,) != pinned
        if is_change and not dry_run:
            if wanted is None:
                run.confirm(f"Trust {offered.kind} {offered.fingerprint}, shown at {route}, as {parsed}?")
            access.pins.pin(name, offered)
    replaced = [key.fingerprint for key in pinned if key != offered]
    run.out.value(
        {
            "target": str(parsed),
            "route": route_json(route),
            "key_type": offered.kind,
            "fingerprint": offered.fingerprint,
            "replaced": replaced,
            "changed": is_change and not dry_run,
        },
        text=f"{name}\t{offered.fingerprint}",
    )


@app.command("untrust")
def untrust_host(ctx: typer.Context, target: TargetArgument, dry_run: DryRun = False) -> None:
    """Forget the pinned host key of a device.

    The next contact pins the key that the device shows then.

    Examples:
      meetingctl remote untrust demo-cam
    """
    from meetingctl.core.errors import NotFound
    from meetingctl.core.target import parse_target
    from meetingctl.remote.hosts import HostKeys

    run = of(ctx)
    parsed = parse_target(target)
    name = _name(parsed)
    pins = HostKeys(known_hosts(run))
    removed = [key.fingerprint for key in (pins.pinned(name) if dry_run else pins.unpin(name))]
    if not removed:
        raise NotFound(f"{parsed}: no host key is pinned for it", hint="meetingctl fleet list")
    run.out.value(
        {"target": str(parsed), "removed": removed, "changed": not dry_run},
        text="\n".join(f"{name}\t{key}" for key in removed),
    )


def _name(target: Target) -> str:
    from meetingctl.remote.hosts import name_host

    return name_host(target)


@contextmanager
def _open_access(run: Invocation, text: str) -> Iterator[tuple[Access, Target]]:
    """Open what a command on one target needs; an address needs no fleet server."""
    from meetingctl.core.target import parse_target

    target = parse_target(text)
    with open_access(run, [target], None) as access:
        yield access, target
