"""Real parts for the tunnel tests: a directory in memory, services, visitors, and a proxy on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.tunnel.agentconfig import AgentConfig
from meetingctl.tunnel.directory import Admission, Desired, Event, Refused, Report, Tunnel, Visit
from meetingctl.tunnel.proxy import Proxy
from meetingctl.tunnel.rules import LinkRules, ProxyLimits

T = TypeVar("T")
KEY = "CAM-1"
TOKEN = "3FA9C1"
FREE = ProxyLimits(visitors_per_address_per_s=0, visitors_per_tunnel_per_s=0, report_interval_s=0.05)


def wait_until(condition: Callable[[], T], *, timeout_s: float = 5.0, what: str = "") -> T:
    """Poll until the condition holds and return its value."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(0.005)
    return value


def open_descriptors() -> int:
    """Return how many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class MemoryDirectory:
    """A registry in memory: devices with tokens, wanted tunnels, and all it was told."""

    tokens: dict[str, str] = field(default_factory=lambda: {KEY: TOKEN})
    tunnels: dict[int, Tunnel] = field(default_factory=dict)
    drops: list[tuple[str, str]] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    unauthorized: set[str] = field(default_factory=set)
    generation: int = 0
    fails: bool = False
    admit_delay_s: float = 0.0

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()

    async def admit(self, device_key: str, token: str, peer: str) -> Admission:
        if self.admit_delay_s:
            await asyncio.sleep(self.admit_delay_s)
        if self.fails:
            raise RuntimeError("registry is down")
        if self.tokens.get(device_key, "").upper() != token.upper():
            raise Refused
        if device_key in self.unauthorized:
            raise Refused("device not authorized")
        self.generation += 1
        return Admission(device_key, self.generation)

    async def sync(self, report: Report) -> Desired:
        if self.fails:
            raise RuntimeError("registry is down")
        self.reports = [*self.reports[-20:], report]
        self.visits += report.visits
        self.events += report.events
        drops, self.drops = tuple(self.drops), []
        return Desired(tuple(self.tunnels.values()), drops)

    async def wait_change(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    def notify(self) -> None:
        self._changed.set()


class Bed:
    """A proxy with its directory on an asyncio thread."""

    def __init__(
        self,
        *,
        limits: ProxyLimits = FREE,
        rules: LinkRules | None = None,
        listen: str = "127.0.0.1:0",
        **settings: Any,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = MemoryDirectory()
        self.settings = replace(Settings(), tunnel_listen=listen, tunnel_poll_s=0.1, **settings)
        self._thread = threading.Thread(target=self._run_loop, daemon=True)
        self._thread.start()
        self.proxy = Proxy(settings=self.settings, directory=self.directory, limits=limits, rules=rules)
        self.call(self.proxy.start())
        self.host, self.port = self.proxy.address

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = 30.0) -> T:
        """Run a coroutine on the proxy's loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(timeout_s)

    def do(self, action: Callable[[], T]) -> T:
        """Run a function on the proxy's loop."""

        async def run() -> T:
            return action()

        return self.call(run())

    def open(self, local_port: int, *, device_key: str = KEY, service: str = "relay", **facts: Any) -> int:
        """Want a tunnel and return its public port."""
        port = free_port()
        tunnel = Tunnel(port=port, device_key=device_key, service=service, local_port=local_port, **facts)
        self.want(tunnel)
        return port

    def want(self, *tunnels: Tunnel) -> None:
        """Add or change wanted tunnels."""

        def change() -> None:
            self.directory.tunnels |= {tunnel.port: tunnel for tunnel in tunnels}
            self.directory.notify()

        self.do(change)

    def unwant(self, port: int) -> None:
        """Delete a tunnel."""

        def change() -> None:
            del self.directory.tunnels[port]
            self.directory.notify()

        self.do(change)

    def drop(self, device_key: str, reason: str) -> None:
        """Revoke a device."""

        def change() -> None:
            self.directory.tokens.pop(device_key, None)
            self.directory.drops.append((device_key, reason))
            self.directory.notify()

        self.do(change)

    def snapshot(self) -> dict[str, Any]:
        return self.do(self.proxy.snapshot)

    def tunnel(self, port: int) -> dict[str, Any]:
        """Return the live figures of one tunnel, empty when there is none."""
        return next((entry for entry in self.snapshot()["tunnels"] if entry["port"] == port), {})

    def agents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.snapshot()["agents"]
        return found

    def streams(self) -> int:
        return sum(agent["streams"] for agent in self.agents())

    def wait_online(self, key: str = KEY, *, timeout_s: float = 10.0) -> None:
        wait_until(
            lambda: any(agent["device_key"] == key for agent in self.agents()), timeout_s=timeout_s, what="agent online"
        )

    def wait_listening(self, port: int, *, timeout_s: float = 10.0) -> None:
        wait_until(lambda: self.tunnel(port).get("listening"), timeout_s=timeout_s, what="port listens")

    def close(self) -> None:
        try:
            self.call(self.proxy.close())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)
            self.loop.close()


def agent_config(bed: Bed, *ports: int, **changes: Any) -> AgentConfig:
    """Return the configuration of the test device's agent."""
    facts: dict[str, Any] = {
        "server_host": bed.host,
        "server_port": bed.port,
        "device_key": KEY,
        "token": Secret(TOKEN),
        "ports": frozenset(ports),
        "backoff_first_s": 0.1,
        "backoff_most_s": 0.5,
    }
    return AgentConfig(**(facts | changes))


class Child:
    """A module of this folder as a process of its own, which says one line when it is ready."""

    def __init__(self, module: str, *arguments: object, prefix: tuple[str, ...] = ()) -> None:
        argv = [*prefix, sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)]
        root = Path(__file__).parents[__package__.count(".") + 1]
        self.process = subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def rss_bytes(self) -> int:
        """Return the resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def kill(self) -> None:
        """Kill it with no chance to say goodbye."""
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdout, self.process.stdin):
            if stream is not None:
                stream.close()


def connect(port: int, *, timeout_s: float = 10.0) -> socket.socket:
    """Visit a public port."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


def read_all(sock: socket.socket) -> bytes:
    """Read to the end."""
    received = bytearray()
    while chunk := sock.recv(1 << 16):
        received += chunk
    return bytes(received)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Read a known number of bytes. Raises: ConnectionError when the end comes first."""
    received = bytearray()
    while len(received) < count:
        chunk = sock.recv(count - len(received))
        if not chunk:
            raise ConnectionError(f"ended after {len(received)} of {count} bytes")
        received += chunk
    return bytes(received)


@contextlib.contextmanager
def service(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a TCP service on a thread per connection and yield its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def run(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            serve(sock)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sockets.append(sock)
            thread = threading.Thread(target=run, args=(sock,), daemon=True)
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)


def echo(sock: socket.socket) -> None:
    """Send everything back, then end."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while chunk := sock.recv(1 << 16):
        sock.sendall(chunk)
