"""Every command line and every setting that the documents name exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer

from meetingctl.cli.hints import find_command
from meetingctl.cli.main import root_command
from meetingctl.core.errors import UsageError
from meetingctl.core.settings import ENV_PREFIX, ENV_RESERVED, setting_infos

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "packaging/README.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(meetingctl [^`\n]+)`")
BEFORE_THE_PROGRAM = re.compile(r"sudo|\$|ExecStart=|[A-Z][A-Z0-9_]*=\S*")


def commands_in(line: str) -> Iterator[list[str]]:
    """Yield the words after each `meetingctl` that a line of shell, or of a unit, runs."""
    line = re.sub(r"\$\([^)]*\)", "X", line.replace("ExecStart=", ""))
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>&;")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return
    part: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("|<>&;"):
            while part and BEFORE_THE_PROGRAM.fullmatch(part[0]):
                part.pop(0)
            if part and Path(part[0]).name == "meetingctl":
                yield part[1:]
            part = []
        else:
            part.append(word)


def fenced_commands(text: str) -> list[list[str]]:
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    return [words for line in lines for words in commands_in(line)]


def spans(text: str) -> list[list[str]]:
    """Return the commands that prose names; `ssh\\|run` stands for one command each."""
    named = []
    for span in SPAN.findall(FENCE.sub("", text)):
        words = [word.split("\\|") for word in span.split()[1:] if word != "…"]
        named += [list(choice) for choice in product(*words)]
    return named


def parse(words: list[str]) -> None:
    """Parse a whole command line as the program would. Raises what the parser raises."""
    root = root_command()
    ctx: Any = root.make_context("meetingctl", words)
    command: Any = root
    while hasattr(command, "get_command"):
        _, command, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        ctx = command.make_context(command.name, rest, parent=ctx)


def check_named(words: list[str]) -> None:
    """Check that a command and its options exist; what prose leaves out may be missing."""
    while words and words[0].startswith("--"):
        words = words[2:]
    path, command = find_command(root_command(), words)
    assert path or not words, f"no command {words}"
    is_group = hasattr(command, "list_commands")
    rest = words[len(path) :]
    assert not (is_group and rest), f"no command {words}"
    known = {name for param in command.params for name in param.opts} | {"--help", "--json", "--profile"}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, words


def _cases(find: Any) -> list[Any]:
    return [
        pytest.param(words, id=f"{path.name}: {' '.join(words)}")
        for path in DOCUMENTS
        for words in find(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("words", _cases(fenced_commands))
def test_each_line_to_copy_parses(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", _cases(spans))
def test_each_command_in_prose_exists(words: list[str]) -> None:
    check_named(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_setting_exists(path: Path) -> None:
    named = set(re.findall(rf"\b{ENV_PREFIX}[A-Z0-9_]*[A-Z0-9]\b(?![_*])", path.read_text(encoding="utf-8")))
    infos = setting_infos()
    keys = {name.removeprefix(ENV_PREFIX).lower() for name in named - ENV_RESERVED}
    assert {key for key in keys if key not in infos and key.removesuffix("_file") not in infos} == set()


def test_the_documents_hold_commands_at_all() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(fenced_commands(readme)) >= 7
    assert len(spans(readme)) >= 7


@pytest.mark.parametrize(
    "line",
    [
        "meetingctl serve all --bind 0.0.0.0",
        "meetingctl fleet lits",
        "$ sudo meetingctl fleet list surplus   # comment",
        "KEY=x .venv/bin/meetingctl audit list | meetingctl audit copy",
        "ExecStart=/opt/meetingctl/bin/meetingctl tunnel agnt",
    ],
)
def test_a_wrong_line_is_found(line: str) -> None:
    with pytest.raises((typer.TyperException, UsageError)):
        list(map(parse, commands_in(line)))


@pytest.mark.parametrize(
    "span", ["`meetingctl fleet lits`", "`meetingctl remote ssh\\|rum X`", "`meetingctl login --key`"]
)
def test_a_wrong_word_in_prose_is_found(span: str) -> None:
    with pytest.raises(AssertionError):
        list(map(check_named, spans(span)))
