"""Archives that are broken, or made to cost memory; packages and backups are read through the same bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from meetingctl.core.device_backup import read_backup
from meetingctl.core.errors import InvalidInput, MeetingctlError, TooLarge
from meetingctl.core.untrusted_tar import LARGEST_HEADER_BYTES, Kind, naming_broken, open_file, open_stream, unpack

KIND = Kind(
    "box", "make another", most_members=3, most_bytes=1 << 20, highest_ratio=10, ratio_counts_from_bytes=1 << 15
)
LARGEST_STREAM_BYTES = (1 << 20) + 3 * 6 * 512


def entry(name: str = "a", content: bytes = b"", /, **changes: object) -> bytes:
    """Return a member: its headers, and its content in whole blocks."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for key, value in changes.items():
        setattr(header, key, value)
    return header.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def read_all(path: Path, kind: Kind = KIND) -> dict[str, bytes]:
    found = {}
    with (
        path.open("rb") as packed,
        naming_broken("the box", "look"),
        open_stream(unpack(packed, kind), kind) as archive,
    ):
        for header in archive:
            found[header.name] = open_file(archive, header, header.name, kind).read()
    return found


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_archive(content: bytes) -> Path:
        path = tmp_path / "archive"
        path.write_bytes(content)
        return path

    return write_archive


NOISE = os.urandom(8 * tarfile.BLOCKSIZE)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_any_packing_is_read(write: Callable[[bytes], Path], pack: Callable[[bytes], bytes]) -> None:
    assert read_all(write(pack(entry("a", b"x") + entry("b", NOISE) + bytes(1024)))) == {"a": b"x", "b": NOISE}


def test_a_packing_that_the_kind_has_not_is_no_archive(write: Callable[[bytes], Path]) -> None:
    path = write(lzma.compress(entry("a", b"x") + bytes(1024)))
    only_gzip = Kind("box", "", 3, 1 << 20, highest_ratio=10, ratio_counts_from_bytes=1 << 15, packings=("gzip",))
    with pytest.raises(InvalidInput, match=r"^the box: "):
        read_all(path, only_gzip)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (entry("a", NOISE)[:2000], "unexpected end"),
        (gzip.compress(entry("a", NOISE))[:2000], "end"),
        (lzma.compress(entry("a", NOISE))[:2000], "end"),
        (lzma.compress(entry("a", NOISE))[:1000] + bytes(3000), "orrupt"),
        (bz2.compress(entry("a", NOISE))[:1000] + bytes(3000), "nvalid"),
        (entry("a", pax_headers={"GNU.sparse.map": "x"}), "invalid literal"),
        (entry("pax", type=tarfile.XHDTYPE) * 5000, "a chain of headers without a file"),
    ],
    ids=["empty", "cut", "cut gzip", "cut xz", "bad xz", "bad bzip2", "sparse map", "chain"],
)
def test_what_is_broken_is_named(write: Callable[[bytes], Path], content: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"^the box: .*{words}") as caught:
        read_all(write(content))
    assert caught.value.hint == "look"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "b"},
        {"type": tarfile.FIFOTYPE},
        {"pax_headers": {"GNU.sparse.size": "9", "GNU.sparse.map": "0,9"}},
    ],
)
def test_only_files_and_folders(write: Callable[[bytes], Path], changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="only regular files and folders may be in a box"):
        read_all(write(entry("a", **changes)))


@pytest.mark.parametrize("attributes", [{"size": "-512"}, {"mtime": "inf"}, {"mtime": "nan"}])
def test_numbers_that_no_file_has(write: Callable[[bytes], Path], attributes: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="a size or a time that no file has"):
        read_all(write(entry("a", pax_headers=attributes) + bytes(1024)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(entry("a", bytes(1 << 16))), "unpacks to more than 10 times its size"),
        (entry("a", bytes(LARGEST_STREAM_BYTES)), "unpacks to more than 1 MiB"),
        (entry("x", type=tarfile.GNUTYPE_LONGNAME, size=LARGEST_HEADER_BYTES + 1), "a header of 65537 bytes"),
        (entry("x", type=tarfile.XHDTYPE, size=64 << 20), "a header of 67108864 bytes"),
    ],
    ids=["ratio", "total", "long name", "attributes"],
)
def test_what_grows_without_measure_is_given_up(write: Callable[[bytes], Path], content: bytes, words: str) -> None:
    with pytest.raises(TooLarge, match=words) as caught:
        read_all(write(content))
    assert caught.value.hint == KIND.hint


def test_a_record_of_the_largest_length_is_read(write: Callable[[bytes], Path]) -> None:
    name = b"n" * LARGEST_HEADER_BYTES
    assert read_all(write(entry("x", name, type=tarfile.GNUTYPE_LONGNAME) + entry() + bytes(1024))) == {
        name.decode(): b""
    }


def test_a_backup_with_a_time_that_no_file_has_is_refused(write: Callable[[bytes], Path]) -> None:
    path = write(entry("etc/rpi-cam/config.env", pax_headers={"mtime": "inf"}) + bytes(1024))
    with pytest.raises(InvalidInput, match="a time that no file has, in the backup"):
        read_backup(path)


def test_what_is_refused_on_purpose_keeps_its_own_words() -> None:
    with pytest.raises(TooLarge, match=r"^too large$"), naming_broken("the box", "look"):
        raise TooLarge("too large")
    assert not issubclass(MeetingctlError, ValueError)


def test_headers_are_read_as_a_stream() -> None:
    """What has only `read` is enough: a pipe, an answer of a device."""

    class Pipe:
        def __init__(self, content: bytes) -> None:
            self._file = io.BytesIO(content)

        def read(self, size: int = -1, /) -> bytes:
            return self._file.read(size)

    with open_stream(Pipe(entry("a", b"x") + bytes(1024)), KIND) as archive:
        assert [open_file(archive, header, "a", KIND).read() for header in archive] == [b"x"]
