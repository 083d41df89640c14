"""A private folder on the device for the time of a change, and requests to the far side from there."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import shlex
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import asyncssh
from asyncssh.sftp import start_sftp_client

from meetingctl.core.errors import InvalidInput, MeetingctlError, TransportLost
from meetingctl.remote.command import is_lost
from meetingctl.remote.sections import new_mark, sftp_line
from meetingctl.remote.visit import Privilege, Visit

_ANSWER_BYTES = 16 * 1024 * 1024
_CLEAN_UP_S = 10.0
_SFTP_S = 30.0
_OPEN_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108 - names of folders of the device, nothing is written there blindly


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder, only for the user who logged in, and the SFTP session that fills it."""

    visit: Visit
    folder: str
    sftp: asyncssh.SFTPClient
    program: str = "far.py"

    async def put(self, name: str, content: bytes) -> None:
        """Write one staged file. Raises: MeetingctlError, TransportLost."""
        with translated(self.visit, name):
            async with self.sftp.open(f"{self.folder}/{name}", "wb") as file:
                await file.write(content)
        self.visit.heard()

    async def put_file(self, name: str, path: Path) -> None:
        """Stage a local file, a piece at a time. Raises: MeetingctlError, TransportLost."""
        with translated(self.visit, str(path)):
            await self.sftp.put(str(path), f"{self.folder}/{name}", progress_handler=self._progress, block_size=1 << 16)
        self.visit.heard()

    def _progress(self, source: bytes, destination: bytes, done_bytes: int, total_bytes: int) -> None:
        self.visit.heard()

    async def request(self, request: Mapping[str, Any], *, privilege: Privilege) -> dict[str, Any]:
        """Let the far side work on files, and return its answer. Raises: AuthError, MeetingctlError with its reason."""
        await self.put("request.json", json.dumps({**request, "staging": self.folder}).encode())
        line = f"python3 -I {self.folder}/{PurePosixPath(self.program).name} {self.folder}/request.json"
        text = await self.visit.ask(line, privilege=privilege, cap_bytes=_ANSWER_BYTES)
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise MeetingctlError(f"{self.visit.target}: no answer that makes sense: {text[:80]!r}") from None
        if not isinstance(answer, dict) or "error" in answer:
            raise MeetingctlError(f"{self.visit.target}: {answer['error'] if isinstance(answer, dict) else text[:80]}")
        return answer


@contextlib.asynccontextmanager
async def open_staging(visit: Visit, program: str = "far.py") -> AsyncIterator[Staging]:
    """Make the folder, and remove it in the end; `program` is the module of this package that works there.

    Raises: MeetingctlError for a device without SFTP.
    """
    folder = (await visit.ask("umask 077; mktemp -d /tmp/meetingctl.XXXXXXXXXX")).strip()
    if not folder.startswith("/tmp/meetingctl."):  # noqa: S108
        raise MeetingctlError(f"{visit.target}: the login shell prints more than was asked for: {folder[:80]!r}")
    try:
        async with open_sftp(visit) as sftp:
            staging = Staging(visit, folder, sftp, program)
            content = importlib.resources.files(__package__).joinpath(program).read_bytes()
            await staging.put(PurePosixPath(program).name, content)
            yield staging
    finally:
        # A device that hangs must not hold up the end of its own deadline.
        with contextlib.suppress(MeetingctlError, TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_S):
                await visit.ask(f"rm -rf -- {shlex.quote(folder)}")


@contextlib.asynccontextmanager
async def open_sftp(visit: Visit) -> AsyncIterator[asyncssh.SFTPClient]:
    """Begin an SFTP session. Raises: MeetingctlError."""
    try:
        sftp = await _start_sftp(visit)
    except asyncssh.ChannelOpenError as exc:
        if is_lost(exc):
            raise TransportLost(f"{visit.target}: the connection was lost") from exc
        raise MeetingctlError(f"{visit.target}: no SFTP: {exc.reason}") from exc
    except (asyncssh.Error, OSError) as exc:
        raise MeetingctlError(f"{visit.target}: no SFTP: {exc}", hint="apt install openssh-sftp-server") from exc
    try:
        yield sftp
    finally:
        sftp.exit()


async def _start_sftp(visit: Visit) -> asyncssh.SFTPClient:
    """Begin an SFTP session, behind what the login shell prints where it prints. Raises: MeetingctlError."""
    try:
        return await visit.connection.start_sftp_client()
    except asyncssh.SFTPBadMessage:
        mark = new_mark()
        writer, reader, _ = await visit.connection.open_session(sftp_line(mark), encoding=None)
    try:
        async with asyncio.timeout(_SFTP_S):
            await reader.readuntil(f"{mark}\n".encode())
            return await start_sftp_client(
                visit.connection, asyncio.get_running_loop(), "strict", reader, writer, "utf-8", "strict", 3
            )
    except (asyncio.IncompleteReadError, TimeoutError, asyncssh.SFTPConnectionLost) as exc:
        writer.close()
        raise MeetingctlError(f"{visit.target}: no SFTP", hint="apt install openssh-sftp-server") from exc


@contextlib.contextmanager
def translated(visit: Visit, what: str) -> Any:
    """Turn errors of SFTP into ours."""
    try:
        yield
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ConnectionLost, ConnectionError) as exc:
        raise TransportLost(f"{visit.target}: the connection was lost at {what}") from exc
    except asyncssh.SFTPError as exc:
        raise MeetingctlError(f"{visit.target}: {what}: {exc.reason.lower()}") from exc
    except OSError as exc:
        raise MeetingctlError(f"{visit.target}: {exc.filename or what}: {(exc.strerror or str(exc)).lower()}") from exc


def privilege_for(path: str, user: str) -> Privilege:
    """Decide who changes a path: the user in the own home and in the folders that are open to all, else root. Pure.

    Raises: InvalidInput for a path that is not absolute.
    """
    pure = PurePosixPath(path)
    if path == "~" or path.startswith("~/"):
        return Privilege.none
    if not pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise InvalidInput(f"not a path on a device: {path[:140]!r}", hint="use an absolute path, or ~/NAME")
    own = (f"/home/{user}", *_OPEN_FOLDERS)
    return Privilege.none if any(pure.is_relative_to(folder) for folder in own) else Privilege.needed
