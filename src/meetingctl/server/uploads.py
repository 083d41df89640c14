"""Forms with files: read piece by piece into a folder, hashed while they are written.

A caller names the files it takes with a cap each; nothing else is stored, and what is still in the folder when the
context ends is removed. Memory stays flat whatever the size.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from meetingctl.core.errors import InvalidInput, MeetingctlError, StorageFull, TooLarge, UnsafeName, UnsupportedMedia
from meetingctl.core.ids import is_name

FIELD_CAP_BYTES = 256 * 1024
MAX_PARTS = 100
_HEADER_CAP_BYTES = 8 * 1024
_BATCH_BYTES = 1024 * 1024
UPLOAD_PREFIX = ".upload-"  # of temporary files; a crash may leave some


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file of a form, on disk; `filename` is one plain name."""

    filename: str
    path: Path
    size_bytes: int
    sha256: str


@dataclass(slots=True)
class UploadForm:
    """What a form held."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, UploadedFile] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def receive_upload(
    request: Request,
    folder: Path,
    *,
    file_fields: Mapping[str, int],
    required: tuple[str, ...] = (),
    room_bytes: int | None = None,
) -> AsyncIterator[UploadForm]:
    """Read a multipart form; `file_fields` gives each file its cap in bytes, `required` names fields and files.

    `room_bytes` is what all files together may take; None leaves that to the disk. Move the files away inside the
    context: leftovers are removed at its end.
    Raises: TooLarge `File too large`, StorageFull, InvalidInput for a bad name, form or missing part, UnsupportedMedia.
    """
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    if content_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise UnsupportedMedia("Unsupported content type", hint="send multipart/form-data")
    reader = _Reader(folder, file_fields, room_bytes)
    try:
        with _form_errors():
            parser = MultipartParser(options[b"boundary"], reader.callbacks())
            await _feed(request, parser)
            reader.check_end()
        for name in required:
            if name not in reader.form.fields and name not in reader.form.files:
                raise InvalidInput(f"Missing {name}")
        yield reader.form
    finally:
        reader.clean_up()  # not in a thread: a cancelled request must clean up too


async def _feed(request: Request, parser: MultipartParser) -> None:
    """Give the parser the body in large pieces, each in a worker thread, because it writes to the disk."""
    waiting = bytearray()
    async for chunk in request.stream():
        waiting += chunk
        if len(waiting) >= _BATCH_BYTES:
            await run_in_threadpool(parser.write, bytes(waiting))
            waiting.clear()
    if waiting:
        await run_in_threadpool(parser.write, bytes(waiting))


@contextlib.contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except FormParserError:
        raise InvalidInput("Invalid form") from None
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("Storage full", hint="free some space in the data directory") from exc
        raise MeetingctlError("Upload failed", hint="see the server's log; is its disk in order?") from exc


class _Reader:
    """The parser's callbacks: one part at a time."""

    def __init__(self, folder: Path, file_fields: Mapping[str, int], room_bytes: int | None) -> None:
        self.form = UploadForm()
        self._room_bytes = room_bytes
        self._folder = folder
        self._caps = file_fields
        self._made: list[Path] = []
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._name = ""
        self._file: BinaryIO | None = None
        self._filename = ""
        self._content = bytearray()
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._is_ended = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def check_end(self) -> None:
        """Raises: InvalidInput when the body broke off."""
        if not self._is_ended:
            raise InvalidInput("Invalid form", hint="the body ended too early")

    def clean_up(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what the disk refused is written at the close
                self._file.close()
        for path in self._made:
            with contextlib.suppress(OSError):  # a disk that refuses; the sweeper removes leftovers later
                path.unlink(missing_ok=True)

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidInput("Invalid form", hint=f"at most {MAX_PARTS} parts")
        self._headers.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._check_header()

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header_name) + len(self._header_value) > _HEADER_CAP_BYTES or len(self._headers) > 20:
            raise InvalidInput("Invalid form")

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _open_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name or self._name in self.form.fields or self._name in self.form.files:
            raise InvalidInput("Invalid form", hint="each part needs a name of its own")
        self._content.clear()
        self._file = None
        if b"filename" not in options:
            return
        if self._name not in self._caps:
            raise InvalidInput(f"Unexpected file {self._name[:40]}")
        self._filename = options[b"filename"].decode("utf-8", "replace")
        if not is_name(self._filename) or self._filename.endswith("."):
            raise UnsafeName("Invalid file name", hint="use letters, digits, dots, dashes and underscores")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._folder.is_symlink():
            raise UnsafeName("Invalid path", hint="symbolic links are not followed")
        path = self._folder / f"{UPLOAD_PREFIX}{secrets.token_hex(8)}"
        self._made.append(path)
        self._file = path.open("xb")
        self._digest, self._size_bytes = hashlib.sha256(), 0

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._content += data[start:end]
            if len(self._content) > FIELD_CAP_BYTES:
                raise TooLarge("Field too large")
            return
        piece = memoryview(data)[start:end]
        self._size_bytes += len(piece)
        if self._size_bytes > self._caps[self._name]:
            raise TooLarge("File too large")
        if self._room_bytes is not None:
            self._room_bytes -= len(piece)
            if self._room_bytes < 0:
                raise StorageFull("Storage full", hint="remove files that are not needed, or raise the quota")
        self._digest.update(piece)
        self._file.write(piece)

    def _end_part(self) -> None:
        if self._file is None:
            text = bytes(self._content).decode("utf-8", "replace")
            if "\0" in text:
                raise InvalidInput("Invalid form", hint="NUL is not allowed")
            self.form.fields[self._name] = text
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        found = UploadedFile(self._filename, self._made[-1], self._size_bytes, self._digest.hexdigest())
        self.form.files[self._name] = found

    def _end(self) -> None:
        self._is_ended = True
