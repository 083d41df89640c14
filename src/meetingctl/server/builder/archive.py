"""Write the archive of a build: the same input gives the same bytes, whoever packs it and when."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from meetingctl.core.errors import Conflict

FORMATS = ("tar.gz", "zip")
_EPOCH_S = 315_532_800  # 1980, the oldest date that ZIP can write
_CHUNK_BYTES = 1024 * 1024
_COMPRESSION = 6

Told = Callable[[int], None]  # bytes read since the last call; may raise to end the work


class Member(NamedTuple):
    """One file of an archive; `content` stands in for the file at `source`."""

    name: str
    source: Path | None = None
    content: bytes = b""
    size_bytes: int = 0
    sha256: str = ""

    @property
    def mode(self) -> int:
        return 0o755 if self.name.endswith((".sh", ".py")) else 0o644


def write_archive(target: Path, kind: str, members: Sequence[Member], tell: Told) -> tuple[int, str]:
    """Write and fsync an archive; return its size in bytes and its SHA-256.

    Raises: Conflict when a file is not the one that was uploaded, what `tell` raises, OSError.
    """
    with target.open("wb") as file:
        pack = _pack_tar if kind == "tar.gz" else _pack_zip
        pack(file, sorted(members), tell)
        file.flush()
        os.fsync(file.fileno())
    digest, size_bytes = hashlib.sha256(), 0
    with target.open("rb") as written:
        while chunk := written.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            tell(0)
    return size_bytes, digest.hexdigest()


def _pack_tar(file: BinaryIO, members: Sequence[Member], tell: Told) -> None:
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=_COMPRESSION) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size, info.mtime, info.mode = member.size_bytes, _EPOCH_S, member.mode
            with _opened(member, tell) as source:
                archive.addfile(info, source)


def _pack_zip(file: BinaryIO, members: Sequence[Member], tell: Told) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive:
        for member in members:
            info = zipfile.ZipInfo(member.name, (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (0o100000 | member.mode) << 16
            info.file_size = member.size_bytes
            with _opened(member, tell) as source, archive.open(info, "w") as entry:
                while chunk := source.read(_CHUNK_BYTES):
                    entry.write(chunk)


@contextlib.contextmanager
def _opened(member: Member, tell: Told) -> Iterator[IO[bytes]]:
    """Open what a member holds; at the end its hash must be the recorded one."""
    if member.source is None:
        yield io.BytesIO(member.content)
        return
    descriptor = os.open(member.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with _Hashing(io.FileIO(descriptor), tell) as source:
        yield source
        if (source.read_bytes, source.digest.hexdigest()) != (member.size_bytes, member.sha256):
            raise Conflict(f"{member.name}: changed while it was packaged", hint="package again")


class _Hashing(io.BufferedReader):
    """A file that hashes and counts what is read of it."""

    def __init__(self, raw: io.RawIOBase, tell: Told) -> None:
        super().__init__(raw, _CHUNK_BYTES)
        self._tell_read = tell
        self.digest = hashlib.sha256()
        self.read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        self.digest.update(chunk)
        self.read_bytes += len(chunk)
        self._tell_read(len(chunk))
        return chunk
