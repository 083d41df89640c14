"""The demo from start to end: every part is the real one, and everything is on loopback.

Parts come up in the order in which they need each other and go down in reverse: control plane and proxy, the device's
services, its entry in the registry and its tunnels, its agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import asyncssh

from meetingctl.client import FleetClient
from meetingctl.core.errors import Busy, ConfigError, Conflict, InvalidInput, MeetingctlError, Unreachable
from meetingctl.core.net import is_loopback, join_endpoint, parse_endpoint, parse_port_range
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.demo.device import (
    HOST,
    DeviceState,
    agent_config,
    enrol,
    is_port_free,
    open_public_port,
    read_state,
    write_ssh_config,
    write_state,
)
from meetingctl.demo.page import StatusPage, TunnelFact
from meetingctl.demo.processes import adopt_orphans, descendants, end_descendants, parents_of_all
from meetingctl.demo.sshd import DeviceSsh, load_key
from meetingctl.server.run import ControlPlane, bind_listener
from meetingctl.tunnel.agent import Agent

ONLINE_WAIT_S = 20.0
END_GRACE_S = 1.0
END_KILL_S = 3.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFacts:
    """What a visitor of the demo needs to know. Ports are the public ones."""

    server_url: str
    tunnel_server: str
    data_dir: Path
    credentials_file: Path
    api_key: Secret
    device_key: str
    ssh_port: int
    http_port: int
    ssh_config: Path
    identity: Path
    host_key_blob: bytes

    @property
    def page_url(self) -> str:
        return f"http://{HOST}:{self.http_port}/"


def demo_settings(chosen: Settings) -> Settings:
    """Return the settings of the demo's server: its addresses and the log are chosen, all else is the default.

    Raises: InvalidInput for an address that is not on loopback.
    """
    for option, endpoint in (("--api-listen", chosen.api_listen), ("--tunnel-listen", chosen.tunnel_listen)):
        host, port = parse_endpoint(endpoint)
        if not is_loopback(host):
            raise InvalidInput(
                f"the demo stays on loopback, not {endpoint}", hint=f"meetingctl demo {option} {HOST}:{port}"
            )
    return Settings(
        api_listen=chosen.api_listen,
        tunnel_listen=chosen.tunnel_listen,
        tunnel_ports=chosen.tunnel_ports,
        tunnel_ttl_s=0.0,
        log_level=chosen.log_level,
        log_format=chosen.log_format,
    )


def run_demo(settings: Settings, data_dir: Path, *, path: str, on_ready: Callable[[DemoFacts], None]) -> None:
    """Run the demo until SIGINT, SIGTERM or SIGHUP, and leave nothing behind but its data.

    `path` is the search path of the device's shells. Raises: Busy for a taken port or folder, and what a part raises.
    """

    async def show() -> None:
        async with open_stage(settings, data_dir, path=path) as facts:
            on_ready(facts)
            await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(show())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, _cancel_once, task)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())


def _cancel_once(task: asyncio.Task[None]) -> None:
    """Begin the end; whoever is impatient and asks again does not cut it short."""
    if not task.cancelling():
        task.cancel()


@contextlib.asynccontextmanager
async def open_stage(settings: Settings, data_dir: Path, *, path: str) -> AsyncIterator[DemoFacts]:
    """Bring everything up, and take it down in reverse."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(hold_folder(data_dir))
        adopt_orphans()
        before = descendants(parents_of_all(), os.getpid())
        stack.push_async_callback(
            asyncio.to_thread, partial(end_descendants, before, grace_s=END_GRACE_S, kill_s=END_KILL_S)
        )
        plane = await _start_plane(stack, settings, data_dir)
        device = await _start_device(stack, data_dir / "device", path)
        server_url = f"http://{join_endpoint(*plane.api_address)}"
        api_key = read_api_key(data_dir / "credentials.toml")
        client = stack.enter_context(FleetClient(server_url, api_key=api_key))
        pool = parse_port_range(settings.tunnel_ports)
        ssh_port, http_port = await asyncio.to_thread(_open_tunnels, client, device.state, pool)
        device.page.show_tunnels(
            [
                TunnelFact("ssh", join_endpoint(HOST, ssh_port), device.state.ssh_port),
                TunnelFact("http", join_endpoint(HOST, http_port), device.state.http_port),
            ]
        )
        agent = Agent(agent_config(device.state, plane.tunnel_address, server_url))
        agent.start()
        stack.push_async_callback(asyncio.to_thread, agent.close)
        await _wait_online(agent, device, ssh_port)
        yield DemoFacts(
            server_url=server_url,
            tunnel_server=join_endpoint(*plane.tunnel_address),
            data_dir=data_dir,
            credentials_file=data_dir / "credentials.toml",
            api_key=api_key,
            device_key=device.state.device_key,
            ssh_port=ssh_port,
            http_port=http_port,
            ssh_config=write_ssh_config(data_dir / "device", device.state.device_key, ssh_port),
            identity=data_dir / "device" / "id_ed25519",
            host_key_blob=device.host_key.public_data,
        )


