"""The demo device's SSH server on a free port, and OpenSSH's programs pointed at it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loopthread import LoopThread
from meetingctl.demo.sshd import DeviceSsh, load_key


class OpenSsh:
    """Runs ssh, scp and sftp with the demo key and the demo host key, and nothing of the user's."""

    def __init__(self, folder: Path, port: int, host_key: str) -> None:
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"device {host_key}\n")
        self.options = ["-F", "none", "-i", str(folder / "id"), "-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=device"]
        self.options += ["-o", f"UserKnownHostsFile={known_hosts}", "-o", "StrictHostKeyChecking=yes"]
        self.options += ["-o", "BatchMode=yes", "-o", f"Port={port}"]

    def argv(self, *words: str) -> list[str]:
        return ["ssh", *self.options, "device@127.0.0.1", *words]

    def __call__(self, *words: str, **more) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.argv(*words), capture_output=True, timeout=30, **more)

    def copy(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["scp", *self.options, *words], capture_output=True, timeout=60)


@pytest.fixture
def openssh(tmp_path: Path, require_program: Callable[..., str]) -> Iterator[OpenSsh]:
    for program in ("ssh", "scp", "sftp"):
        require_program(program, package="openssh-client")
    host_key, visitor_key = load_key(tmp_path / "host", "host"), load_key(tmp_path / "id", "visitor")
    thread = LoopThread()
    server = DeviceSsh(name="demo-cam", host_key=host_key, visitor_key=visitor_key, path=os.environ["PATH"])
    thread.run(server.start("127.0.0.1", 0))
    yield OpenSsh(tmp_path, server.port, host_key.export_public_key().decode().strip())
    thread.run(server.close())
    thread.close()
