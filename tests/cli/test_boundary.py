"""The error boundary: exit codes, the form of errors, signals, faults of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from meetingctl.cli import main as entry
from meetingctl.cli.tree import verb
from meetingctl.core import errors

from .conftest import Server
from .runner import Cli

LEAVES = [leaf for leaf in vars(errors).values() if isinstance(leaf, type) and issubclass(leaf, errors.MeetingctlError)]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch):
    """Add a command `burst` that raises what the test wants."""

    def add(error: BaseException) -> None:
        @verb("burst")
        def burst(ctx: typer.Context) -> None:
            """Raise."""
            raise error

        monkeypatch.setattr(sys.modules[__name__], "burst", burst, raising=False)
        entries = {**entry.COMMANDS, "burst": entry.Entry(f"{__name__}:burst", "Raise.")}
        monkeypatch.setattr(entry.Root, "entries", entries)

    return add


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_each_error_has_its_exit_code_and_form(leaf, cli: Cli, raising) -> None:
    raising(leaf("cam-7: it broke after 3 s", hint="meetingctl doctor"))
    result = cli("burst")
    assert result.code == leaf.exit_code
    assert result.out == ""
    assert result.err == "error: cam-7: it broke after 3 s\n\nhint: meetingctl doctor\n"


@pytest.mark.parametrize("args", [["burst", "--json"], ["--json", "burst"], ["-o", "json", "burst"]])
def test_a_failure_in_json_mode_is_json_on_stdout(args, cli: Cli, raising) -> None:
    raising(errors.Conflict("there already"))
    result = cli(*args)
    assert result.code == 1
    assert result.json == {"ok": False, "error": {"code": "conflict", "message": "there already", "hint": None}}
    assert result.err == ""


def test_a_failure_in_ndjson_mode_is_one_line(cli: Cli, raising) -> None:
    raising(errors.NotFound("gone"))
    assert len(cli("burst", "-o", "ndjson").out.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--wrong"], "meetingctl --help"),
        (["config", "get"], "meetingctl config get --help"),
        (["config", "list", "--wrong"], "meetingctl config list --help"),
        (["config", "list", "surplus"], "meetingctl config list --help"),
        (["tunnel", "show", "seven"], "meetingctl tunnel show --help"),
        (["flet", "list"], "meetingctl fleet --help"),
        (["fleet", "lits"], "meetingctl fleet list --help"),
        (["fleet", "create", "--type"], "meetingctl fleet create --help"),
        (["-o", "xml", "config", "path"], "use one of table, json, ndjson, plain"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_hint(args, hint, cli: Cli) -> None:
    result = cli(*args)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert hint in result.err.split("hint: ")[1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tunnel", "show", "seven"], "not a whole number"),
        (["tunnel", "show", "0"], "must be at least 1"),
        (["serve", "api", "--workers", "99"], "must be at most 64"),
        (["remote", "run", "cam-7", "--via", "boat", "--", "ls"], "'boat' is not one of"),
    ],
)
def test_a_wrong_value_is_told_in_our_words(args: list[str], message: str, cli: Cli) -> None:
    said = cli(*args).err
    assert message in said
    assert "Input should" not in said
    assert "Value error" not in said


@pytest.mark.parametrize("args", [["config", "get", "--json"], ["--json", "--wrong"], ["--json", "nothing"]])
def test_wrong_usage_in_json_mode_is_json(args, cli: Cli) -> None:
    result = cli(*args)
    assert result.code == 2
    assert result.json["error"]["code"] == "usage"


@pytest.mark.parametrize("args", [[], ["config"], ["config", "profile"]])
def test_a_noun_alone_shows_its_help_on_stderr(args, cli: Cli) -> None:
    result = cli(*args)
    assert result.code == 2
    assert result.out == ""
    assert "Commands:" in result.err


def test_an_unknown_exception_leaves_a_report_and_no_traceback(cli: Cli, raising) -> None:
    raising(ZeroDivisionError("the secret is 42"))
    result = cli("burst")
    assert result.code == 1
    assert "Traceback" not in result.err
    path = Path(result.err.split("see ")[1].strip())
    assert "ZeroDivisionError" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_unknown_exception_without_a_place_for_the_report(cli: Cli, raising) -> None:
    raising(ZeroDivisionError())
    cli.env["XDG_CACHE_HOME"] = "/proc/none"
    result = cli("burst", "--json")
    assert result.code == 1
    assert result.json["error"]["code"] == "error"


def test_an_os_error_with_a_file_name_is_no_fault_of_ours(cli: Cli) -> None:
    result = cli("login", "--key-file", "/no/such/file", "--server-url", "http://127.0.0.1:9")
    assert result.code == 1
    assert result.err == "error: /no/such/file: no such file or directory\n\nhint: ls -ld /no/such\n"


def test_an_interrupt_is_130(cli: Cli, raising) -> None:
    raising(KeyboardInterrupt())
    assert cli("burst").code == 130


def test_a_reader_that_goes_away_is_no_traceback(cli: Cli) -> None:
    argv = [sys.executable, "-m", "meetingctl", "config", "list", "--json"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.Popen(argv, env=cli.environment(), stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 141
    assert err == ""


def test_a_server_that_is_not_there_is_69(cli: Cli) -> None:
    result = cli("fleet", "list", "--server-url", "http://127.0.0.1:9", "--timeout", "2s")
    assert result.code == 69
    assert "http://127.0.0.1:9" in result.err
    assert "hint: meetingctl serve all" in result.err


def test_a_wrong_key_is_4(cli: Cli, server: Server) -> None:
    cli.env |= {"MEETINGCTL_SERVER_URL": server.url, "MEETINGCTL_API_KEY": "mk_0123456789ab_wrong"}
    result = cli("fleet", "list", "--json")
    assert result.code == 4
    assert result.json["error"] == {
        "code": "unauthenticated",
        "message": result.json["error"]["message"],
        "hint": "meetingctl login",
    }


def test_broken_configuration_is_78(cli: Cli) -> None:
    path = cli.home / ".config/meetingctl/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[default]\nserver_urk = 'http://x'\n")
    result = cli("fleet", "list")
    assert result.code == 78
    assert "did you mean 'server_url'?" in result.err


def test_ctrl_c_ends_a_daemon_with_0(cli: Cli) -> None:
    argv = [sys.executable, "-m", "meetingctl", "tunnel", "agent", "--server", "127.0.0.1:9", "--device-key", "cam-7"]
    process = subprocess.Popen(
        [*argv, "--token", "3FA9C1", "-o", "ndjson"],
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    states = []
    deadline = time.monotonic() + 30
    while "waiting" not in states and time.monotonic() < deadline:
        states.append(json.loads(process.stdout.readline())["state"])
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(rest.splitlines()[-1])["state"] == "stopped"


@pytest.mark.parametrize(
    "args",
    [
        ("tunnel", "agent", "--server", "127.0.0.1:9", "--device-key", "cam-7", "--token-file"),
        ("tunnel", "agent", "--config"),
        ("login", "--key-file"),
        ("fleet", "register", "cam-7", "--token-file"),
        ("fleet", "heartbeat", "cam-7", "--token-file"),
        ("remote", "run", "pi@127.0.0.1:9", "--password-file", "/dev/zero", "--", "cat"),
        ("config", "list", "--config"),
    ],
    ids=" ".join,
)
def test_a_file_without_end_is_refused(args: tuple[str, ...], cli: Cli) -> None:
    result = cli(*args, "/dev/zero")
    assert result.code in {2, 78}
    assert result.err.startswith("error: /dev/zero: over ")
    assert result.err.endswith("hint: ls -ld /dev/zero\n")
