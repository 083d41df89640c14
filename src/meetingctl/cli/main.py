"""The `meetingctl` command: the table of commands, the environment, and the one place where errors become text.

To add a command: write `cli/NOUN.py` with `app = Noun()` and functions under `@app.command("VERB")` (or one function
under `@verb("NAME")`), then add one row to `COMMANDS`. Take `ctx: typer.Context`, get `run = of(ctx)`, call the domain
function, print with `run.out`. Import anything heavy inside the function. Raise leaves of `core/errors.py` and never
print an error. The docstring is the help: one line, then `Examples:` with lines that run. `make docs`
renews the generated files.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_group

from meetingctl import __version__
from meetingctl.cli.invocation import Invocation
from meetingctl.cli.tree import Entry, LazyGroup
from meetingctl.core.errors import MeetingctlError, UsageError

COMMANDS = {
    "demo": Entry("meetingctl.cli.demo:demo", "Run a fleet of one device on this machine, to try everything out."),
    "login": Entry("meetingctl.cli.account:login", "Store the API key of a server."),
    "logout": Entry("meetingctl.cli.account:logout", "Forget the stored API key."),
    "whoami": Entry("meetingctl.cli.account:whoami", "Show who the server takes you for."),
    "version": Entry("meetingctl.cli.about:version", "Show the version of meetingctl and of what it stands on."),
    "doctor": Entry("meetingctl.cli.doctor:doctor", "Check this installation and its connection to the server."),
    "help": Entry("meetingctl.cli.about:help_topic", "Explain a topic or a command."),
    "config": Entry("meetingctl.cli.config:app", "Read and change the settings."),
    "completion": Entry("meetingctl.cli.completion:app", "Complete commands with the Tab key of a shell."),
    "serve": Entry("meetingctl.cli.serve:app", "Run the server on this machine."),
    "tunnel": Entry("meetingctl.cli.tunnel:app", "Open and watch reverse tunnels to devices."),
    "remote": Entry("meetingctl.cli.remote:app", "Reach a device over SSH."),
    "fleet": Entry("meetingctl.cli.fleet:app", "Keep the server's records of devices."),
    "builder": Entry("meetingctl.cli.builder:app", "Build archives for devices, and publish them."),
    "user": Entry("meetingctl.cli.user:app", "Keep the accounts of people."),
    "token": Entry("meetingctl.cli.token:app", "Make and revoke API keys."),
    "role": Entry("meetingctl.cli.role:app", "See what each role may do."),
    "audit": Entry("meetingctl.cli.audit:app", "See who did what."),
    "device": Entry("meetingctl.cli.device:app", "Look after the camera on this machine."),
    "db": Entry("meetingctl.cli.db:app", "Look after the server's database on this machine."),
}

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Root(LazyGroup):
    """`meetingctl` itself."""

    entries = COMMANDS


def _print_version(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        typer.echo(f"meetingctl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="show the version", is_eager=True, expose_value=False, callback=_print_version),
    ] = False,
) -> None:
    """Run a fleet of Raspberry Pi cameras behind NAT.

    Examples:
      meetingctl login --server-url https://fleet.example.org
      meetingctl doctor
      meetingctl help exit-codes
    """


def root_command() -> Any:
    """Build the root of the command tree; the commands below it load when they are called."""
    app = typer.Typer(
        cls=Root,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(options_metavar="[OPTIONS]")(_root)
    return get_group(app)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:], os.environ))


def run(args: Sequence[str], env: Mapping[str, str]) -> int:
    """Run one command line and return its exit code. Every error of every command ends here."""
    invocation = Invocation(env, tuple(args))
    try:
        code = _dispatch(args, invocation)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except MeetingctlError as error:
        return _report(invocation, error)
    except typer.TyperException as error:
        return _report(invocation, _usage_error(error, args))
    except OSError as error:
        if error.filename is None:
            return _report_bug(invocation, error)
        return _report(invocation, _file_error(error))
    except Exception as error:
        return _report_bug(invocation, error)


def _dispatch(args: Sequence[str], invocation: Invocation) -> int:
    root = root_command()
    try:
        with root.make_context("meetingctl", list(args), obj=invocation) as ctx:
            result = root.invoke(ctx)
    except typer.Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else 0


# What Typer's parser says -> what we say.
_REWORDED = (
    (re.compile(r"Input should be a valid integer.*"), "not a whole number"),
    (re.compile(r"Input should be a valid number.*"), "not a number"),
    (re.compile(r"Input should be greater than or equal to (\S+)"), r"must be at least \1"),
    (re.compile(r"Input should be less than or equal to (\S+)"), r"must be at most \1"),
    (re.compile(r"Value error, "), ""),
)
_NEAR = re.compile(r"(.*)\. Did you mean '([\w-]+)'\?")


def _usage_error(error: typer.TyperException, args: Sequence[str]) -> MeetingctlError:
    """Put Typer's complaint into our form, with the command's help as the hint."""
    from meetingctl.cli.hints import find_command

    text = " ".join(error.format_message().split()).rstrip(".")
    for pattern, words in _REWORDED:
        text = pattern.sub(words, text)
    context = getattr(error, "ctx", None)
    path = context.command_path if context else " ".join(["meetingctl", *find_command(root_command(), args)[0]])
    if near := _NEAR.fullmatch(text):
        text, path = near[1], f"{path} {near[2]}"
    return UsageError(text[:1].lower() + text[1:], hint=f"{path} --help")


def _file_error(error: OSError) -> MeetingctlError:
    """Say what is wrong with a file, and look at it, or at the folder when it is not there."""
    path = Path(os.fsdecode(error.filename))
    seen = path.parent if isinstance(error, FileNotFoundError) else path
    text = f"{path}: {(error.strerror or str(error)).lower()}"
    return MeetingctlError(text, hint=f"ls -ld {shlex.quote(str(seen))}")


def _report(invocation: Invocation, error: MeetingctlError) -> int:
    try:
        if error.hint:
            error.hint = invocation.complete(error.hint)
        invocation.error_out.fail(error)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    return error.exit_code


def _report_bug(invocation: Invocation, error: Exception) -> int:
    """Keep the traceback in a file, and name the file."""
    from meetingctl.cli.crash import write_crash_report

    path = write_crash_report(invocation.places.cache_dir, error, invocation.argv)
    kind = type(error).__name__
    where = f"see {path}" if path else "the report could not be written; run again with PYTHONFAULTHANDLER=1"
    return _report(invocation, MeetingctlError(f"unexpected {kind}: this is a fault of meetingctl", hint=where))


def _drop_output() -> None:
    """Let the interpreter's last flush go nowhere, because nobody reads any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
