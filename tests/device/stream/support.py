"""The real daemon in a process of its own, and what real clients say of its stream."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.stream.control import ask_daemon
from meetingctl.device.system import System

# Generous: a loaded machine with two cores must pass. Nothing waits this long when things work.
DEADLINE_S = 45.0


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until the condition gives something true, and return it."""
    ends_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < ends_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Stream:
    """One daemon below `root`; its log is a file, so that no pipe can fill."""

    def __init__(
        self,
        root: Path,
        env: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        *,
        host: str = "127.0.0.1",
    ) -> None:
        """`prefix` are words before the command, such as those of a network namespace."""
        self.root = root
        self.host = host
        self.prefix = prefix
        self.env = {**os.environ, **(env or {})}
        self.system = System(root)
        self.log_path = root / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.keys: dict[str, str] = {}

    def configure(self, **keys: object) -> None:
        """Write config.env; keys that were given before stay, None removes one."""
        for name, value in keys.items():
            self.keys.pop(name, None)
            if value is not None:
                self.keys[name] = str(value)
        text = "".join(f'{name}="{value}"\n' for name, value in self.keys.items())
        self.system.write("/etc/rpi-cam/config.env", text)

    def start(self, *more: str) -> None:
        """Start the daemon and wait until it answers."""
        self.launch(*more)
        wait_until(self._is_up, "the stream daemon answers")

    def launch(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the process and do not wait."""
        argv = [*self.prefix, sys.executable, "-P", "-m", "meetingctl.device.stream", f"--root={self.root}"]
        argv += [f"--path={self.env['PATH']}", f"--host={self.host}", "--http-port=0", *more]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(argv, env=self.env, stdout=log, stderr=log)
        return self.process

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_text()
        try:
            return bool(self.status())
        except MeetingctlError:
            return False

    def status(self) -> dict[str, Any]:
        return ask_daemon(self.system, "status", timeout_s=20)

    def reload(self) -> list[str]:
        """Reload and return what was done."""
        return list(ask_daemon(self.system, "reload", timeout_s=30)["actions"])

    def stop(self) -> int:
        """Stop with SIGTERM and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the daemon did not stop:\n{self.log_text()}") from None

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def url(self, path: str | None = None, *, user: str = "", password: str = "") -> str:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"rtsp://{login}127.0.0.1:{self.keys['RTSP_PORT']}/{path or self.keys.get('RTSP_PATH', 'stream')}"

    def http_url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.status()['http_port']}{path}"


@contextmanager
def running_stream(
    root: Path, *, env: Mapping[str, str] | None = None, host: str = "127.0.0.1", **keys: object
) -> Iterator[Stream]:
    """Run a daemon with these keys on a free port, and stop it at the end."""
    stream = Stream(root, env, host=host)
    for attempt in range(5):
        stream.configure(RTSP_PORT=free_port(), **keys)
        try:
            stream.start()
            break
        except AssertionError:
            # Another test may have taken the port between the look and the start.
            if attempt == 4 or "is in use" not in stream.log_text():
                raise
    try:
        yield stream
    finally:
        stream.stop()


class ProbeError(Exception):
    """What ffprobe said when it could not read a stream."""


def probe(url: str, *, transport: str = "tcp", entries: str = "", seconds: float = 2.0) -> dict[str, Any]:
    """Return what ffprobe says of the streams: kind -> facts. A starved machine gets two more tries.

    Raises: ProbeError with the program's own words.
    """
    for left in (2, 1, 0):
        try:
            return _probe_once(url, transport, entries, seconds)
        except ProbeError:
            if not left:
                raise
    raise AssertionError("unreachable")


def try_probe(url: str, *, transport: str = "tcp") -> dict[str, Any]:
    """Look once; return nothing when ffprobe cannot read the stream."""
    try:
        return _probe_once(url, transport, "", 2.0)
    except ProbeError:
        return {}


def _probe_once(url: str, transport: str, entries: str, seconds: float) -> dict[str, Any]:
    shown = entries or "stream=codec_type,codec_name,profile,pix_fmt,width,height,avg_frame_rate,channels,sample_rate"
    argv = ["ffprobe", "-v", "error", "-rtsp_transport", transport, "-analyzeduration", str(int(seconds * 1e6))]
    ran = subprocess.run(
        [*argv, "-show_entries", shown, "-of", "json", url], capture_output=True, timeout=DEADLINE_S, check=False
    )
    if ran.returncode:
        raise ProbeError(ran.stderr.decode("utf-8", "replace").strip())
    return {item["codec_type"]: item for item in json.loads(ran.stdout)["streams"]}


@contextmanager
def viewer(url: str, output: Path, *, transport: str = "tcp") -> Iterator[subprocess.Popen[bytes]]:
    """Copy the stream into a file with ffmpeg until the block ends."""
    argv = ["ffmpeg", "-v", "error", "-rtsp_transport", transport, "-i", url, "-c", "copy", "-flush_packets", "1"]
    with output.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([*argv, "-f", "mpegts", "-y", str(output)], stdin=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_growth(path: Path, bytes_more: int = 20_000) -> None:
    """Wait until a recording grows."""
    before = size_of(path)
    wait_until(lambda: size_of(path) >= before + bytes_more, f"{path.name} grows")


def fake_tools(folder: Path, scripts: Mapping[str, str]) -> str:
    """Write shell scripts under the names of tools, and return a PATH that finds them first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
