"""The demo device's SSH server on a free port, and OpenSSH's programs pointed at it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from meetingctl.demo.sshd import DeviceSsh, load_key


class LoopThread:
    """An event loop in a thread, for a server that a synchronous test talks to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


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
def openssh(tmp_path: Path) -> Iterator[OpenSsh]:
    if not all(map(shutil.which, ("ssh", "scp"))):
        if os.environ.get("CI") == "true":
            pytest.fail("ssh and scp are missing: apt install openssh-client")
        pytest.skip("needs ssh and scp: apt install openssh-client")
    host_key, visitor_key = load_key(tmp_path / "host", "host"), load_key(tmp_path / "id", "visitor")
    thread = LoopThread()
    server = DeviceSsh(host_key=host_key, visitor_key=visitor_key, path=os.environ["PATH"])
    thread.run(server.start("127.0.0.1", 0))
    yield OpenSsh(tmp_path, server.port, host_key.export_public_key().decode().strip())
    thread.run(server.close())
    thread.close()
