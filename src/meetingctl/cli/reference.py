"""docs/cli.md: every command with its help, written from the command tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_HEAD = """\
# Commands

Made from the command tree by `make docs`; a test keeps it fresh. Every command also takes the global options, before or
after its name, and has the same text under `--help`.
"""


def render_reference(root: Any) -> str:
    """Write the reference of all commands in Markdown. Loads every command module."""
    ctx = root.context_class(root, info_name="meetingctl", **(root.context_settings | _FIXED_WIDTH))
    parts = [_HEAD, _section("meetingctl", ctx)]
    parts += [_section(path, child) for path, child in _walk(ctx)]
    return "\n".join(parts)


_FIXED_WIDTH = {"terminal_width": 100, "color": False}


def _walk(ctx: Any) -> Iterator[tuple[str, Any]]:
    command = ctx.command
    if not hasattr(command, "list_commands"):
        return
    for name in command.list_commands(ctx):
        child = command.get_command(ctx, name)
        if not child.hidden:
            below = type(ctx)(child, info_name=name, parent=ctx)
            yield below.command_path, below
            yield from _walk(below)


def _section(path: str, ctx: Any) -> str:
    depth = min(len(path.split()) + 1, 4)
    own = ctx.get_help().partition("\nAlso: ")[0]
    text = "\n".join(line.rstrip() for line in own.rstrip().splitlines())
    return f"{'#' * depth} {path}\n\n```text\n{text}\n```\n"