@contextlib.contextmanager
def hold_folder(data_dir: Path) -> Iterator[None]:
    """Keep a second demo off the same data. Raises: Busy naming the process that holds it, ConfigError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data_dir / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(f"cannot write in {data_dir}: {exc.strerror}", hint="meetingctl demo --data DIR") from exc
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = file.read(20).strip() or "unknown"
            raise Busy(
                f"a demo runs already on {data_dir} (process {holder})",
                hint="use that one, or meetingctl demo --data DIR with other ports",
            ) from exc
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def claim(endpoint: str, option: str) -> socket.socket:
    """Listen on an address of the demo. Raises: Busy naming the option that chooses another one."""
    try:
        return bind_listener(endpoint)
    except Conflict as exc:
        host, port = parse_endpoint(endpoint)
        other = join_endpoint(host, port + 10_000 if port < 50_000 else port - 10_000)
        raise Busy(exc.message, hint=f"meetingctl demo {option} {other}") from exc


def read_api_key(path: Path) -> Secret:
    """Return the administrator's key that the server wrote. Raises: ConfigError."""
    try:
        return Secret(str(tomllib.loads(path.read_text(encoding="utf-8"))["default"]["api_key"]))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"no administrator's key in {path}", hint=f"start afresh: rm -r {path.parent}") from exc


async def _start_plane(stack: contextlib.AsyncExitStack, settings: Settings, data_dir: Path) -> ControlPlane:
    listener = claim(settings.api_listen, "--api-listen")
    stack.callback(listener.close)
    # The proxy binds its own socket; asking first gives the error that names the demo's option.
    claim(settings.tunnel_listen, "--tunnel-listen").close()
    plane = ControlPlane(settings, data_dir, listener=listener)
    await plane.start()
    stack.push_async_callback(plane.close)
    return plane


@dataclass(frozen=True, slots=True)
class _Device:
    state: DeviceState
    host_key: asyncssh.SSHKey
    page: StatusPage


async def _start_device(stack: contextlib.AsyncExitStack, folder: Path, path: str) -> _Device:
    """Start the device's services, on the ports of the last time when they are free."""
    state = read_state(folder / "device.json")
    host_key = load_key(folder / "ssh_host_ed25519_key", state.device_key)
    visitor_key = load_key(folder / "id_ed25519", f"visitor of {state.device_key}")
    ssh = DeviceSsh(name=state.device_key, host_key=host_key, visitor_key=visitor_key, path=path)
    await ssh.start(HOST, state.ssh_port if is_port_free(HOST, state.ssh_port) else 0)
    stack.push_async_callback(ssh.close)
    page_port = state.http_port if is_port_free(HOST, state.http_port) else 0
    page = StatusPage(HOST, page_port, device=state.device_key)
    stack.push_async_callback(asyncio.to_thread, page.close)
    page.start()
    state = replace(state, ssh_port=ssh.port, http_port=page.port)
    write_state(folder / "device.json", state)
    return _Device(state, host_key, page)


def _open_tunnels(client: FleetClient, state: DeviceState, pool: range) -> tuple[int, int]:
    enrol(client, state)
    open_port = partial(open_public_port, client, state.device_key, pool=pool, is_free=partial(is_port_free, HOST))
    return open_port("ssh"), open_port("http")


async def _wait_online(agent: Agent, device: _Device, ssh_port: int) -> None:
    """Wait until the device's own host key is seen through the tunnel. Raises: Unreachable."""
    deadline_s = asyncio.get_running_loop().time() + ONLINE_WAIT_S
    while True:
        with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                seen = await asyncssh.get_server_host_key(
                    HOST, ssh_port, config=None, server_host_key_algs=["ssh-ed25519"]
                )
            if seen is not None and seen.public_data != device.host_key.public_data:
                raise MeetingctlError(
                    f"another SSH server answers on port {ssh_port}", hint="meetingctl demo --tunnel-ports 19050-19130"
                )
            return
        if asyncio.get_running_loop().time() > deadline_s:
            reason = agent.status().error or agent.status().state
            raise Unreachable(f"{device.state.device_key}: not online within {ONLINE_WAIT_S:g} s: {reason}")
        await asyncio.sleep(_POLL_S)
