"""A network between the operator and a device that can be cut: connections break without a word, later ones go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

POLL_S = 0.02


@dataclass
class Relay:
    """Passes bytes on to a port of this machine; `sent_bytes` went that way since the last cut."""

    port: int
    sent_bytes: int = 0
    connections: int = 0
    cuts: int = 0
    _server: asyncio.Server | None = None
    _is_refusing: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _rules: list[tuple[Callable[[], bool], Callable[[], object]]] = field(default_factory=list)
    _watch: asyncio.Task[None] | None = None

    @property
    def target(self) -> str:
        assert self._server is not None
        return f"anyone@127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self._watch = asyncio.create_task(self._cut_by_rules())

    def cut_when(self, condition: Callable[[], bool], *, then: Callable[[], object] = lambda: None) -> None:
        """Cut once when the condition holds; of several rules the next counts after the one before."""
        self._rules.append((condition, then))

    def refuse(self) -> None:
        self._is_refusing = True

    def accept(self) -> None:
        self._is_refusing = False
        self.connections = 0

    async def close(self) -> None:
        assert self._server is not None
        assert self._watch is not None
        self._watch.cancel()
        self._server.close()
        self._cut()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self.sent_bytes = 0

    async def _cut_by_rules(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if self._rules and self._rules[0][0]():
                _, then = self._rules.pop(0)
                self.cuts += 1
                then()
                self._cut()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            writer.transport.abort()
            return
        self.connections += 1
        device_reader, device_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers |= {writer, device_writer}
        await asyncio.gather(self._copy(reader, device_writer, True), self._copy(device_reader, writer, False))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: bool) -> None:
        try:
            while chunk := await reader.read(65536):
                self.sent_bytes += len(chunk) if counts else 0
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
