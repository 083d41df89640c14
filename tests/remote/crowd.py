"""Many devices on loopback: real SSH servers, each with one way of behaving."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from meetingctl.demo.sshd import load_key

BEHAVIOURS = ("ok", "exit", "mute", "hang", "refuse", "drop")


@dataclass
class Crowd:
    """Servers by behaviour: `ok` echoes the command, `exit` ends with 7, `mute` never greets, `hang` never ends,
    `refuse` is a closed port, `drop` cuts the connection in the middle of its output."""

    folder: Path
    targets: dict[str, list[str]] = field(default_factory=dict)
    sessions: int = 0
    busiest: int = 0
    commands: list[str] = field(default_factory=list)
    _running: int = 0
    _servers: list[asyncssh.SSHAcceptor | asyncio.Server] = field(default_factory=list)
    _closed: list[socket.socket] = field(default_factory=list)
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def identity(self) -> Path:
        return self.folder / "id"

    def names(self, *behaviours: str) -> list[str]:
        return [target for behaviour in behaviours for target in self.targets.get(behaviour, [])]

    async def start(self, **counts: int) -> None:
        host_key, visitor = load_key(self.folder / "host_key", "host"), load_key(self.identity, "visitor")
        visitors = asyncssh.import_authorized_keys(visitor.export_public_key().decode())
        for behaviour, count in counts.items():
            for _ in range(count):
                port = await self._start_one(behaviour, host_key, visitors)
                self.targets.setdefault(behaviour, []).append(f"pi@127.0.0.1:{port}")

    async def _start_one(self, behaviour: str, host_key: asyncssh.SSHKey, visitors: asyncssh.SSHAuthorizedKeys) -> int:
        if behaviour == "refuse":
            held = socket.socket()
            held.bind(("127.0.0.1", 0))  # bound, not listening: the port refuses and nobody else gets it
            self._closed.append(held)
            return int(held.getsockname()[1])
        if behaviour == "mute":
            mute = await asyncio.start_server(self._say_nothing, "127.0.0.1", 0)
            self._servers.append(mute)
            return int(mute.sockets[0].getsockname()[1])
        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=visitors,
            process_factory=lambda process: self._serve(process, behaviour),
            encoding=None,
        )
        self._servers.append(acceptor)
        return acceptor.get_port()

    async def _say_nothing(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        await reader.read()

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes], behaviour: str) -> None:
        self.sessions += 1
        self._running += 1
        self.busiest = max(self.busiest, self._running)
        try:
            await self._answer(process, behaviour)
        finally:
            self._running -= 1

    async def _answer(self, process: asyncssh.SSHServerProcess[bytes], behaviour: str) -> None:
        command = process.command or ""
        self.commands.append(command)
        await asyncio.sleep(0.02)
        if behaviour == "hang":
            process.stdout.write(b"begun\n")
            await process.stdin.read()
            await asyncio.Event().wait()
        elif behaviour == "drop":
            process.stdout.write(b"half of it\n" * 20_000)
            await process.stdout.drain()
            process.channel.get_connection().abort()
        else:
            process.stdout.write(f"ran {command}\n".encode())
            process.exit(7 if behaviour == "exit" else 0)

    async def close(self) -> None:
        for writer in self._connections:
            writer.transport.abort()
        for server in self._servers:
            server.close()
        for held in self._closed:
            held.close()


def with_pins(crowd: Crowd, known_hosts: Path, targets: Sequence[str]) -> None:
    """Pin the host key of these targets, as after a first contact."""
    key = load_key(crowd.folder / "host_key", "host").export_public_key().decode().split()
    known_hosts.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"[127.0.0.1]:{target.rpartition(':')[2]} {key[0]} {key[1]}\n" for target in targets]
    known_hosts.write_text("".join(lines))
