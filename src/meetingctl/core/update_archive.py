"""Read the members of an update package, from a tar of any usual compression or from an unpacked folder.

Nothing is written here, and nothing is believed: every name, kind, mode, size and number is checked while reading.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from meetingctl.core.errors import InvalidInput, NotFound, TooLarge
from meetingctl.core.untrusted_tar import Kind, Readable, naming_broken, open_file, open_stream, too_many_bytes, unpack

MANIFEST_NAME = "update_manifest.json"
SIGNATURE_NAME = "update_manifest.sig"
PAYLOAD = "payload"

LARGEST_TOTAL_BYTES = 200 * 1024 * 1024
MOST_MEMBERS = 20_000
_LONGEST_NAME_BYTES = 1024
_LONGEST_PART_BYTES = 255
_SPECIAL_MODES = stat.S_ISUID | stat.S_ISGID
_HINT = "build the package again with meetingctl builder bundle"
_KIND = Kind("package", _HINT, MOST_MEMBERS, LARGEST_TOTAL_BYTES, highest_ratio=100, ratio_counts_from_bytes=16 << 20)


class Member(NamedTuple):
    """A regular file of the package; `name` has forward slashes, `file` is good until the next member."""

    name: str
    size_bytes: int
    mode: int
    file: Readable


@contextmanager
def open_members(path: Path) -> Iterator[Iterator[Member]]:
    """Open a package and give its files in the order they stand in it.

    Raises, also while the members are read: NotFound, InvalidInput, TooLarge.
    """
    if path.is_dir():
        yield _folder_members(path)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file or folder", hint=f"ls -l {path.parent}") from None
    except OSError as exc:
        raise InvalidInput(f"{path}: cannot read: {exc.strerror}", hint=f"ls -l {path}") from exc
    with os.fdopen(descriptor, "rb") as packed:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a pipe would be waited for without an end
            raise InvalidInput(f"{path}: not a regular file", hint=f"ls -l {path}")
        yield _name_broken(path, _tar_members(packed))


def _name_broken(path: Path, members: Iterator[Member]) -> Iterator[Member]:
    """Pass members on; what fails while the archive is read names it, what fails while it is used does not."""
    while True:
        with _naming(path):
            member = next(members, None)
        if member is None:
            return
        yield member._replace(file=_Content(path, member.file))


def _naming(path: Path) -> AbstractContextManager[None]:
    return naming_broken(f"{path.name}: not a whole tar archive", f"sha256sum {path}")


class _Content:
    """The bytes of a member."""

    def __init__(self, path: Path, file: Readable) -> None:
        self._path = path
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        with _naming(self._path):
            return self._file.read(size)


def clean_name(text: str) -> str:
    """Return a path of a package with forward slashes; packages from Windows have backslashes.

    Raises: InvalidInput for an absolute path, `..`, an empty part, control characters, or a name that is too long.
    """
    name = text.replace("\\", "/").removeprefix("./")
    parts = name.split("/")
    is_unsafe = any(part in {"", ".", ".."} for part in parts) or not name.isprintable()
    if is_unsafe or (len(name) > 2 and name[1] == ":"):
        raise InvalidInput(f"unsafe name in the package: {text[:140]!r}", hint=_HINT)
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise InvalidInput(f"name in the package is not UTF-8: {text[:140]!r}", hint=_HINT) from None
    if max(sizes) > _LONGEST_PART_BYTES or sum(sizes) + len(parts) > _LONGEST_NAME_BYTES:
        raise InvalidInput(f"name in the package is too long: {text[:60]!r}", hint=_HINT)
    return name


def _tar_members(packed: IO[bytes]) -> Iterator[Member]:
    tally = _Tally()
    with open_stream(unpack(packed, _KIND), _KIND) as archive:
        for count, header in enumerate(archive):
            if count > MOST_MEMBERS:
                raise TooLarge(f"more than {MOST_MEMBERS} files in the package", hint=_HINT)
            if header.isdir() and header.name in {".", "./", ""}:
                continue
            name = tally.take(header.name.rstrip("/") if header.isdir() else header.name, header.size)
            if header.isdir():
                check_folder(name)
                continue
            file = open_file(archive, header, name, _KIND)
            yield Member(name, header.size, _plain_mode(name, header.mode), file)


def _folder_members(path: Path) -> Iterator[Member]:
    tally = _Tally()
    for folder, folders, files in os.walk(path, onerror=_refuse_unreadable):
        folders.sort()
        for base in folders:
            place = Path(folder, base)
            name = tally.take(place.relative_to(path).as_posix(), 0)
            if place.is_symlink():
                raise InvalidInput(f"{name}: only regular files and folders may be in a package", hint=_HINT)
            check_folder(name)
        for base in sorted(files):
            place = Path(folder, base)
            found = place.lstat()
            name = tally.take(place.relative_to(path).as_posix(), found.st_size)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidInput(f"{name}: only regular files and folders may be in a package", hint=_HINT)
            with os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                yield Member(name, found.st_size, _plain_mode(name, found.st_mode), file)


def _refuse_unreadable(error: OSError) -> None:
    raise InvalidInput(f"{error.filename}: cannot read: {error.strerror}", hint=f"ls -ld {error.filename}")


class _Tally:
    """Count members and bytes, and refuse a name that comes twice."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._total_bytes = 0

    def take(self, text: str, size_bytes: int) -> str:
        name = clean_name(text)
        if name in self._names:
            raise InvalidInput(f"{name}: twice in the package", hint=_HINT)
        self._names.add(name)
        self._total_bytes += size_bytes
        if size_bytes < 0 or self._total_bytes > LARGEST_TOTAL_BYTES:
            raise too_many_bytes(_KIND)
        if len(self._names) > MOST_MEMBERS:
            raise TooLarge(f"more than {MOST_MEMBERS} files in the package", hint=_HINT)
        return name


ALLOWED_PREFIXES = ("opt/rpi-cam-webmanager", "usr/local/bin")


def check_folder(name: str) -> None:
    """Refuse a folder that is neither an allowed one, in one, nor on the way to one. Raises: InvalidInput."""
    prefixes = [f"{PAYLOAD}/{prefix}" for prefix in ALLOWED_PREFIXES]
    if not any(f"{prefix}/".startswith(f"{name}/") or name.startswith(f"{prefix}/") for prefix in prefixes):
        raise InvalidInput(f"{name}: not a place for a package: {' or '.join(prefixes)}", hint=_HINT)


def _plain_mode(name: str, mode: int) -> int:
    if mode & _SPECIAL_MODES:
        raise InvalidInput(f"{name}: set-user-id and set-group-id files are refused", hint=_HINT)
    return 0o755 if mode & stat.S_IXUSR else 0o644


def read_capped(member: Member, limit_bytes: int) -> bytes:
    """Return the whole content of a small member. Raises: TooLarge."""
    content = member.file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise TooLarge(f"{member.name}: larger than {limit_bytes} bytes", hint=_HINT)
    return content


def copy_member(member: Member, take: Callable[[bytes], object]) -> int:
    """Pass the content on in pieces and return how many bytes there were."""
    count = 0
    while chunk := member.file.read(1 << 18):
        count += len(chunk)
        take(chunk)
    return count
