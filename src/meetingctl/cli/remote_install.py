"""`meetingctl remote install`: a camera out of a freshly flashed machine."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_install_wishes import Fleet, Options, check_options, read_membership, read_wishes
from meetingctl.cli.remote_many import (
    AskPassword,
    IdentityOption,
    PasswordFile,
    UserOption,
    ViaOption,
    Way,
    open_access,
    read_password,
)
from meetingctl.cli.signals import run_async
from meetingctl.core.errors import MeetingctlError

if TYPE_CHECKING:
    from meetingctl.core.secret import Secret
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.install_log import InstallLog
    from meetingctl.remote.recipes.install import Installer, Outcome
    from meetingctl.remote.recipes.steps import Job
    from meetingctl.remote.visit import Visit

    LookAfter = Callable[[Outcome], None]

_WORDS = {True: "ok", False: "not well", None: "not now"}
_STEP_COLUMNS = ("do", "on", "why")


def install_device(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a device key, or user@host[:port]")],
    device_key: Annotated[
        str | None, typer.Option("--device-key", metavar="KEY", help="its key in the fleet; becomes its host name")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="read its token code from a file")
    ] = None,
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="read its token code from standard input")] = False,
    api_url: Annotated[
        str | None, typer.Option("--api-url", metavar="URL", help="the fleet API as the device reaches it")
    ] = None,
    tunnel: Annotated[
        str | None,
        typer.Option("--tunnel", metavar="HOST:PORT", help="the tunnel server; default: the API's host, port 9001"),
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", metavar="ZONE", help="its time zone")] = "Europe/Paris",
    hostname: Annotated[
        str | None, typer.Option("--hostname", metavar="NAME", help="another host name than its key")
    ] = None,
    package: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="a package of meetingctl builder bundle")
    ] = None,
    release: Annotated[
        str | None, typer.Option("--release", metavar="TYPE/DISTRIBUTION/VERSION", help="a published release")
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option("--component", metavar="A,B", help="of units and packages only these, as of device check"),
    ] = None,
    check_only: Annotated[bool, typer.Option("--check-only", help="connect and look, and do nothing")] = False,
    transfer_only: Annotated[bool, typer.Option("--transfer-only", help="send the package, and do no more")] = False,
    attach: Annotated[bool, typer.Option("--attach", help="follow an installation that runs there already")] = False,
    no_provision: Annotated[bool, typer.Option("--no-provision", help="leave host name and time zone alone")] = False,
    no_burn_token: Annotated[bool, typer.Option("--no-burn-token", help="keep the token, for tests")] = False,
    no_reboot: Annotated[bool, typer.Option("--no-reboot", help="do not restart the device at the end")] = False,
    log: Annotated[Path | None, typer.Option("--log", metavar="FILE", help="where the log of this run goes")] = None,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="for everything together")] = "45m",
    user: UserOption = None,
    identity: IdentityOption = None,
    ask_password: AskPassword = False,
    password_file: PasswordFile = None,
    via: ViaOption = Way.auto,
    dry_run: DryRun = False,
) -> int:
    """Make a camera of the fleet out of a freshly flashed machine.

    Looks first, plans, and does what is left to do: host name, time zone, membership in the fleet, package, units, a
    token consumed, a restart; then it looks whether the units run and the server hears of the device. A second run of
    the same finds nothing to do. The installation itself goes on when the link is lost or this command is
    interrupted; --attach follows it, and the same command again goes on where it stands.

    The token code comes from a file, standard input or the variable MEETING_TOKEN_CODE, never from the command line.

    Examples:
      meetingctl remote install device@192.0.2.7 --check-only
      meetingctl remote install device@192.0.2.7 --device-key cam-7 --token-file code.txt --from bundle.tar.gz --dry-run
      meetingctl remote install cam-7 --attach
    """
    from meetingctl.core.duration import parse_duration_s

    run = of(ctx)
    run.set_options(ssh_user=user, ssh_identity=identity)
    if run.resolved.origins["server_url"] == "default":
        run.set_options(server_url=api_url)
    options = Options(
        device_key,
        token_file,
        token_stdin,
        api_url,
        tunnel,
        timezone,
        hostname,
        package,
        release,
        not no_provision,
        not no_burn_token,
        not no_reboot,
        component or [],
        check_only,
        transfer_only,
        attach,
        dry_run,
    )
    check_options(options)
    until_s = time.monotonic() + parse_duration_s(timeout)
    password = read_password(run, ask_password, password_file)
    with _open_installer(run, target, options, password, until_s, log, via) as (installer, record, look_after):
        return _install(run, installer, options, record, look_after)


@contextmanager
def _open_installer(
    run: Invocation,
    text: str,
    options: Options,
    password: Secret | None,
    until_s: float,
    log: Path | None,
    via: Way,
) -> Iterator[tuple[Installer, InstallLog, LookAfter]]:
    from meetingctl.core.target import parse_target
    from meetingctl.remote.install_log import InstallLog
    from meetingctl.remote.recipes.install import Installer
    from meetingctl.remote.recipes.session import Session, opener_of
    from meetingctl.remote.recipes.steps import Job

    target = parse_target(text)
    member = None if options.only_looks or options.transfer_only else read_membership(run, options, target)
    wishes = read_wishes(run, options, target, member)
    secrets = [secret.reveal() for secret in (password, member.token if member else None) if secret]
    phases = Phases(run)
    record = InstallLog(log or _log_path(run), phases.show, run.out.warn, phases.close, secrets)
    fleet = Fleet(run, member, str(target))
    with open_access(run, [target], password) as access:
        job = Job(wishes, record.progress(), until_s, fleet.take_token)
        session = Session(opener_of(access, target, via=via.value), until_s, record.write)
        again = shlex.join(["meetingctl", *("--identity" if word == "-i" else word for word in run.argv)])
        installer = Installer(str(target), session, job, again, fleet.read_device if member else None)
        yield installer, record, lambda outcome: _look_after(access, target, via, job, fleet, outcome)


def _look_after(access: Access, target: Target, via: Way, job: Job, fleet: Fleet, outcome: Outcome) -> None:
    """Tell what deserves a look, see whether there is a picture, and let the fleet and the pins know the device.

    A camera may be connected later, so a stream without a picture is a warning.
    """
    from meetingctl.cli.remote_smoke import round_of
    from meetingctl.core.target import DeviceTarget
    from meetingctl.remote.hosts import name_host
    from meetingctl.remote.smoke import run_checks

    for note in outcome.facts.notes:
        job.warn(note)

    async def look(visit: Visit) -> list[dict[str, Any]]:
        return await run_checks(round_of(visit, access), ["rtsp"])

    try:
        (stream,) = run_async(access.visit(target, look, via=via.value))
    except MeetingctlError as error:
        stream = {"check": "rtsp", "ok": False, "detail": error.message}
    if not stream["ok"]:
        job.warn(f"no picture: {stream['detail']}")
        stream["ok"] = None
    outcome.checks.append(stream)
    if fleet.member is None:
        return
    named = DeviceTarget(fleet.member.device_key)
    if (keys := access.pins.pinned(name_host(target))) and not access.pins.pinned(name_host(named)):
        access.pins.pin(name_host(named), keys[0])
    if outcome.steps and outcome.facts.version:
        try:
            fleet.report(outcome.facts.version)
        except MeetingctlError as error:
            job.warn(f"the fleet does not know its version: {error.message}")


def _install(run: Invocation, installer: Installer, options: Options, record: InstallLog, look_after: LookAfter) -> int:
    from meetingctl.remote.recipes.install import CONNECTING

    if not (options.check_only or options.dry_run):
        record.open()
        record.write(f"log of: {installer.again}")
    try:
        with installer.standing():
            outcome = _do(run, installer, options, look_after)
    except KeyboardInterrupt:
        record.write(f"interrupted at {installer.at}")
        record.end_phases()
        _tell_interrupt(run, installer)
        raise
    except MeetingctlError as error:
        record.write(f"error: {error.message}")
        record.end_phases()
        if record.path.exists() and installer.at != CONNECTING:
            run.out.warn(f"stands at {installer.at}; log: {record.path}")
        raise
    finally:
        record.close()
    return _show(run, installer, outcome, options, record)


def _do(run: Invocation, installer: Installer, options: Options, look_after: LookAfter) -> Outcome:
    if options.check_only:
        return installer.look()
    if options.attach:
        return installer.attach()
    if options.dry_run:
        return installer.plan()
    outcome = installer.install()
    if not options.transfer_only:
        installer.verify(outcome)
        look_after(outcome)
    return outcome


def _show(run: Invocation, installer: Installer, outcome: Outcome, options: Options, record: InstallLog) -> int:
    from meetingctl.remote.recipes.plan import find_obstacles

    shown: dict[str, Any] = {"target": installer.name, "dry_run": options.dry_run, **outcome.as_json()}
    shown["changed"] = bool(outcome.steps) and not options.dry_run
    shown["obstacles"] = list(find_obstacles(outcome.facts, installer.job.wishes.bundle)) if options.check_only else []
    shown["log"] = str(record.path) if record.path.exists() else None
    if run.is_json:
        run.out.value(shown)
    elif options.check_only:
        run.out.record({**shown["device"], "obstacles": "; ".join(shown["obstacles"])})
    else:
        run.out.rows(shown["steps"], _STEP_COLUMNS, empty="nothing to do")
        for row in outcome.checks:
            run.out.note(f"{row['check']}: {_WORDS[row['ok']]}: {row['detail']}")
    if shown["log"] and not outcome.is_good:
        run.out.note(f"log: {record.path}")
    return 0 if outcome.is_good and not shown["obstacles"] else 1


def _tell_interrupt(run: Invocation, installer: Installer) -> None:
    """Say what goes on without us, and how to come back to it."""
    run.out.note(f"interrupted at {installer.at}")
    if installer.job.following:
        line = run.line("remote", "install", installer.name, "--attach")
        run.out.note(f"the installation goes on at {installer.name}; follow it with: {line}")
    run.out.note(f"go on with: {installer.again}")


class Phases:
    """Shows phases: a bar on a terminal, one line each elsewhere, nothing in the JSON formats."""

    def __init__(self, run: Invocation) -> None:
        self._out = run.out
        self._is_quiet = run.out.is_json or bool(run.options.get("quiet"))
        self._last, self._most = "", 0

    def show(self, percent: int, text: str) -> None:
        """Show one; below 0 stands for none. Steps come in the order of their needs, and the bar never goes back."""
        self._most = max(self._most, percent)
        name, before = text.partition(":")[0], self._last.partition(":")[0]
        if self._is_quiet or text == self._last:
            return
        self._last = text
        if self._out.err.isatty():
            self._draw(text, percent >= 0)
        elif name != before or percent < 0:
            self._out.note(f"{self._most:3d} % {text}" if percent >= 0 else text)

    def close(self) -> None:
        """End the line of the bar."""
        self._out.end_drawing()

    def _draw(self, text: str, has_bar: bool) -> None:
        bar = f"[{'#' * (self._most // 5):<20}] {self._most:3d} % " if has_bar else ""
        self._out.draw(f"{bar}{text[:120]}")


def _log_path(run: Invocation) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return run.places.cache_dir / "runs" / f"install-{stamp}-{os.getpid()}.log"
