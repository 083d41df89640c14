"""A device for the remote commands: a real SSH server on loopback, in a thread of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from loopthread import LoopThread
from meetingctl.core.sshkey import PublicKey
from meetingctl.demo.sshd import DeviceSsh, load_key


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
    keys = tmp_path / "device"
    host_key, visitor_key = load_key(keys / "host_key", "host"), load_key(keys / "id", "visitor")
    server = DeviceSsh(name="demo-cam", host_key=host_key, visitor_key=visitor_key, path=os.environ["PATH"])
    loop_thread.run(server.start("127.0.0.1", 0))
    yield Device(keys, host_key, keys / "id", server.port)
    loop_thread.run(server.close())


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
