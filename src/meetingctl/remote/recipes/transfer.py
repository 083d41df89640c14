"""A large file to a device, sent on from where an earlier try ended."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable
from pathlib import Path

from meetingctl.core.errors import MeetingctlError
from meetingctl.remote.recipes.link import Link

CHUNK_BYTES = 32 * 1024
CHECK_S = 300.0
PARTIAL = ".part"

Sent = Callable[[int, int], object]


def check_line(folder: str, name: str, sha256: str) -> str:
    """Write the line that says what lies there: `whole`, or the size of the partial file, or 0."""
    whole, part = (shlex.quote(posixpath.join(folder, file)) for file in (name, name + PARTIAL))
    return (
        f"if echo {sha256}'  '{whole} | sha256sum --check --status 2>/dev/null; then echo whole; "
        f"else stat -c %s {part} 2>/dev/null || echo 0; fi"
    )


def send_file(link: Link, source: Path, folder: str, name: str, *, sha256: str, sent: Sent) -> None:
    """Send a file and check it there; `sent` is told how many bytes have arrived, and of how many.

    What an earlier try left is continued, and other packages there are thrown away. When the whole is not what was
    sent, it is sent once more from its start.
    Raises: TransportLost, MeetingctlError.
    """
    others = f"-maxdepth 1 -type f -name '*.tar.gz*' ! -name {shlex.quote(f'{name}*')} -delete"
    link.ask(f"umask 077; mkdir -p -- {shlex.quote(folder)} && find {shlex.quote(folder)} {others}")
    for start in (_partial_size(link, source, folder, name), 0):
        _send_from(link, source, posixpath.join(folder, name + PARTIAL), start, sent)
        if _finish(link, folder, name, sha256):
            return
    raise MeetingctlError(f"{link.target}: {name} was damaged on the way, twice", hint="check the disk of the device")


def _partial_size(link: Link, source: Path, folder: str, name: str) -> int:
    line = f"stat -c %s {shlex.quote(posixpath.join(folder, name + PARTIAL))} 2>/dev/null || echo 0"
    text = link.ask(line).strip()
    size = int(text) if text.isdigit() else 0
    return size if size <= source.stat().st_size else 0


def _send_from(link: Link, source: Path, path: str, start: int, sent: Sent) -> None:
    total = source.stat().st_size
    sent(start, total)
    with link.translated(path), source.open("rb") as here, link.sftp().open(path, "r+b" if start else "wb") as there:
        there.set_pipelined(True)
        here.seek(start)
        there.seek(start)
        done = start
        while chunk := here.read(CHUNK_BYTES):
            there.write(chunk)
            done += len(chunk)
            sent(done, total)


def _finish(link: Link, folder: str, name: str, sha256: str) -> bool:
    """Compare the file there and give it its name; one that is not right is thrown away."""
    whole, part = (shlex.quote(posixpath.join(folder, file)) for file in (name, name + PARTIAL))
    line = (
        f"if echo {sha256}'  '{part} | sha256sum --check --status; then mv -f -- {part} {whole}; "
        f"else rm -f -- {part}; echo no; fi"
    )
    return link.ask(line, within_s=CHECK_S).strip() != "no"
