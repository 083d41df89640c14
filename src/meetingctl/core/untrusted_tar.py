"""Read tar archives that nobody vouches for, member by member.

tarfile alone reads the records for long names whole into memory, follows a chain of them by recursion, and unpacks
without an end. Here each of these has a bound; what is right inside a package or a backup, those decide themselves.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol

from meetingctl.core.errors import InvalidInput, MeetingctlError, TooLarge

# What tarfile and the decompressors raise for a broken archive, beside OSError, which a broken disk raises too.
BROKEN = (
    tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError,
)  # fmt: skip
LARGEST_HEADER_BYTES = 64 << 10
# Long names and attributes; tarfile reads them whole.
_RECORDS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_MEMBER_BLOCKS = 6  # at the most, beside its content: header, record of a name of 1024 bytes with its header, padding
_LONGEST_MAGIC = 6


class Readable(Protocol):
    """What an archive, or a member of one, is read from."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """What an archive is called, what helps when it is refused, how it may be packed, and what it may grow to."""

    name: str
    hint: str
    most_members: int
    most_bytes: int  # all contents together
    highest_ratio: int  # unpacked to packed; only over ratio_counts_from_bytes
    ratio_counts_from_bytes: int
    packings: tuple[str, ...] = ("gzip", "bzip2", "xz")


_PACKINGS: dict[str, tuple[bytes, Callable[[IO[bytes]], Readable]]] = {
    "gzip": (b"\x1f\x8b", lambda packed: gzip.GzipFile(fileobj=packed)),
    "bzip2": (b"BZh", bz2.BZ2File),
    "xz": (b"\xfd7zXZ\x00", lzma.LZMAFile),
}


@contextmanager
def naming_broken(message: str, hint: str) -> Iterator[None]:
    """Raise InvalidInput, with the reason behind `message`, for what only a broken archive raises; OSError counts."""
    try:
        yield
    except RecursionError:
        raise InvalidInput(f"{message}: a chain of headers without a file", hint=hint) from None
    except (*BROKEN, OSError) as exc:
        raise InvalidInput(f"{message}: {exc}", hint=hint) from exc


def unpack(packed: IO[bytes], kind: Kind) -> Readable:
    """Return what reads the unpacked bytes of a file; of a packing that the kind has not, the bytes as they are.

    Raises: TooLarge, while it is read.
    """
    magic = packed.read(_LONGEST_MAGIC)
    packed.seek(0)
    chosen = (_PACKINGS[name] for name in kind.packings)
    plain = next((open_plain(packed) for start, open_plain in chosen if magic.startswith(start)), packed)
    return _Bounded(plain, os.fstat(packed.fileno()).st_size, kind)


class _Bounded:
    """The unpacked bytes of an archive, which end when there are too many of them for what was packed."""

    def __init__(self, file: Readable, packed_bytes: int, kind: Kind) -> None:
        self._file, self._kind = file, kind
        self._count_bytes = 0
        self._most_bytes = kind.most_bytes + kind.most_members * _MEMBER_BLOCKS * tarfile.BLOCKSIZE
        self._ratio_bytes = max(packed_bytes * kind.highest_ratio, kind.ratio_counts_from_bytes)

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._file.read(size)
        self._count_bytes += len(chunk)
        if self._count_bytes > self._most_bytes:
            raise too_many_bytes(self._kind)
        if self._count_bytes > self._ratio_bytes:
            raise TooLarge(
                f"the {self._kind.name} unpacks to more than {self._kind.highest_ratio} times its size",
                hint=self._kind.hint,
            )
        return chunk


def too_many_bytes(kind: Kind) -> TooLarge:
    """Return the refusal of what holds more than the kind may."""
    return TooLarge(f"the {kind.name} unpacks to more than {kind.most_bytes >> 20} MiB", hint=kind.hint)


def open_stream(plain: Readable, kind: Kind) -> tarfile.TarFile:
    """Open a tar archive that is not packed, to be read once from its start to its end.

    Raises, also while it is read: TooLarge; what is in BROKEN and OSError, see `naming_broken`.
    """

    def refuse(size_bytes: int) -> TooLarge:
        return TooLarge(f"a header of {size_bytes} bytes in the {kind.name}", hint=kind.hint)

    return tarfile.open(mode="r|", fileobj=plain, tarinfo=bounded_header(refuse))  # type: ignore[call-overload, no-any-return] # read() is enough


def bounded_header(refuse: Callable[[int], MeetingctlError]) -> type[tarfile.TarInfo]:
    """Return a class of headers for tarfile; it raises what `refuse` makes of the size of a record that is too long."""

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            header = super().frombuf(buf, encoding, errors)
            if header.type in _RECORDS and header.size > LARGEST_HEADER_BYTES:
                raise refuse(header.size)
            return header

    return Header


def open_file(archive: tarfile.TarFile, header: tarfile.TarInfo, name: str, kind: Kind) -> IO[bytes]:
    """Return the content of a regular file, good until the next header. Raises: InvalidInput for anything else."""
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or header.issparse():
        raise InvalidInput(f"{name}: only regular files and folders may be in a {kind.name}", hint=kind.hint)
    if header.size < 0 or not math.isfinite(header.mtime):
        raise InvalidInput(f"{name}: a size or a time that no file has, in the {kind.name}", hint=kind.hint)
    file = archive.extractfile(header)
    assert file is not None  # a regular file
    return file
