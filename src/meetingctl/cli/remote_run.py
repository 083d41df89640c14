"""`meetingctl remote run`: one command on one device, or on a thousand."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_many import (
    AllOption,
    AskPassword,
    Deadline,
    FailFast,
    IdentityOption,
    Idle,
    Limit,
    MaxFail,
    Parallel,
    PasswordFile,
    PrefixedLines,
    Retries,
    RetryFrom,
    Targets,
    UserOption,
    ViaOption,
    Way,
    choose_targets,
    make_limits,
    open_access,
    read_password,
    read_targets,
    retry_line,
    route_json,
    run_many,
)
from meetingctl.cli.signals import run_async

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.fanout import Act, Done, Heard

MAX_SCRIPT_BYTES = 64 * 1024


def run_on_devices(
    ctx: typer.Context,
    targets: Targets = None,
    everything: AllOption = False,
    sudo: Annotated[bool, typer.Option("--sudo", help="run it as root")] = False,
    script: Annotated[
        Path | None, typer.Option("--script", metavar="FILE", help="run this local script, CMD are its arguments")
    ] = None,
    user: UserOption = None,
    identity: IdentityOption = None,
    ask_password: AskPassword = False,
    password_file: PasswordFile = None,
    via: ViaOption = Way.auto,
    parallel: Parallel = 50,
    limit: Limit = None,
    fail_fast: FailFast = False,
    max_fail: MaxFail = None,
    retries: Retries = 2,
    retry_from: RetryFrom = None,
    deadline: Deadline = "0",
    idle: Idle = "0",
    dry_run: DryRun = False,
) -> int:
    """Run a command on one device and return its exit code, or on many at once.

    One word after the dashes is a line for the remote shell; several words reach the command as they are. The
    command's standard input is empty. From one device the output is passed on byte for byte; from several each line
    begins with the device, and a summary ends the run. In the JSON formats the first MiB of each output stands in the
    result, one object for each device.

    A device that is not reached is tried again; what has begun is never begun twice.

    Exit code: of one device that of the remote command, 255 when the connection is lost, 69 when it cannot be reached,
    4 when the login or the host key is refused. Of several: 0 when all went well, 3 when some failed, 69 when none was
    reached.

    Examples:
      meetingctl remote run demo-cam -- uname -a
      meetingctl remote run demo-cam -- 'dmesg | tail -n 3'
      meetingctl remote run cam-1 cam-2 --sudo --parallel 20 -- systemctl restart ssh
      meetingctl remote run --all --script collect.sh --max-fail 10 -- --quick
    """
    run = of(ctx)
    run.set_options(ssh_user=user, ssh_identity=identity)
    command = _make_command(script, ctx.meta.get("rest"))
    named = read_targets(run, targets, everything=everything)
    limits = make_limits(
        parallel=parallel, fail_fast=fail_fast, max_fail=max_fail, retries=retries, deadline=deadline, idle=idle
    )
    chosen = choose_targets(run, named, limit=limit, retry_from=retry_from)
    if dry_run:
        return _tell_plan(run, chosen, command, sudo)
    password = read_password(run, ask_password, password_file)
    from meetingctl.remote.selection import is_single

    with open_access(run, chosen, password) as access:
        if is_single(named):
            return _run_on_one(run, access, chosen[0], command, sudo, via.value)
        act = _act_to_json(access, command, sudo, via.value)
        if not run.is_json:
            act = _act_to_lines(access, command, sudo, via.value, width=max(len(str(target)) for target in chosen))
        return run_many(run, chosen, act, limits, again=retry_line(run))


def _make_command(script: Path | None, rest: Sequence[str] | None) -> list[str]:
    """Return the words to run. Raises: UsageError without a command, InvalidInput for a script that is too long."""
    from meetingctl.core.errors import UsageError

    if script is None:
        if not rest:
            raise UsageError("missing command", hint="put it after two dashes: meetingctl remote run TARGET -- uptime")
        return list(rest)
    from meetingctl.core.paths import read_small_text
    from meetingctl.remote.command import script_line

    return [script_line(read_small_text(script, limit_bytes=MAX_SCRIPT_BYTES), rest or ())]


def _tell_plan(run: Invocation, targets: Sequence[Target], command: Sequence[str], sudo: bool) -> int:
    from meetingctl.remote.command import join_command

    line = join_command(command)
    rows = [{"target": str(target), "command": line, "sudo": sudo} for target in targets]
    run.out.rows(rows, ("target", "command", "sudo"), empty="no target")
    return 0


def _run_on_one(run: Invocation, access: Access, target: Target, command: list[str], sudo: bool, via: Any) -> int:
    from meetingctl.remote.command import CappedOutput

    if not run.is_json:
        _, outcome = run_async(
            access.run(
                target,
                command,
                stdout=_raw_writer(sys.stdout),
                stderr=_raw_writer(sys.stderr),
                with_sudo=sudo,
                via=via,
            )
        )
        return outcome.exit_code
    out, err = CappedOutput(), CappedOutput()
    route, outcome = run_async(access.run(target, command, stdout=out.write, stderr=err.write, with_sudo=sudo, via=via))
    run.out.value(
        {
            "ok": outcome.exit_code == 0,
            "target": str(target),
            "route": route_json(route),
            "exit_code": outcome.exit_code,
            "duration_s": round(outcome.duration_s, 3),
            **_output_json(out, err),
        }
    )
    return outcome.exit_code


def _output_json(out: Any, err: Any) -> dict[str, Any]:
    return {"stdout": out.text, "stderr": err.text, "stdout_is_cut": out.is_cut, "stderr_is_cut": err.is_cut}


def _act_to_json(access: Access, command: list[str], sudo: bool, via: Any) -> Act:
    async def act(target: Target, heard: Heard) -> Done:
        from meetingctl.remote.command import CappedOutput
        from meetingctl.remote.fanout import Done

        out, err = CappedOutput(), CappedOutput()
        route, outcome = await access.run(
            target,
            command,
            stdout=_hearing(out.write, heard),
            stderr=_hearing(err.write, heard),
            with_sudo=sudo,
            via=via,
            began=heard,
        )
        return Done(outcome.exit_code, {"route": route_json(route), **_output_json(out, err)})

    return act


def _act_to_lines(access: Access, command: list[str], sudo: bool, via: Any, *, width: int) -> Act:
    from meetingctl.cli.output import printable

    lock = threading.Lock()

    def keep(text: str) -> str:
        return text

    async def act(target: Target, heard: Heard) -> Done:
        from meetingctl.remote.fanout import Done

        prefix = f"{str(target).ljust(min(width, 32))} | "
        streams = [
            PrefixedLines(stream, prefix, lock, clean=printable if stream.isatty() else keep)
            for stream in (sys.stdout, sys.stderr)
        ]
        try:
            _, outcome = await access.run(
                target,
                command,
                stdout=_hearing(streams[0].write, heard),
                stderr=_hearing(streams[1].write, heard),
                with_sudo=sudo,
                via=via,
                began=heard,
            )
        finally:
            for stream in streams:
                stream.close()
        return Done(outcome.exit_code)

    return act


def _hearing(write: Callable[[bytes], object], heard: Heard) -> Callable[[bytes], object]:
    def write_and_tell(chunk: bytes) -> None:
        write(chunk)
        heard()

    return write_and_tell


def _raw_writer(stream: Any) -> Callable[[bytes], None]:
    def write(chunk: bytes) -> None:
        stream.buffer.write(chunk)
        stream.buffer.flush()

    return write
