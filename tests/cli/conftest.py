"""A command line with an empty home, and a real server for it."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .runner import Cli


@dataclass
class Server:
    """A running `meetingctl serve all`."""

    url: str
    admin_key: str
    data_dir: Path


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Run a server on free ports until the context ends."""
    options = ["--api-listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "--data", str(folder / "data")]
    argv = [sys.executable, "-m", "meetingctl", "serve", "all", *options, "--tunnel-ports", "9050-9059"]
    log = folder / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(argv, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}, stderr=stderr)
    try:
        yield _wait_until_up(process, log, folder / "data")
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_up(process: subprocess.Popen[bytes], log: Path, data_dir: Path) -> Server:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"^api +(http://\S+)", log.read_text(), re.MULTILINE)
        if found and (data_dir / "credentials.toml").exists():
            stored = tomllib.loads((data_dir / "credentials.toml").read_text())["default"]
            return Server(found[1], stored["api_key"], data_dir)
        time.sleep(0.02)
    raise AssertionError(f"the server did not start: {log.read_text()}")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return a command line that knows no server."""
    home = tmp_path / "home"
    home.mkdir()
    return Cli(home)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server for all tests that add to it and take nothing away from others."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def own_name(request: pytest.FixtureRequest) -> str:
    """Return a name that the shared server has not seen: of this test, and of this run of it."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:45].strip("-")
    return f"t-{secrets.token_hex(4)}-{test}"


@pytest.fixture
def admin(cli: Cli, server: Server) -> Cli:
    """Return a command line with the server's admin key."""
    cli.env |= {"MEETINGCTL_SERVER_URL": server.url, "MEETINGCTL_API_KEY": server.admin_key}
    return cli
