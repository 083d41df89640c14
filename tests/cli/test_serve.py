"""`serve`: what reaches the server, and its systemd unit."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meetingctl.cli import unit
from meetingctl.cli.unit import find_unreadable, render_unit

from .runner import Cli


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["serve", "all", "--only", "api,mail"], 2, "no part 'mail'"),
        (["serve", "all", "--mode", "legacy-open"], 2, "--legacy-open"),
        (["serve", "all", "--mode", "open"], 2, "use one of"),
        (["serve", "all", "--legacy-open", "--api-listen", "0.0.0.0:0"], 78, "--allow-from"),
        (["serve", "api", "--listen", "nowhere"], 2, "no port"),
        (["serve", "all", "--tunnel-ports", "9-1"], 2, "not a port range"),
        (["tunnel", "agent", "--device-key", "cam-7", "--token", "3FA9C1"], 78, "tunnel server"),
        (["tunnel", "agent", "--server", "127.0.0.1:9", "--token", "3FA9C1"], 78, "device key"),
        (["db", "status"], 1, "no database"),
    ],
)
def test_a_wrong_start_ends_at_once(args: list[str], code: int, message: str, cli: Cli) -> None:
    result = cli(*args)
    assert result.code == code, result
    assert message in result.err


def test_a_mode_of_the_file_is_not_enough_for_legacy_open(cli: Cli) -> None:
    cli.env["MEETINGCTL_MODE"] = "legacy-open"
    result = cli("serve", "all")
    assert (result.code, "--legacy-open" in result.err) == (2, True)


def test_a_taken_port_is_1_with_the_option_to_change(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = cli.process("serve", "all", "--api-listen", f"127.0.0.1:{port}", "--tunnel-listen", "127.0.0.1:0")
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert "--api-listen" in result.stderr


def test_the_unit_as_text(cli: Cli) -> None:
    result = cli("serve", "unit")
    assert result.code == 0
    assert " serve all\n" in result.out
    assert "Documentation=" not in result.out
    assert "RestartPreventExitStatus=1 2 78\n" in result.out


def test_a_program_that_the_unit_cannot_read_is_refused() -> None:
    assert find_unreadable([Path("/usr/bin/env")]) is None
    assert "hides" in str(find_unreadable([Path("/usr/bin/env"), Path("/root/venv/bin/meetingctl")]))
    assert "hides" in str(find_unreadable([Path("/home/pi/venv/bin/meetingctl")]))


def test_a_folder_that_only_its_owner_may_enter_is_named() -> None:
    private = next(
        (
            path
            for path in map(Path, ("/etc/ssl/private", "/var/lib/private", "/var/cache/ldconfig"))
            if path.is_dir() and not path.stat().st_mode & 1
        ),
        None,
    )
    if private is None:
        pytest.skip("no folder here is closed to others")
    assert f"below {private}, which only its owner" in str(find_unreadable([private / "meetingctl"]))


def test_install_and_its_dry_run_refuse_alike(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "_HIDDEN", (Path(sys.prefix),))
    assert cli("serve", "unit", "--install", "--dry-run").code == 78
    shown = cli("serve", "unit")
    assert (shown.code, "could not start" in shown.err) == (0, True)


@pytest.mark.real
def test_systemd_accepts_the_unit(tmp_path: Path, require_program: Callable[..., str]) -> None:
    path = tmp_path / "meetingctl.service"
    path.write_text(render_unit(Path("/bin/true")))
    argv = [require_program("systemd-analyze", package="systemd"), "verify", "--man=no", str(path)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stderr) == (0, "")
