"""`meetingctl remote`: another machine, over SSH."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.tree import Noun

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.ways import Route

app = Noun()


class Way(StrEnum):
    """Which way to take; the names are the words of `--via`."""

    auto = "auto"
    direct = "direct"
    tunnel = "tunnel"


TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", help="a device key, or user@host[:port]")]
UserOption = Annotated[str | None, typer.Option("--user", metavar="NAME", help="user on the device")]
IdentityOption = Annotated[
    Path | None, typer.Option("--identity", "-i", metavar="FILE", help="private key; default: the agent's and yours")
]
ViaOption = Annotated[Way, typer.Option("--via", help="take only this way to the device")]


@app.command("run")
def run_on_device(
    ctx: typer.Context,
    target: TargetArgument,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="the command, after two dashes")],
    sudo: Annotated[bool, typer.Option("--sudo", help="run it as root")] = False,
    user: UserOption = None,
    identity: IdentityOption = None,
    ask_password: Annotated[bool, typer.Option("--ask-password", help="ask for the user's password")] = False,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="read the user's password from a file")
    ] = None,
    via: ViaOption = Way.auto,
) -> int:
    """Run a command on a device and return its exit code.

    One word after the dashes is a line for the remote shell; several words reach the command as they are. Output is
    passed on byte for byte; the command's standard input is empty. In the JSON formats the first MiB of each output
    stands in the result.

    Exit code: that of the remote command; 255 when the connection is lost, 69 when the device cannot be reached, 4 when
    the login or the host key is refused.

    Examples:
      meetingctl remote run demo-cam -- uname -a
      meetingctl remote run demo-cam -- 'dmesg | tail -n 3'
      meetingctl remote run pi@192.0.2.7:2222 --sudo -- systemctl restart ssh
    """
    run = of(ctx)
    run.set_options(ssh_user=user, ssh_identity=identity)
    password = _read_password(run, ask_password, password_file)
    with _open_access(run, target, password) as (access, parsed):
        if run.is_json:
            return _run_to_json(run, access, parsed, command, sudo, via.value)
        _, outcome = asyncio.run(
            access.run(
                parsed,
                command,
                stdout=_raw_writer(sys.stdout),
                stderr=_raw_writer(sys.stderr),
                with_sudo=sudo,
                via=via.value,
            )
        )
        return outcome.exit_code


def _run_to_json(run: Invocation, access: Access, target: Target, command: list[str], sudo: bool, via: Any) -> int:
    from meetingctl.remote.access import CappedOutput

    out, err = CappedOutput(), CappedOutput()
    route, outcome = asyncio.run(
        access.run(target, command, stdout=out.write, stderr=err.write, with_sudo=sudo, via=via)
    )
    run.out.value(
        {
            "ok": outcome.exit_code == 0,
            "target": str(target),
            "route": _route_json(route),
            "exit_code": outcome.exit_code,
            "duration_s": round(outcome.duration_s, 3),
            "stdout": out.text,
            "stderr": err.text,
            "stdout_is_cut": out.is_cut,
            "stderr_is_cut": err.is_cut,
        }
    )
    return outcome.exit_code


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
    with _open_access(run, target, None) as (access, parsed):
        route = asyncio.run(access.verify(parsed, via=via.value))
        argv = plan_ssh(
            parsed,
            route,
            login=access.login_for(parsed),
            known_hosts=access.pins.path,
            command=command or (),
        )
    if print_only:
        run.out.value({"target": str(parsed), "route": _route_json(route), "argv": argv}, text=shlex.join(argv))
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
    from meetingctl.remote.hosts import parse_fingerprint

    run = of(ctx)
    wanted = parse_fingerprint(fingerprint) if fingerprint else None
    with _open_access(run, target, None) as (access, parsed):
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
            "route": _route_json(route),
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
    pins = HostKeys(_known_hosts(run))
    removed = [key.fingerprint for key in (pins.pinned(name) if dry_run else pins.unpin(name))]
    if not removed:
        raise NotFound(f"{parsed}: no host key is pinned for it", hint="meetingctl fleet list")
    run.out.value(
        {"target": str(parsed), "removed": removed, "changed": not dry_run},
        text="\n".join(f"{name}\t{key}" for key in removed),
    )


def _known_hosts(run: Invocation) -> Path:
    return run.places.user_file.parent / "known_hosts"


def _name(target: Target) -> str:
    from meetingctl.remote.hosts import name_host

    return name_host(target)


def _route_json(route: Route) -> dict[str, object]:
    return {"way": route.way, "host": route.host, "port": route.port}


@contextmanager
def _open_access(run: Invocation, text: str, password: Any) -> Iterator[tuple[Access, Target]]:
    """Open what a command on one target needs; an address needs no fleet server."""
    from contextlib import ExitStack

    from meetingctl.core.target import DeviceTarget, parse_target
    from meetingctl.remote.access import Access
    from meetingctl.remote.hosts import HostKeys
    from meetingctl.remote.route import RouteFinder
    from meetingctl.remote.session import Login

    target = parse_target(text)
    settings = run.settings
    with ExitStack() as stack:
        finder = None
        if isinstance(target, DeviceTarget):
            client = stack.enter_context(run.open_client())
            finder = RouteFinder(client, settings.ssh_direct_s, settings.ssh_connect_s, run.out.detail)
        login = Login(settings.ssh_user, settings.ssh_identity, password)
        pins = HostKeys(_known_hosts(run))
        yield Access(finder, pins, login, settings.ssh_connect_s, run.out.note, run.out.detail), target


def _read_password(run: Invocation, ask: bool, file: Path | None) -> Any:
    """Return the password as a Secret, from the prompt or a file; None without either option."""
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.secret import Secret

    if file is not None:
        return Secret(next(iter(read_small_text(file).splitlines()), ""))
    return run.read_secret("Password", flag="--password-file FILE") if ask else None


def _raw_writer(stream: Any) -> Callable[[bytes], None]:
    def write(chunk: bytes) -> None:
        stream.buffer.write(chunk)
        stream.buffer.flush()

    return write
