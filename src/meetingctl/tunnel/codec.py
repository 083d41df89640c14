"""Frames of the tunnel, without I/O: bytes in, frames out.

A frame is `kind` (1 byte), `stream id` (uint32 BE), `length` (uint32 BE) and `length` bytes. Source: docs/protocol.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("!BII")
HEADER_BYTES = HEADER.size

OPEN = ord("N")
DATA = ord("D")
CLOSE = ord("C")
WINDOW = ord("W")
END = ord("E")
PING = ord("P")
PONG = ord("Q")

# Why a stream was closed. Everything but NORMAL aborts it: what is still queued is thrown away.
NORMAL, REFUSED, TIMEOUT, NOT_ALLOWED, OVERLOAD, RESET = range(6)

MAX_FRAME_BYTES = 1 << 20
PING_BYTES = 8

# Least and most payload bytes per kind; the most of DATA is negotiated. OPEN may grow: readers skip the unknown rest.
_SIZES = {OPEN: (2, 256), CLOSE: (0, 1), WINDOW: (4, 4), END: (0, 0), PING: (8, 8), PONG: (8, 8)}

_UINT32 = struct.Struct("!I")
_OPEN_SHORT = struct.Struct("!H")
_OPEN_LONG = struct.Struct("!HBI")

Payload = bytes | memoryview
Frame = tuple[int, int, Payload]


class WireError(ValueError):
    """The peer broke the protocol; what follows on this connection is noise."""


class Opening(NamedTuple):
    """What an OPEN frame asks for; `credit_bytes` is None in the short form."""

    port: int
    credit_bytes: int | None


def encode_frame(kind: int, stream_id: int, payload: Payload = b"") -> bytes:
    """Return one whole frame."""
    return HEADER.pack(kind, stream_id, len(payload)) + payload


def encode_open(stream_id: int, port: int, *, credit_bytes: int | None) -> bytes:
    """Return an OPEN frame: the long form announces the credit of the agent, None gives the form of old agents."""
    if credit_bytes is None:
        return encode_frame(OPEN, stream_id, _OPEN_SHORT.pack(port))
    return encode_frame(OPEN, stream_id, _OPEN_LONG.pack(port, 0, credit_bytes))


def parse_open(payload: Payload) -> Opening:
    """Read the payload of an OPEN frame, short or long."""
    if len(payload) < _OPEN_LONG.size:
        return Opening(_OPEN_SHORT.unpack_from(payload)[0], None)
    port, _flags, credit = _OPEN_LONG.unpack_from(payload)
    return Opening(port, credit)


def encode_window(stream_id: int, credit_bytes: int) -> bytes:
    """Return a WINDOW frame that gives credit back."""
    return encode_frame(WINDOW, stream_id, _UINT32.pack(credit_bytes))


def parse_window(payload: Payload) -> int:
    """Read the credit of a WINDOW frame."""
    return int(_UINT32.unpack_from(payload)[0])


class FrameDecoder:
    """Turn any chunking of the wire into frames.

    DATA bodies come out in slices of the fed chunk, as they arrive and without a copy: a slice is valid until the chunk
    is reused. An empty DATA frame (the keepalive) gives nothing. Other frames come out whole. Never holds more than a
    header and one control payload.
    """

    __slots__ = (
        "_broken",
        "_head",
        "_kind",
        "_kinds",
        "_left_bytes",
        "_max_bytes",
        "_payload",
        "_stream_id",
        "consumed_bytes",
    )

    def __init__(self, kinds: frozenset[int], *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._kinds = kinds
        self._max_bytes = max_frame_bytes
        self._head = b""
        self._payload = b""
        self._kind = 0
        self._stream_id = 0
        self._left_bytes = 0
        self._broken = ""
        self.consumed_bytes = 0

    def feed(self, chunk: memoryview, most_frames: int | None = None) -> Iterator[Frame]:
        """Yield the frames in the chunk. Raises: WireError, then and ever after, for what the peer may not send.

        Stops before one frame more than `most_frames` begins, empty ones counted; `consumed_bytes` says how much of the
        chunk was used then, and the rest is the next to be fed.
        """
        if self._broken:
            raise WireError(self._broken)
        at, begun, self.consumed_bytes = 0, 0, len(chunk)
        end = len(chunk)
        while at < end:
            if self._left_bytes == 0:
                if begun == most_frames:
                    self.consumed_bytes = at
                    return
                begun += 1
                at = self._read_header(chunk, at, end)
                if self._head:
                    return
                if self._left_bytes == 0:
                    if self._kind != DATA:
                        yield self._kind, self._stream_id, b""
                    continue
            part = chunk[at : at + self._left_bytes]
            at += len(part)
            self._left_bytes -= len(part)
            if self._kind == DATA:
                if part:
                    yield DATA, self._stream_id, part
            elif self._left_bytes:
                self._payload += part
            else:
                payload, self._payload = self._payload + part, b""
                yield self._kind, self._stream_id, payload

    def _read_header(self, chunk: memoryview, at: int, end: int) -> int:
        """Take a header from the chunk; with too few bytes keep what is there in `_head`. Return the new position."""
        if self._head or end - at < HEADER_BYTES:
            taken = bytes(chunk[at : at + HEADER_BYTES - len(self._head)])
            self._head += taken
            at += len(taken)
            if len(self._head) < HEADER_BYTES:
                return at
            self._kind, self._stream_id, self._left_bytes = HEADER.unpack(self._head)
            self._head = b""
        else:
            self._kind, self._stream_id, self._left_bytes = HEADER.unpack_from(chunk, at)
            at += HEADER_BYTES
        self._check_header()
        return at

    def _check_header(self) -> None:
        if self._kind not in self._kinds:
            self._broken = f"frame kind {self._kind:#04x} is not allowed here"
        else:
            least, most = _SIZES.get(self._kind, (0, self._max_bytes))
            if not least <= self._left_bytes <= most:
                self._broken = f"frame {chr(self._kind)!r} of {self._left_bytes} bytes, allowed are {least} to {most}"
        if self._broken:
            raise WireError(self._broken)
