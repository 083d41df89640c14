"""Copy files to and from one device over SFTP; what arrives is whole or not there."""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from meetingctl.core.errors import Conflict, InvalidInput, MeetingctlError, NotFound, TooLarge, UsageError
from meetingctl.core.target import AddressTarget, DeviceTarget, Target, parse_target
from meetingctl.remote.staging import open_sftp, translated
from meetingctl.remote.visit import Visit

MAX_ENTRIES = 100_000
Sent = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Place:
    """One side of a copy; `target` is None on this machine."""

    target: Target | None
    path: str


def parse_place(text: str) -> Place:
    """Read `PATH` or `TARGET:PATH`; in `pi@host:2222:/x` the number is the port. Pure.

    A slash before the colon makes it a path here. Raises: UsageError for a selector of many devices.
    """
    ends = [index for index, letter in enumerate(text) if letter == ":" and "/" not in text[:index]]
    for end in reversed(ends):
        with contextlib.suppress(InvalidInput):
            target = parse_target(text[:end])
            if not isinstance(target, DeviceTarget | AddressTarget):
                raise UsageError(f"{target}: copies go to one device", hint="use meetingctl remote deploy for many")
            if text[end + 1 :]:
                return Place(target, text[end + 1 :])
            return Place(target, ".")
    return Place(None, text)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file or folder below the source; `name` is relative, empty for the source itself."""

    name: str
    is_folder: bool
    size_bytes: int
    mode: int


async def upload(visit: Visit, source: Path, destination: str, sent: Sent) -> str:
    """Copy a file or folder to the device; return where it is there.

    Into a folder that exists it goes under its own name. A file takes the place of another; a folder of none.
    Raises: NotFound, Conflict, MeetingctlError, TransportLost.
    """
    entries = _list_local(source)
    async with open_sftp(visit) as sftp:
        with translated(visit, destination):
            if destination.endswith("/") or await sftp.isdir(destination):
                destination = posixpath.join(destination, _name_of(source))
            if entries[0].is_folder and await sftp.lexists(destination):
                raise Conflict(
                    f"{visit.target}:{destination}: is there already", hint="meetingctl remote deploy --help"
                )
            temporary = _beside(destination)
            try:
                for entry in entries:
                    place = posixpath.join(temporary, entry.name) if entry.name else temporary
                    if entry.is_folder:
                        await sftp.mkdir(place)
                    else:
                        await sftp.put(
                            str(source / entry.name), place, progress_handler=_counter(visit, sent), block_size=1 << 16
                        )
                        await sftp.chmod(place, entry.mode)
                await sftp.posix_rename(temporary, destination)
            except BaseException:
                with contextlib.suppress(asyncssh.Error, OSError):
                    await (sftp.rmtree(temporary) if entries[0].is_folder else sftp.remove(temporary))
                raise
    return destination


async def download(visit: Visit, source: str, destination: Path, sent: Sent) -> Path:
    """Copy a file or folder from the device; return where it is here.

    Links and special files of a folder are left out: they could lead anywhere here. Raises: as `upload`.
    """
    async with open_sftp(visit) as sftp:
        with translated(visit, source):
            if not await sftp.exists(source):
                raise NotFound(f"{visit.target}:{source}: no such file or folder")
            entries = await _list_remote(visit, sftp, source)
            name = posixpath.basename(posixpath.normpath(await sftp.realpath(source)))
            destination = _place_here(destination, name, is_folder=entries[0].is_folder)
            temporary = Path(_beside(str(destination)))
            try:
                for entry in entries:
                    place = temporary / entry.name if entry.name else temporary
                    if entry.is_folder:
                        _make_folder(place)
                        continue
                    path = posixpath.join(source, entry.name) if entry.name else source
                    await sftp.get(path, str(place), progress_handler=_counter(visit, sent), block_size=1 << 16)
                    _set_mode(place, is_executable=bool(entry.mode & 0o100))
                _rename(temporary, destination)
            except BaseException:
                _discard(temporary)
                raise
    return destination


def _name_of(source: Path) -> str:
    return source.resolve().name


def _place_here(destination: Path, name: str, *, is_folder: bool) -> Path:
    """Choose where a copy goes here; into a folder that exists under its own name. Raises: Conflict."""
    place = destination / _own_name(name) if destination.is_dir() else destination
    if is_folder and place.exists():
        raise Conflict(f"{place}: is there already", hint=f"rm -r {place}")
    return place


def _make_folder(path: Path) -> None:
    path.mkdir()


def _set_mode(path: Path, *, is_executable: bool) -> None:
    path.chmod(0o755 if is_executable else 0o644)


def _rename(path: Path, new: Path) -> None:
    path.replace(new)


def _discard(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


async def _list_remote(visit: Visit, sftp: asyncssh.SFTPClient, source: str) -> list[_Entry]:
    facts = await sftp.stat(source)
    entries = [_entry("", facts)]
    waiting = [""] if entries[0].is_folder else []
    while waiting:
        folder = waiting.pop()
        async for item in sftp.scandir(posixpath.join(source, folder)):
            name = item.filename if isinstance(item.filename, str) else item.filename.decode("utf-8", "surrogateescape")
            if name in {".", ".."}:
                continue
            if item.attrs.type not in {asyncssh.FILEXFER_TYPE_REGULAR, asyncssh.FILEXFER_TYPE_DIRECTORY}:
                continue
            entry = _entry(posixpath.join(folder, _own_name(name)), item.attrs)
            entries.append(entry)
            if entry.is_folder:
                waiting.append(entry.name)
            if len(entries) > MAX_ENTRIES:
                raise TooLarge(f"{visit.target}:{source}: over {MAX_ENTRIES} files")
    return sorted(entries, key=lambda entry: entry.name)


def _entry(name: str, facts: asyncssh.SFTPAttrs) -> _Entry:
    mode = facts.permissions or 0
    return _Entry(name, facts.type == asyncssh.FILEXFER_TYPE_DIRECTORY, facts.size or 0, stat.S_IMODE(mode))


def _own_name(name: str) -> str:
    """Return a name that a device gave to a file. Raises: MeetingctlError for one that leads elsewhere."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise MeetingctlError(f"the device names a file {name[:80]!r}, which leads elsewhere")
    return name


def _list_local(source: Path) -> list[_Entry]:
    if not source.exists():
        raise NotFound(f"no such file here: {source}")
    paths = [source, *(sorted(source.rglob("*")) if source.is_dir() else [])]
    entries = []
    for path in paths:
        if path != source and (path.is_symlink() or not (path.is_file() or path.is_dir())):
            continue
        facts = path.stat()
        name = path.relative_to(source).as_posix() if path != source else ""
        entries.append(_Entry(name, path.is_dir(), facts.st_size, stat.S_IMODE(facts.st_mode)))
    return entries


def size_of(source: Path) -> int:
    """Return how many bytes a local file or folder holds. Raises: NotFound."""
    return sum(entry.size_bytes for entry in _list_local(source) if not entry.is_folder)


def _beside(path: str) -> str:
    folder, name = posixpath.split(path.rstrip("/"))
    return posixpath.join(folder, f".{name}.{secrets.token_hex(4)}.part")


def _counter(visit: Visit, sent: Sent) -> Callable[[bytes, bytes, int, int], None]:
    before = 0

    def count(source: bytes, destination: bytes, done: int, total: int) -> None:
        nonlocal before
        sent(done - before)
        before = done
        visit.heard()

    return count
