"""Bytes that a socket has not accepted yet."""

from __future__ import annotations

import socket
from collections import deque

_CHUNK_BYTES = 64 << 10
_CHUNKS_PER_SEND = 16


class ByteQueue:
    """Keep bytes in chunks of about 64 KiB, so that neither tiny writes nor long queues cost more than their bytes."""

    __slots__ = ("_chunks", "_size_bytes")

    def __init__(self) -> None:
        self._chunks: deque[bytearray] = deque()
        self._size_bytes = 0

    def __len__(self) -> int:
        return self._size_bytes

    def append(self, part: bytes | memoryview) -> None:
        """Copy the bytes to the end."""
        self._size_bytes += len(part)
        if self._chunks and len(self._chunks[-1]) + len(part) <= _CHUNK_BYTES:
            self._chunks[-1] += part
        else:
            self._chunks.append(bytearray(part))

    def send_to(self, sock: socket.socket) -> int:
        """Write as much as the socket takes at once and return the count. Raises: OSError of the socket."""
        total = 0
        while self._chunks:
            chunks = [self._chunks[i] for i in range(min(len(self._chunks), _CHUNKS_PER_SEND))]
            offered = sum(map(len, chunks))
            try:
                sent = sock.sendmsg(chunks)
            except BlockingIOError:
                break
            self._drop(sent)
            total += sent
            if sent < offered:
                break
        return total

    def _drop(self, count_bytes: int) -> None:
        self._size_bytes -= count_bytes
        while count_bytes:
            head = self._chunks[0]
            if len(head) > count_bytes:
                del head[:count_bytes]
                return
            count_bytes -= len(head)
            self._chunks.popleft()
