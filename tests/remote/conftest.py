"""A device for the remote commands: a real SSH server on loopback, in a thread of its own."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from cli.runner import Cli
from loopthread import LoopThread
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.core.sshkey import PublicKey
from meetingctl.demo.sshd import DeviceSsh, load_key
from meetingctl.server.run import ControlPlane, bind_listener

from .machine import Machine

ADMIN = "a" * 40
POOL_PORTS = 4


@dataclass
class Device:
    """Where the server listens, and the keys of both sides."""

    folder: Path
    host_key: asyncssh.SSHKey
    identity: Path
    port: int = 0

    @property
    def target(self) -> str:
        return f"anyone@127.0.0.1:{self.port}"

    @property
    def offered(self) -> PublicKey:
        return PublicKey(self.host_key.public_data)


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture
def device(tmp_path: Path, loop_thread: LoopThread) -> Iterator[Device]:
    yield from serve_device(tmp_path / "device", loop_thread, os.environ["PATH"])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """The stand-ins for the system's programs on `camera`."""
    machine = Machine(tmp_path / "machine")
    machine.install()
    return machine


@pytest.fixture
def camera(tmp_path: Path, loop_thread: LoopThread, machine: Machine) -> Iterator[Device]:
    """A device whose system is `machine`."""
    yield from serve_device(tmp_path / "camera", loop_thread, f"{machine.bin}:{os.environ['PATH']}")


@pytest.fixture
def second_camera(tmp_path: Path, loop_thread: LoopThread, machine: Machine) -> Iterator[Device]:
    """Another SSH server into the same machine."""
    yield from serve_device(tmp_path / "camera", loop_thread, f"{machine.bin}:{os.environ['PATH']}")


def serve_device(keys: Path, loop_thread: LoopThread, path: str) -> Iterator[Device]:
    host_key, visitor_key = load_key(keys / "host_key", "host"), load_key(keys / "id", "visitor")
    server = DeviceSsh(name="demo-cam", host_key=host_key, visitor_key=visitor_key, path=path)
    loop_thread.run(server.start("127.0.0.1", 0))
    yield Device(keys, host_key, keys / "id", server.port)
    loop_thread.run(server.close())


@pytest.fixture
def here(tmp_path: Path) -> Cli:
    """The command line in this process, which is quicker to start."""
    home = tmp_path / "home"
    home.mkdir()
    return Cli(home)


@dataclass
class CommandLine:
    """Runs `meetingctl` as a user with an empty home would."""

    home: Path

    @property
    def known_hosts(self) -> Path:
        return self.home / ".config/meetingctl/known_hosts"

    def start(self, *args: str, **more) -> subprocess.Popen[bytes]:
        plain = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", "meetingctl", *args],
            **{"env": plain, "stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **more},
        )

    def __call__(self, *args: str, **more) -> subprocess.CompletedProcess[bytes]:
        with self.start(*args, **more) as process:
            try:
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        return subprocess.CompletedProcess(args, process.returncode, out, err)


@pytest.fixture
def meetingctl(tmp_path: Path) -> CommandLine:
    home = tmp_path / "home"
    home.mkdir()
    return CommandLine(home)


def free_pool() -> str:
    """Return a range of ports of which nobody listens on any."""
    for _ in range(200):
        first = random.randrange(12_000, 32_000)
        try:
            for port in range(first, first + POOL_PORTS):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return f"{first}-{first + POOL_PORTS - 1}"
    raise AssertionError("no free ports in a row")


@pytest.fixture
def plane(tmp_path: Path, loop_thread: LoopThread) -> Iterator[ControlPlane]:
    settings = Settings(
        api_listen="127.0.0.1:0",
        tunnel_listen="127.0.0.1:0",
        tunnel_ports=free_pool(),
        bootstrap_token=Secret(ADMIN),
        log_level="warning",
    )
    with bind_listener(settings.api_listen) as listener:
        plane = ControlPlane(settings, tmp_path / "data", listener=listener)
        loop_thread.run(plane.start())
        yield plane
        loop_thread.run(plane.close())
