"""The real daemon in a process of its own, and plain HTTP to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meetingctl.device.system import System

from .schemas import request

DEADLINE_S = 45.0
XML = {"Content-Type": "application/soap+xml; charset=utf-8"}


class Running:
    """One daemon below `root` on a free port; its log is a file."""

    def __init__(
        self,
        root: Path,
        *,
        path: str = "",
        prefix: tuple[str, ...] = (),
        host: str = "127.0.0.1",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.env = {**os.environ, **(env or {})}
        self.root, self.path, self.prefix, self.host = root, path or os.environ["PATH"], prefix, host
        self.system = System(root)
        self.log_path = root / "onvif.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.user = self.password = ""

    def start(self, *more: str, host: str = "127.0.0.1", port: int = 0) -> None:
        argv = [*self.prefix, sys.executable, "-P", "-m", "meetingctl.device.onvif", f"--root={self.root}"]
        argv += [f"--path={self.path}", f"--host={host}", f"--port={port}", *more]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(argv, env=self.env, stdout=log, stderr=log)
        ends_s = time.monotonic() + DEADLINE_S
        while "onvif ready" not in self.log_text():
            assert self.process.poll() is None, self.log_text()
            assert time.monotonic() < ends_s, self.log_text()
            time.sleep(0.02)
        line = next(line for line in self.log_text().splitlines() if "onvif ready" in line)
        self.port = int(line.partition("port=")[2].split()[0])

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(self.log_text()) from None

    def hang_up(self) -> None:
        """Ask for the configuration to be read again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def switch_media2(self, is_on: bool) -> None:
        """Change onvif.conf as an operator does; the daemon sees it at the next request."""
        body = json.loads(self.system.read("/etc/rpi-cam/onvif.conf"))
        self.system.write("/etc/rpi-cam/onvif.conf", json.dumps(body | {"media2": is_on}))

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_for_log(self, words: str) -> str:
        """Return the log as soon as it holds these words."""
        ends_s = time.monotonic() + DEADLINE_S
        while words not in (text := self.log_text()):
            assert time.monotonic() < ends_s, text
            time.sleep(0.05)
        return text

    def post(self, body: bytes, path: str = "/onvif/device_service", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE_S)
        try:
            connection.request("POST", path, body, {**XML, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, operation: str, inner: str = "", path: str = "/onvif/device_service", **more: Any) -> bytes:
        more = {"user": self.user, "password": self.password} | more
        return self.post(request(operation, inner, **more), path)[1]


def configure(root: Path, keys: Mapping[str, object]) -> None:
    text = "".join(f'{name}="{value}"\n' for name, value in keys.items())
    System(root).write("/etc/rpi-cam/config.env", text)


@contextmanager
def running(root: Path, *, path: str = "", **keys: object) -> Iterator[Running]:
    """Run a daemon with these keys on loopback, on free ports."""
    configure(root, keys)
    daemon = Running(root, path=path)
    daemon.user, daemon.password = str(keys.get("RTSP_USER", "")), str(keys.get("RTSP_PASSWORD", ""))
    daemon.start(f"--discovery-port={free_udp_port()}")
    try:
        yield daemon
    finally:
        daemon.stop()


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])
