"""One script that asks a device many things, and its output taken apart again: one round trip instead of many."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping

COMMAND_S = 10


def new_mark() -> str:
    """Return the text that begins the lines between sections; no device can know it beforehand."""
    return f"@@{secrets.token_hex(8)}"


def sections_line(commands: Mapping[str, str], mark: str, *, command_s: int = COMMAND_S) -> str:
    """Write the line of shell that runs each command, a line of shell itself, and puts its name before its output.

    A command that is missing, fails, or takes longer than `command_s` leaves its section empty or short; its errors
    are dropped.
    """
    lines = ['export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"']
    for name, command in commands.items():
        lines.append(f"printf '\\n%s %s\\n' {mark} {shlex.quote(name)}")
        lines.append(f"timeout -k 2 {command_s} sh -c {shlex.quote(command)} </dev/null 2>/dev/null")
    lines += [f"printf '\\n%s end\\n' {mark}", "exit 0"]
    return "\n".join(lines)


def split_sections(text: str, mark: str) -> dict[str, str]:
    """Take the output apart: name -> output. Whatever stands before the first mark is left out."""
    found: dict[str, str] = {}
    for part in text.split(f"\n{mark} ")[1:]:
        name, _, output = part.partition("\n")
        found[name] = output
    found.pop("end", None)
    return found
