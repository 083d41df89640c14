"""Files of an update into a folder of the user on the device, each under its SHA-256, going on where a try ended."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence

import asyncssh

from meetingctl.core.errors import MeetingctlError
from meetingctl.remote.staging import open_sftp, translated
from meetingctl.remote.update.plan import PARTIAL
from meetingctl.remote.update.source import SourceFile
from meetingctl.remote.visit import Visit

CHUNK_BYTES = 256 * 1024

Sent = Callable[[int], object]


async def find_uploads_folder(visit: Visit) -> str:
    """Make the folder for uploads, for the user alone, and return where it is."""
    line = 'umask 077; d="${XDG_CACHE_HOME:-$HOME/.cache}/meetingctl/updates"; mkdir -p -- "$d" && realpath -- "$d"'
    folder = (await visit.ask(line)).strip()
    if not folder.startswith("/") or "\n" in folder:
        raise MeetingctlError(f"{visit.target}: the login shell prints more than was asked for: {folder[:80]!r}")
    return folder


async def upload_files(
    visit: Visit, folder: str, files: Sequence[SourceFile], uploads: Mapping[str, int], sent: Sent
) -> None:
    """Send files; `uploads` are the sizes of what lies there, `sent` hears of bytes as they leave.

    Raises: TransportLost, MeetingctlError.
    """
    async with open_sftp(visit) as sftp:
        for file in files:
            with translated(visit, file.name):
                await _send(visit, sftp, folder, file, partial_bytes(file, uploads), sent)


def partial_bytes(file: SourceFile, uploads: Mapping[str, int]) -> int:
    """Return how much of a file was sent before. Pure."""
    size_bytes = uploads.get(f"{file.sha256}{PARTIAL}", 0)
    return size_bytes if size_bytes <= file.size_bytes else 0


async def _send(
    visit: Visit, sftp: asyncssh.SFTPClient, folder: str, file: SourceFile, start_bytes: int, sent: Sent
) -> None:
    whole = posixpath.join(folder, file.sha256)
    async with sftp.open(f"{whole}{PARTIAL}", "r+b" if start_bytes else "wb") as there:
        with file.path.open("rb") as here:
            here.seek(start_bytes)
            offset_bytes = start_bytes
            while chunk := here.read(CHUNK_BYTES):
                await there.write(chunk, offset_bytes)
                offset_bytes += len(chunk)
                sent(len(chunk))
                visit.heard()
    await sftp.posix_rename(f"{whole}{PARTIAL}", whole)
