"""Pipes and terminals as awaitable ends.

asyncio's own pipe transports lose the last output of a terminal, which ends with an error (EIO) and no end of file.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable


class Descriptor:
    """One end of a pipe or a terminal: reads and writes wait without stopping the loop, closing twice is harmless."""

    def __init__(self, number: int) -> None:
        os.set_blocking(number, False)
        self.number = number
        self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self.number)

    async def read(self, most_bytes: int) -> bytes:
        """Return what is there, nothing at the end."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return os.read(self.number, most_bytes)
            except BlockingIOError:
                await _ready(loop.add_reader, loop.remove_reader, self.number)
            except OSError as exc:
                # Linux reports EIO for a terminal whose other end nobody holds any more.
                if exc.errno == errno.EIO:
                    return b""
                raise

    async def write(self, chunk: bytes) -> None:
        """Write all of it. Raises: OSError."""
        loop = asyncio.get_running_loop()
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self.number, rest) :]
            except BlockingIOError:
                await _ready(loop.add_writer, loop.remove_writer, self.number)


async def _ready(add: Callable[..., None], remove: Callable[[int], object], number: int) -> None:
    """Wait until a descriptor can be read or written, as `add` and `remove` say."""
    ready = asyncio.Event()
    add(number, ready.set)
    try:
        await ready.wait()
    finally:
        remove(number)
