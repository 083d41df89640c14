"""The common start of the daemons, and what their processes may hold."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meetingctl.core.errors import ConfigError, MeetingctlError, NotFound
from meetingctl.device.daemon import Launch, argv_of, launch_of, parse_launch, run_daemon

DEVICE = Path(__file__).parents[2] / "src" / "meetingctl" / "device"
DAEMONS = sorted(path.parent.name for path in DEVICE.glob("*/__main__.py"))
FORBIDDEN = {"typer", "click", "rich", "fastapi", "starlette", "uvicorn", "sqlalchemy", "httpx", "asyncssh", "pydantic"}
LARGEST_RSS_KIB = 60 * 1024


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class TestLaunch:
    def test_words_are_read_back(self) -> None:
        launch = Launch(Path("/a b"), "@x", "debug", "json", "/usr/bin:/bin")
        assert parse_launch(launch.words())[0] == launch
        assert parse_launch([])[0] == Launch(Path("/"))

    def test_a_daemon_has_options_of_its_own(self) -> None:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--http-port", type=int, default=0)
        launch, given = parse_launch(["--root=/x", "--http-port=7"], parser)
        assert (launch.root, given.http_port) == (Path("/x"), 7)

    def test_of_the_environment_only_what_is_needed_goes_on(self) -> None:
        env = {"NOTIFY_SOCKET": "/run/n", "PATH": "/bin", "MEETINGCTL_API_KEY": "secret"}
        launch = launch_of(env, Path("/r"), log_level="info", log_format="text")
        argv = argv_of("meetingctl.device.watchdog", launch, ["--more"])
        assert argv[:4] == [sys.executable, "-P", "-m", "meetingctl.device.watchdog"]
        assert argv[-1] == "--more"
        assert "secret" not in " ".join(argv)


@pytest.mark.usefixtures("quiet_logging")
class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code"),
        [(None, 0), (ConfigError("x"), 78), (NotFound("x"), 1), (MeetingctlError("x"), 1), (ValueError("x"), 1)],
    )
    def test_only_three(self, error: Exception | None, code: int) -> None:
        def body() -> None:
            if error is not None:
                raise error

        assert run_daemon(Launch(Path("/")), body) == code

    def test_an_expected_error_is_one_line_with_its_next_step(self, capfd: pytest.CaptureFixture[str]) -> None:
        def body() -> None:
            raise MeetingctlError("port 8554 is in use", hint="ss -ltn")

        run_daemon(Launch(Path("/")), body)
        assert re.fullmatch(r"\S+ error +port 8554 is in use hint=ss -ltn\n", capfd.readouterr().err)


def test_there_are_daemons() -> None:
    assert "watchdog" in DAEMONS


_LOOK = """
import importlib, json, pkgutil, re, sys
package = importlib.import_module("meetingctl.device.NAME")
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(found.name)
status = open("/proc/self/status").read()
rss = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])
print(json.dumps({"modules": sorted(sys.modules), "rss_kib": rss}))
"""


@pytest.fixture(scope="module", params=DAEMONS)
def looked_at(request: pytest.FixtureRequest) -> dict[str, object]:
    """Import everything that a daemon consists of in a process of its own, and look at the process."""
    code = _LOOK.replace("NAME", request.param)
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_a_daemon_holds_nothing_of_the_command_line_or_the_server(looked_at: dict[str, list[str]]) -> None:
    tops = {name.partition(".")[0] for name in looked_at["modules"]}
    assert not tops & FORBIDDEN
    ours = {".".join(name.split(".")[:2]) for name in looked_at["modules"] if name.startswith("meetingctl.")}
    assert ours <= {"meetingctl.core", "meetingctl.device"}


@pytest.mark.real
def test_a_daemon_is_small(looked_at: dict[str, int]) -> None:
    assert looked_at["rss_kib"] < LARGEST_RSS_KIB


@pytest.mark.real
@pytest.mark.parametrize("name", ["watchdog"])
def test_a_daemon_starts_reports_and_ends(name: str, tmp_path: Path) -> None:
    """`meetingctl device NAME run` becomes the daemon, tells systemd, stays small and leaves in good order."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.settimeout(60)
        root = tmp_path / "root"
        root.mkdir()
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NOTIFY_SOCKET": str(tmp_path / "n")}
        argv = [sys.executable, "-m", "meetingctl", "device", name, "run", "--root", str(root)]
        with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert systemd.recv(1000).startswith(b"READY=1")
                status = Path(f"/proc/{process.pid}/status").read_text()
                words = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
                assert f"meetingctl.device.{name}" in words
                assert int(re.search(r"VmRSS:\s+(\d+)", status)[1]) < LARGEST_RSS_KIB
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
                messages = set()
                while b"STOPPING=1" not in messages:
                    messages.add(systemd.recv(1000))
            finally:
                process.kill()
