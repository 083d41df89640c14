"""Run the services: one process, one lifespan that owns everything long-lived and takes it down in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import uvicorn

from meetingctl.core.descriptors import raise_descriptor_limit
from meetingctl.core.errors import ConfigError, Conflict
from meetingctl.core.net import is_loopback, join_endpoint, parse_endpoint, parse_port_range
from meetingctl.core.settings import Settings
from meetingctl.server.app import make_app
from meetingctl.server.bounded_http import BoundedHttp
from meetingctl.server.builder.worker import run_packages
from meetingctl.server.changes import hear_for_ever
from meetingctl.server.credentials_file import keep_address, write_credentials
from meetingctl.server.db.engine import database_url, open_database
from meetingctl.server.db.migrate import migrate
from meetingctl.server.devices.presence_watch import watch_presence
from meetingctl.server.identity.keys import NewKey, ensure_builder_key, ensure_first_admin
from meetingctl.server.keys.files import keep_files
from meetingctl.server.state import ServerState, make_state
from meetingctl.server.sweeper import WORKING_S, recover_changes, sweep_for_ever
from meetingctl.server.tunnels.directory import RegistryDirectory
from meetingctl.server.tunnels.ports import fill_pool
from meetingctl.server.updates.releases import recover
from meetingctl.server.updates.worker import run_rollouts
from meetingctl.server.webhooks.worker import run_deliveries

if TYPE_CHECKING:
    from meetingctl.tunnel.proxy import Proxy

log = logging.getLogger(__name__)
ALL_PARTS = frozenset({"api", "tunnel"})
_OPEN_WARNING_S = 3600.0


class ControlPlane:
    """The API and, on request, the tunnel proxy, in one process on one event loop."""

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        parts: frozenset[str] = ALL_PARTS,
        *,
        listener: socket.socket | None = None,
    ) -> None:
        self._settings = replace(settings, tunnel_public_host=told_host(settings))
        self._data_dir = data_dir
        self._parts = parts
        self._listener = listener
        self._stack = contextlib.AsyncExitStack()
        self._proxy: Proxy | None = None
        self.api_address: tuple[str, int] = ("", 0)
        self.first_key: str | None = None  # the text of a key made at this start, to be shown once

    @property
    def tunnel_address(self) -> tuple[str, int]:
        """Where agents dial in; ("", 0) without a proxy."""
        return self._proxy.address if self._proxy is not None else ("", 0)

    async def start(self) -> None:
        """Bring everything up. Raises: ConfigError, Conflict with the port or folder that is taken."""
        check_mode(self._settings)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def close(self) -> None:
        """Refuse new work, finish what is in flight, close in reverse."""
        await self._stack.aclose()

    async def _start(self) -> None:
        raise_descriptor_limit()
        _make_private(self._data_dir)
        url = database_url(self._settings.db_url, self._data_dir)
        if url.get_backend_name() == "sqlite":
            self._stack.enter_context(only_one(Path(str(url.database))))
        listener = self._listener or bind_listener(self._settings.api_listen)
        self._stack.callback(listener.close)
        self.api_address = listener.getsockname()[:2]
        database = open_database(url)
        self._stack.callback(database.close)
        await asyncio.to_thread(migrate, database)
        state = make_state(self._settings, self._data_dir, database)
        self._stack.enter_context(state.metrics.recent.attached())
        state.writer.start()
        self._stack.push_async_callback(asyncio.to_thread, state.writer.close)
        await self._prepare(state)
        directory = RegistryDirectory(state)
        if "tunnel" in self._parts:
            await self._start_proxy(state, directory)
        await self._stack.enter_async_context(_background(hear_for_ever(state.changes, database)))
        await self._stack.enter_async_context(_background(sweep_for_ever(state)))
        await self._stack.enter_async_context(_background(run_rollouts(state)))
        await self._stack.enter_async_context(_background(watch_presence(state)))
        await self._stack.enter_async_context(_background(run_deliveries(state)))
        await self._stack.enter_async_context(_background(keep_files(state)))
        await self._stack.enter_async_context(_background(run_packages(state)))
        if self._settings.mode == "legacy-open":
            await self._stack.enter_async_context(_background(_warn_open()))
        await self._stack.enter_async_context(_serving(make_app(state, directory), listener, self._settings))

    async def _prepare(self, state: ServerState) -> None:
        """Make the first key and the pool of ports."""
        bootstrap = self._settings.bootstrap_token.reveal()
        made = await state.writer.run_async(lambda connection: ensure_first_admin(connection, bootstrap))
        builder_token = self._settings.builder_api_token.reveal()
        await state.writer.run_async(lambda connection: ensure_builder_key(connection, builder_token))
        ports = parse_port_range(self._settings.tunnel_ports)
        await state.writer.run_async(lambda connection: fill_pool(connection, ports))
        self._keep_key(made)
        is_alone = state.database.dialect == "sqlite"
        for name in await asyncio.to_thread(recover_changes, state, older_than_s=0.0 if is_alone else WORKING_S):
            log.warning("put back a file whose change was interrupted", extra={"file": name})
        for name in await asyncio.to_thread(recover, state, is_alone=is_alone):
            log.warning("removed a publication that did not finish", extra={"release": name})

    def _keep_key(self, made: NewKey | None) -> None:
        host, port = self.api_address
        url = f"http://{join_endpoint('127.0.0.1' if host in ('0.0.0.0', '::') else host, port)}"  # noqa: S104
        if made is None or self._settings.bootstrap_token:
            keep_address(self._data_dir, url)
        else:
            self.first_key = made.text
            write_credentials(self._data_dir, url, made.text)

    async def _start_proxy(self, state: ServerState, directory: RegistryDirectory) -> None:
        from meetingctl.tunnel.proxy import Proxy

        proxy = Proxy(settings=self._settings, directory=directory, name=_proxy_name(self._settings))
        try:
            await proxy.start()
        except (ConfigError, Conflict) as exc:
            raise type(exc)(exc.message, hint="choose another address with --tunnel-listen") from exc
        self._stack.push_async_callback(proxy.close)
        state.metrics.watch_tunnels(proxy.counters)
        self._proxy = proxy


def _proxy_name(settings: Settings) -> str:
    """Name a proxy among those that share a registry, the same after a restart, so that it replaces what it said."""
    return f"{socket.gethostname()[:40]}:{settings.tunnel_listen}"[:64]


def told_host(settings: Settings) -> str:
    """Return the host that visitors are told: the setting, or the one address where the public ports are."""
    bind = settings.tunnel_bind
    if not is_loopback(settings.tunnel_public_host) or is_loopback(bind):
        return settings.tunnel_public_host
    if bind in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        log.warning("visitors are told %s; name this host with --public-host", settings.tunnel_public_host)
        return settings.tunnel_public_host
    return bind


def check_mode(settings: Settings) -> None:
    """Raises: ConfigError when mode legacy-open would be open to the world."""
    host, _ = parse_endpoint(settings.api_listen)
    if settings.mode == "legacy-open" and not is_loopback(host) and not settings.legacy_allow_from:
        raise ConfigError(
            f"mode legacy-open on {host} would let everybody in",
            hint="listen on 127.0.0.1, or name the networks with --allow-from CIDR",
        )


def bind_listener(endpoint: str) -> socket.socket:
    """Bind and listen. Raises: Conflict when the port is taken, ConfigError when the address is not ours."""
    host, port = parse_endpoint(endpoint)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(4096)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        if exc.errno in (98, 48):
            raise Conflict(
                f"port {port} on {host} is taken",
                hint="choose another with --listen HOST:PORT (--api-listen in `serve all`)",
            ) from exc
        raise ConfigError(
            f"cannot listen on {endpoint}: {exc.strerror or exc}",
            hint="choose another with --listen HOST:PORT, or --api-listen in `serve all`",
        ) from exc
    return listener


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(f"cannot make {folder}: {exc.strerror}", hint="choose another folder with --data") from exc


@contextlib.contextmanager
def only_one(database: Path) -> Iterator[IO[str]]:
    """Hold the lock of a SQLite file. Raises: Conflict when another server holds it."""
    hint = "choose another folder with --data"
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        file = database.with_name(f"{database.name}.lock").open("w")
    except OSError as exc:
        raise ConfigError(f"cannot write in {database.parent}: {exc.strerror}", hint=hint) from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Conflict(f"another server uses {database}", hint=f"stop it, or {hint}") from exc
        yield file


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one place that decides to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _serving(app: Any, listener: socket.socket, settings: Settings) -> AsyncIterator[None]:
    """Serve HTTP until the context ends, then give requests in flight `drain_s` to finish."""
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedHttp,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
            backlog=4096,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn offers a flag, no event
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine beside the rest, cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _warn_open() -> None:
    while True:
        log.warning("mode legacy-open: anybody who reaches the API may change the fleet")
        await asyncio.sleep(_OPEN_WARNING_S)


def serve_all(
    settings: Settings,
    data_dir: Path,
    parts: frozenset[str] = ALL_PARTS,
    *,
    announce: Callable[[str], object] = sys.stderr.write,
    listener: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, with several processes where `api_workers` says so.

    Raises: what `ControlPlane.start` raises. `listener` is a bound socket, of a worker for example.
    """
    if settings.api_workers > 1 and listener is None:
        from meetingctl.server.workers import serve_workers

        serve_workers(settings, data_dir, parts, announce=announce)
        return

    async def serve() -> None:
        plane = ControlPlane(settings, data_dir, parts, listener=listener)
        stop = _stop_event()
        await plane.start()
        _spare_the_collector()
        announce(_welcome(plane, settings, data_dir))
        try:
            await stop.wait()
            log.info("stopping")
        finally:
            await plane.close()

    run_loop(serve())


