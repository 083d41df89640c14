"""Look into an archive before it is published: what would harm a device that unpacks it is refused.

Nothing is unpacked here; a TAR has to be decompressed to be listed, so the listing stops at the caps.
"""

from __future__ import annotations

import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from meetingctl.core.untrusted_tar import BROKEN, bounded_header
from meetingctl.server.updates.errors import HarmfulArchive

MOST_MEMBERS = 100_000
# A plain file system image compresses well, a bomb absurdly so.
MOST_RATIO = 200
HARMLESS_BYTES = 100 * 1024**2
_LONGEST_LINK = 4096
MOST_BYTES = 16 * 1024**3


class Member(NamedTuple):
    """One entry; `link` is where it points, None for files and folders."""

    name: str
    size_bytes: int
    link: str | None = None
    is_special: bool = False


def check_archive(path: Path) -> None:
    """Raises: HarmfulArchive. A file that is neither TAR nor ZIP passes: no device could unpack it."""
    packed_bytes, total_bytes = path.stat().st_size, 0
    for number, member in enumerate(_members(path), 1):
        total_bytes += member.size_bytes
        if number > MOST_MEMBERS:
            raise HarmfulArchive("Invalid archive: too many members")
        if total_bytes > MOST_BYTES or total_bytes > max(HARMLESS_BYTES, MOST_RATIO * packed_bytes):
            raise HarmfulArchive("Invalid archive: too large when it is unpacked")
        if member.size_bytes < 0 or member.is_special or not _is_inside(member.name):
            raise HarmfulArchive(f"Invalid archive: member {member.name[:80]!r}")
        if member.link is not None and not _is_inside(posixpath.join(posixpath.dirname(member.name), member.link)):
            raise HarmfulArchive(f"Invalid archive: link {member.name[:80]!r} leads out of it")


def _is_inside(name: str) -> bool:
    plain = posixpath.normpath(name.replace("\\", "/"))
    return not name.startswith(("/", "\\")) and plain != ".." and not plain.startswith("../") and "\0" not in name


def _members(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:*", tarinfo=bounded_header(_refuse_header)) as archive:
            yield from _tar_members(archive)
    except (ValueError, OverflowError, RecursionError):  # headers that only Python does not follow: devices may
        raise HarmfulArchive("Invalid archive: headers that cannot be followed") from None
    except (*BROKEN, OSError):
        if zipfile.is_zipfile(path):
            yield from _zip_members(path)


def _refuse_header(size_bytes: int) -> HarmfulArchive:
    return HarmfulArchive(f"Invalid archive: a header of {size_bytes} bytes")


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for member in archive:
        link = member.linkname if member.issym() else None
        if member.islnk():  # names another member from the top of the archive
            link = posixpath.relpath(member.linkname, posixpath.dirname(member.name) or ".")
        is_known = member.isreg() or member.isdir() or member.issym() or member.islnk()
        yield Member(member.name, member.size, link, not is_known)


def _zip_members(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                is_link = stat.S_ISLNK(member.external_attr >> 16)
                link = (
                    archive.read(member)[:4096].decode("utf-8", "replace")
                    if is_link and member.file_size < 4096
                    else None
                )
                yield Member(member.filename, member.file_size, link, is_special=is_link and link is None)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error):
        return
