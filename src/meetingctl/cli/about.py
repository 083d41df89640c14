"""`version` and `help`: what this is, and how it thinks."""

from __future__ import annotations

import platform
import sys
from typing import Annotated, Any

import typer

from meetingctl import __version__
from meetingctl.cli.invocation import of
from meetingctl.cli.tree import verb

# Raised when the shape of any command's JSON changes in a way that breaks a reader.
JSON_SCHEMA = 1


@verb("version")
def version(ctx: typer.Context) -> None:
    """Show the version of meetingctl and of what it stands on.

    Examples:
      meetingctl version
      meetingctl version --json
    """
    import sqlite3

    facts = {
        "version": __version__,
        "json_schema": JSON_SCHEMA,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": f"{sys.platform} {platform.machine()}",
    }
    run = of(ctx)
    if run.out.is_json:
        run.out.value(facts)
    else:
        run.out.text(f"meetingctl {__version__} (Python {facts['python']}, SQLite {facts['sqlite']})")


@verb("help")
def help_topic(
    ctx: typer.Context,
    topic: Annotated[list[str], typer.Argument(metavar="TOPIC...", help="a topic or a command")] = [],  # noqa: B006
) -> None:
    """Explain a topic or a command.

    Without a topic it lists them.

    Examples:
      meetingctl help
      meetingctl help exit-codes
      meetingctl help config set
    """
    from meetingctl.cli.topics import TOPICS

    run = of(ctx)
    if not topic:
        rows = [{"topic": name, "summary": text.partition("\n")[0]} for name, text in TOPICS.items()]
        run.out.rows(rows, ("topic", "summary"), empty="no topics")
    elif len(topic) == 1 and topic[0] in TOPICS:
        run.out.value({"topic": topic[0], "text": TOPICS[topic[0]]}, text=TOPICS[topic[0]])
    else:
        run.out.value({"topic": " ".join(topic), "text": (text := _command_help(ctx, topic))}, text=text)


def _command_help(ctx: typer.Context, words: list[str]) -> str:
    from meetingctl.core.errors import UsageError

    current: Any = ctx.find_root()
    for word in words:
        command = current.command.get_command(current, word) if hasattr(current.command, "get_command") else None
        if command is None:
            raise UsageError(f"no topic and no command {' '.join(words)[:80]!r}", hint="meetingctl help")
        current = type(current)(command, info_name=word, parent=current)
    return str(current.get_help())
