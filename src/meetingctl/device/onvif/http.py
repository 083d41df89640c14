"""The HTTP side: a small server that bounds heads, bodies, time and connections, and never waits for one client.

A connection that waits for its client can be given up at any time: when there are too many, the oldest of them goes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meetingctl.core.site import site_of
from meetingctl.device.onvif.soap import LONGEST_BODY_BYTES

MOST_CONNECTIONS = 32
MOST_OF_ONE_ADDRESS = 8
_HEAD_BYTES = 16 * 1024
_MOST_HEADERS = 64
_REQUEST_S = 10.0
_IDLE_S = 15.0
_WRITE_S = 10.0
_CLOSE_S = 1.0
_RECEIVE_BYTES = 16 * 1024
_SEND_BUFFER_BYTES = 128 * 1024  # the kernel would keep megabytes for each client that does not read
_VERSIONS = {"HTTP/1.0", "HTTP/1.1"}
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_SAID_PAUSE_S = 60.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; names of headers are lower case. `is_over` tells that the client sends no more: it is gone."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    peer: str
    local: str
    port: int
    is_over: Callable[[], bool]
    set_waiting: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What goes back. `headers` may repeat a name."""

    status: int = 200
    body: bytes = b""
    type: str = "application/soap+xml; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]


class BadRequest(Exception):
    """A request that is refused before anybody looks at its content."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(eq=False)
class _Connection:
    peer: str
    writer: asyncio.StreamWriter
    is_idle: bool = True
    is_pulling: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class _Reader(asyncio.StreamReader):
    """Knows that the client has sent its last byte, also while some of them still wait to be read."""

    has_ended = False

    def feed_eof(self) -> None:
        self.has_ended = True
        super().feed_eof()


class HttpServer:
    """Serves `answer` until `close`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._open: list[_Connection] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises: OSError."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(_Reader(limit=_HEAD_BYTES), self._serve)

        self._server = await loop.create_server(protocol, host, port, backlog=128)
        for listener in self._server.sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # connections inherit it
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and hang up on everybody."""
        if self._server is not None:
            self._server.close()
        for item in list(self._open):
            item.writer.transport.abort()
            if item.task is not None:
                item.task.cancel()
        await asyncio.gather(*(item.task for item in list(self._open) if item.task), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str((writer.get_extra_info("peername") or ("",))[0])
        peer = site_of(address.removeprefix("::ffff:") if "." in address else address)
        writer.transport.set_write_buffer_limits(0)  # `drain` waits until the kernel has everything
        writer.transport.max_size = _RECEIVE_BYTES  # type: ignore[attr-defined]  # of one recv, 256 KiB by default
        mine = _Connection(peer, writer, task=asyncio.current_task())
        if not self._make_room(peer):
            writer.transport.abort()
            return
        self._open.append(mine)
        try:
            while await self._serve_one(reader, mine):
                pass
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        except asyncio.CancelledError:  # the server closes; asyncio would write a traceback about its own task
            pass
        finally:
            self._open.remove(mine)
            writer.close()
            try:
                await asyncio.wait_for(writer.wait_closed(), _CLOSE_S)
            except (OSError, TimeoutError):
                # One that reads nothing would keep socket and buffer for ever, and is not counted any more.
                writer.transport.abort()

    def _make_room(self, peer: str) -> bool:
        """Give up the oldest connection that only waits for its client; False when all of them are at work."""
        counted = [item for item in self._open if not item.is_pulling and not item.writer.transport.is_closing()]
        of_peer = [item for item in counted if item.peer == peer]
        if len(of_peer) >= MOST_OF_ONE_ADDRESS:
            return self._drop_oldest(of_peer)
        if len(counted) < MOST_CONNECTIONS:
            return True
        held = Counter(item.peer for item in counted)
        return self._drop_oldest(sorted(counted, key=lambda item: -held[item.peer]))

    def _drop_oldest(self, items: list[_Connection]) -> bool:
        for item in items:
            if item.is_idle:
                item.writer.transport.abort()
                return True
        return False

    async def _serve_one(self, reader: asyncio.StreamReader, mine: _Connection) -> bool:
        """Serve one request and say whether the connection lives on."""
        try:
            async with asyncio.timeout(_IDLE_S):
                first = await reader.readexactly(1)
            async with asyncio.timeout(_REQUEST_S):
                request = await self._read(first, reader, mine)
        except BadRequest as refused:
            headers = (("Allow", "GET, POST"),) if refused.status == 405 else ()
            await self._write(mine.writer, HttpResponse(refused.status, headers=headers), is_last=True)
            return False
        mine.is_idle = False
        is_last = "close" in request.headers.get("connection", "").lower()
        response = await self._answer(request)
        mine.is_idle = True  # from here on only the client can keep it waiting
        await self._write(mine.writer, response, is_last=is_last)
        # Requests that lie ready would otherwise be answered all before anybody else has a turn.
        await asyncio.sleep(0)
        return not is_last

    async def _read(self, first: bytes, reader: asyncio.StreamReader, mine: _Connection) -> HttpRequest:
        try:
            head = first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as exc:
            raise BadRequest(431) from exc
        method, target, headers = parse_head(head)
        if method not in {"GET", "POST"}:
            raise BadRequest(405)
        body = await self._read_body(reader, mine.writer, headers)
        local = mine.writer.get_extra_info("sockname") or ("", 0)

        def set_waiting(is_pulling: bool) -> None:
            mine.is_pulling = is_pulling

        return HttpRequest(
            method,
            target,
            headers,
            body,
            mine.peer,
            str(local[0]),
            int(local[1]),
            lambda: isinstance(reader, _Reader) and reader.has_ended,
            set_waiting,
        )

    async def _read_body(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Mapping[str, str]
    ) -> bytes:
        chunked = headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "0")
        if chunked not in {"", "chunked"} or (chunked and "content-length" in headers):
            raise BadRequest(400)
        if not length.isascii() or not length.isdigit() or len(length) > 12:
            raise BadRequest(400)
        if int(length) > LONGEST_BODY_BYTES:
            raise BadRequest(413)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self._read_chunks(reader) if chunked else await reader.readexactly(int(length))

    async def _read_chunks(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        while True:
            written = (await _read_line(reader)).partition(b";")[0]
            if not _CHUNK_SIZE.fullmatch(written):
                raise BadRequest(400)
            size = int(written, 16)
            if len(body) + size > LONGEST_BODY_BYTES:
                raise BadRequest(413)
            if size == 0:
                await self._skip_trailers(reader)
                return body
            body += await reader.readexactly(size)
            if await reader.readexactly(2) != b"\r\n":
                raise BadRequest(400)

    async def _skip_trailers(self, reader: asyncio.StreamReader) -> None:
        for _ in range(_MOST_HEADERS):
            if not await _read_line(reader):
                return
        raise BadRequest(400)

    async def _write(self, writer: asyncio.StreamWriter, response: HttpResponse, *, is_last: bool) -> None:
        headers = [
            ("Content-Type", response.type),
            ("Content-Length", str(len(response.body))),
            ("Connection", "close" if is_last else "keep-alive"),
            *response.headers,
        ]
        lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + response.body)
        try:
            async with asyncio.timeout(_WRITE_S):
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()
            raise


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """Return a line of a chunked body without its end. Raises: BadRequest when it is too long."""
    try:
        return (await reader.readuntil(b"\r\n"))[:-2]
    except asyncio.LimitOverrunError as exc:
        raise BadRequest(400) from exc


class QuietLoop:
    """Says once a minute that there are no descriptors left; asyncio would write pages about it each second."""

    def __init__(self) -> None:
        self._said_s = -_SAID_PAUSE_S

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said_s >= _SAID_PAUSE_S:
            self._said_s = time.monotonic()
            log.error("no connection can be accepted", extra={"error": error.strerror})


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Split the head of a request. Raises: BadRequest."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in _VERSIONS or not words[1].startswith(("/", "http://")):
        raise BadRequest(400)
    if any(char in line for line in lines for char in "\r\n\0"):
        raise BadRequest(400)
    rows = lines[1:-2]
    if len(rows) > _MOST_HEADERS:
        raise BadRequest(431)
    headers: dict[str, str] = {}
    for row in rows:
        name, colon, value = row.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip() or (key in headers and key == "content-length"):
            raise BadRequest(400)
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    if words[2] == "HTTP/1.0":
        headers["connection"] = "close"
    target = words[1]
    if target.startswith("http://"):
        target = "/" + target[7:].partition("/")[2]
    return words[0], target, headers
