"""Marks in what a device writes: where an answer begins, and the parts of one that tells many things in one round trip.

The start files of a login shell may print before any command; what they print is told from the answer by a mark.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping

COMMAND_S = 10
# Of the distributions that a device may run; a server that is part of sshd itself needs no such file.
_SFTP_FOLDERS = "/usr/lib/openssh /usr/libexec/openssh /usr/lib/ssh /usr/libexec"


def new_mark() -> str:
    """Return the text of a mark; no device can know it beforehand."""
    return f"@@{secrets.token_hex(8)}"


def marked_line(line: str, mark: str) -> str:
    """Write the line of shell that says the mark before it does anything else. Pure."""
    return f"echo {mark}\n{line}"


def after_mark(text: str, mark: str) -> str:
    """Return what came after the mark, or everything when it never came: the line could not even begin. Pure."""
    _, found, answer = text.partition(f"{mark}\n")
    return answer if found else text


def sftp_line(mark: str) -> str:
    """Write the line that starts an SFTP server after a mark, for a shell that prints into the usual session. Pure.

    Where there is no such server the mark never comes.
    """
    search = f'for d in {_SFTP_FOLDERS}; do [ -x "$d/sftp-server" ] && echo {mark} && exec "$d/sftp-server"; done'
    return f"exec sh -c {shlex.quote(search)}"


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