def _spare_the_collector() -> None:
    """Look at what was loaded at the start no more, and rarely at the index of devices: 3 % of a busy server's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def serve_tunnel(settings: Settings, *, announce: Callable[[str], object] = sys.stderr.write) -> None:
    """Serve only the tunnel proxy, against the API at `server_url` with a service key of role `proxy`."""
    from meetingctl.client import FleetClient
    from meetingctl.tunnel.api_directory import ApiDirectory
    from meetingctl.tunnel.proxy import Proxy

    async def serve() -> None:
        stop = _stop_event()
        async with contextlib.AsyncExitStack() as stack:
            client = FleetClient(settings.server_url, api_key=settings.api_key, timeout_s=min(10.0, settings.timeout_s))
            stack.callback(client.close)
            proxy = Proxy(settings=settings, directory=ApiDirectory(client), name=_proxy_name(settings))
            await proxy.start()
            stack.push_async_callback(proxy.close)
            announce(f"tunnel proxy for {settings.server_url} on {join_endpoint(*proxy.address)}\n")
            await stop.wait()

    run_loop(serve())


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work)


def _welcome(plane: ControlPlane, settings: Settings, data_dir: Path) -> str:
    lines = [f"api     http://{join_endpoint(*plane.api_address)}  (mode {settings.mode})"]
    if plane.tunnel_address[1]:
        lines.append(f"tunnel  {join_endpoint(*plane.tunnel_address)}, public ports {settings.tunnel_ports}")
    lines.append(f"data    {data_dir}")
    if plane.first_key:
        lines.append(f"first admin key, shown once, also in {data_dir / 'credentials.toml'}:")
        lines.append(f"  {plane.first_key}")
    return "\n".join(lines) + "\n"
