"""RTSP messages: requests to bytes, bytes in any chunking to responses. No sockets.

Source: RFC 2326 sections 6, 7 and 10.12 (interleaved data), which RTSP 1.0 servers still speak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meetingctl.core.errors import InvalidInput, MeetingctlError

LARGEST_HEAD_BYTES = 16 * 1024
LARGEST_BODY_BYTES = 256 * 1024
_INTERLEAVED = ord("$")


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; the names of `headers` are lower case, in the order of arrival."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return the first header of a name, or an empty text."""
        return next(iter(self.header_list(name)), "")

    def header_list(self, name: str) -> list[str]:
        """Return every header of a name: servers send one WWW-Authenticate for each scheme."""
        return [value for key, value in self.headers if key == name.lower()]


def encode_request(method: str, url: str, cseq: int, headers: Mapping[str, str]) -> bytes:
    """Write a request without a body. Raises: InvalidInput for control characters, which could add headers."""
    lines = [f"{method} {url} RTSP/1.0", f"CSeq: {cseq}", *(f"{name}: {value}" for name, value in headers.items())]
    if " " in url or any(not line.isprintable() for line in lines):
        raise InvalidInput("an RTSP request cannot carry spaces in its URL or control characters")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class ResponseDecoder:
    """Turn any chunking of the wire into whole responses; media data between them is skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Response]:
        """Yield the responses that `data` completes. Raises: MeetingctlError when the peer does not speak RTSP."""
        self._buffer += data
        while self._skip_interleaved():
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                if len(self._buffer) > LARGEST_HEAD_BYTES:
                    raise MeetingctlError(f"the peer sent more than {LARGEST_HEAD_BYTES} bytes without an RTSP answer")
                return
            response = _parse_head(bytes(self._buffer[:head_end]))
            end = head_end + 4 + _body_length(response)
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[head_end + 4 : end])
            del self._buffer[:end]
            yield Response(response.status, response.reason, response.headers, body)

    def _skip_interleaved(self) -> bool:
        """Drop whole `$` frames and blank lines; say whether the start of a response is there."""
        while self._buffer:
            if self._buffer[0] == _INTERLEAVED:
                end = 4 + int.from_bytes(self._buffer[2:4], "big")
                if len(self._buffer) < max(4, end):
                    return False
                del self._buffer[:end]
            elif self._buffer[0] in b"\r\n":
                del self._buffer[:1]
            else:
                return True
        return False


def _parse_head(head: bytes) -> Response:
    first, *rest = head.decode("utf-8", "replace").split("\r\n")
    version, _, line = first.partition(" ")
    status, _, reason = line.partition(" ")
    if not version.startswith("RTSP/") or not (status.isascii() and status.isdigit() and len(status) == 3):
        raise MeetingctlError(f"the peer does not speak RTSP: {first[:80]!r}")
    headers = []
    for text in rest:
        name, _, value = text.partition(":")
        headers.append((name.strip().lower(), value.strip()))
    return Response(int(status), reason.strip(), tuple(headers))


def _body_length(response: Response) -> int:
    text = response.header("content-length") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= LARGEST_BODY_BYTES):
        raise MeetingctlError(
            f"the peer announces an RTSP body of {text[:20]} bytes, at most {LARGEST_BODY_BYTES} are read"
        )
    return int(text)
