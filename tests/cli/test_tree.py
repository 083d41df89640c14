"""The command tree: help, examples, global options, what `--help` loads."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from meetingctl.cli import main as entry
from meetingctl.cli.tree import load_command, summary_of

from .runner import Cli

ABSENT_AT_HELP = (
    "fastapi",
    "sqlalchemy",
    "asyncssh",
    "httpx",
    "rich",
    "rich.table",
    "asyncio",
    "pydantic",
    "msgspec",
    "alembic",
    "uvicorn",
    "sqlite_utils",
    "logging",
    "meetingctl.client",
    "meetingctl.core.settings",
    "meetingctl.cli.fleet",
)


def leaves() -> dict[str, Any]:
    """Return every command that runs, by its path."""
    return dict(_walk([], entry.root_command(), None))


def _walk(path: list[str], command: Any, parent: Any) -> Iterator[tuple[str, Any]]:
    ctx = command.context_class(command, info_name=path[-1] if path else "meetingctl", parent=parent)
    if not hasattr(command, "list_commands"):
        yield " ".join(path), command
        return
    for name in command.list_commands(ctx):
        yield from _walk([*path, name], command.get_command(ctx, name), ctx)


LEAVES = leaves()


def examples_of(command: Any) -> list[str]:
    _, _, block = command.help.partition("Examples:\n")
    return [line.strip() for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("path", LEAVES)
def test_each_command_has_help_that_shows_how(path: str) -> None:
    command = LEAVES[path]
    first = summary_of(command)
    assert re.fullmatch(r"[A-Z].*\.", first), first
    assert len(first) <= 110
    examples = examples_of(command)
    assert any(f"meetingctl {path}" in line for line in examples), examples
    for param in command.params:
        assert param.help, f"{path}: {param.name} has no help"


def own_words(line: str) -> list[str]:
    """Return the words after `meetingctl` in a line of shell: without pipes before it and redirections after it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split = True
    words = list(lexer)
    words = words[words.index("meetingctl") + 1 :]
    ends = [index for index, word in enumerate(words) if word in {"<", ">", "|"}]
    return words[: ends[0]] if ends else words


@pytest.mark.parametrize(("path", "line"), [(path, line) for path in LEAVES for line in examples_of(LEAVES[path])])
def test_each_example_parses(path: str, line: str) -> None:
    words = own_words(line)
    root = entry.root_command()
    ctx = root.make_context("meetingctl", words)
    command: Any = root
    while hasattr(command, "get_command"):
        _, command, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        ctx = command.make_context(command.name, rest, parent=ctx)
    assert ctx.command_path.startswith("meetingctl ")


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_the_summary_in_the_table_is_that_of_the_command(name: str) -> None:
    row = entry.COMMANDS[name]
    assert summary_of(load_command(name, row)) == row.summary


@pytest.mark.parametrize("path", ["", *LEAVES])
def test_help_works_everywhere_and_names_the_global_options(path: str, cli: Cli) -> None:
    result = cli(*path.split(), "--help")
    assert result.code == 0
    assert result.err == ""
    assert result.out.startswith(f"Usage: meetingctl {path}".rstrip())
    assert "--profile" in result.out
    assert "\x1b" not in result.out
    assert cli(*path.split(), "-h").out == result.out


@pytest.mark.parametrize("args", [["--json", "config", "get", "mode"], ["config", "--json", "get", "mode"]])
def test_global_options_count_at_every_level(args: list[str], cli: Cli) -> None:
    expected = cli("config", "get", "mode", "--json")
    assert expected.json["value"] == "compat"
    assert cli(*args).out == expected.out


def test_the_last_of_two_global_options_wins(cli: Cli) -> None:
    assert cli("-o", "json", "config", "get", "mode", "-o", "plain").out == "compat\n"


def test_a_commands_own_option_hides_the_global_one(cli: Cli, tmp_path: Any) -> None:
    result = cli("tunnel", "agent", "--config", str(tmp_path / "meeting.json"))
    assert (result.code, "meeting.json" in result.err) == (78, True)


def test_quiet_and_verbose(cli: Cli) -> None:
    assert cli("config", "set", "timeout_s", "3").err != ""
    assert cli("config", "set", "timeout_s", "4", "-q").err == ""
    assert cli("config", "get", "log_level", "-v").out == "info\n"
    assert cli("config", "get", "log_level", "-vv").out == "debug\n"


def test_version(cli: Cli) -> None:
    from meetingctl import __version__

    assert cli("--version").out == f"meetingctl {__version__}\n"
    facts = cli("version", "--json").json
    assert facts["version"] == __version__
    assert facts["json_schema"] == 1


def test_help_topics(cli: Cli) -> None:
    topics = [line.split("\t")[0] for line in cli("help").out.splitlines()]
    assert "exit-codes" in topics
    for topic in topics:
        assert cli("help", topic).code == 0
    assert cli("help", "config", "set").out == cli("config", "set", "--help").out
    assert cli("help", "nonsense").code == 2


def test_help_loads_nothing_heavy(cli: Cli) -> None:
    program = (
        "import sys\n"
        "from meetingctl.cli import main\n"
        "sys.argv = ['meetingctl', '--help']\n"
        "try:\n    main.main()\n"
        f"finally:\n    print([name for name in {ABSENT_AT_HELP!r} if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env=cli.environment(), capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert result.stderr == "[]\n"


def test_the_program_runs_as_a_module(cli: Cli) -> None:
    result = cli.process("--version")
    assert (result.returncode, result.stdout.split()[0]) == (0, "meetingctl")
