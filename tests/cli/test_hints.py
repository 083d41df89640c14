"""Hints that can be pasted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from meetingctl.cli.hints import Call, complete_hint, hinted_program, our_program
from meetingctl.cli.main import root_command

from .conftest import Server
from .runner import Cli

DEMO = {"--profile": "demo"}


@pytest.mark.parametrize(
    ("hint", "call", "completed"),
    [
        ("meetingctl fleet list", Call("meetingctl", places=DEMO), "meetingctl --profile demo fleet list"),
        ("meetingctl fleet list", Call("/opt/m/bin/meetingctl"), "/opt/m/bin/meetingctl fleet list"),
        ("use 1 to 5", Call("x", places=DEMO), "use 1 to 5"),
        ("chmod 600 meetingctl.db", Call("x", places=DEMO), "chmod 600 meetingctl.db"),
        ("meetingctl fleet --help", Call("meetingctl", places=DEMO), "meetingctl fleet --help"),
        (
            "meetingctl config set agent_token < FILE",
            Call("m", places=DEMO),
            "m --profile demo config set agent_token < FILE",
        ),
        (
            "meetingctl serve api --workers 1, or meetingctl help",
            Call("m", path=("serve", "api"), own={"--workers": ("4",), "--data": ("/d",)}),
            "m serve api --workers 1 --data /d, or m help",
        ),
        # Data is somewhere else for every command that looks at data, and for no other.
        (
            "meetingctl db migrate",
            Call("m", path=("db", "query"), own={"--data": ("/srv/my data",), "--fields": ("a",)}),
            "m db migrate --data '/srv/my data'",
        ),
        ("meetingctl fleet list", Call("m", path=("db", "query"), own={"--data": ("/d",)}), "m fleet list"),
        # The running command with another value keeps its other options, but shows no secret.
        (
            "meetingctl demo --api-listen 127.0.0.1:1",
            Call("m", path=("demo",), own={"--tunnel-listen": ("127.0.0.1:2",), "--api-listen": ("127.0.0.1:3",)}),
            "m demo --api-listen 127.0.0.1:1 --tunnel-listen 127.0.0.1:2",
        ),
        (
            "meetingctl tunnel agent --server HOST:9001",
            Call("m", path=("tunnel", "agent"), own={"--token": ("3FA9C1",), "--device-key": ("cam-7",)}),
            "m tunnel agent --server HOST:9001 --device-key cam-7",
        ),
        ("meetingctl login", Call("m", path=("login",), own={"--key-file": ("bad.key",)}), "m login"),
        # An option that stands there already in another spelling is not said twice.
        *(
            (
                f"meetingctl remote shutdown cam-7 {there} --yes",
                Call("m", path=("remote", "shutdown"), own={"--identity": ("KEY",), "--user": ("pi",)}),
                f"m remote shutdown cam-7 {there} --yes --user pi",
            )
            for there in ("-i KEY", "-iKEY", "--identity=KEY", "--identity KEY")
        ),
        ("meetingctl --profile=demo fleet list", Call("m", places=DEMO), "m --profile=demo fleet list"),
        # To start a server takes no address of a server.
        ("meetingctl serve all", Call("m", path=("fleet", "list"), places=DEMO), "m serve all"),
    ],
)
def test_a_hint_is_completed(hint: str, call: Call, completed: str) -> None:
    assert complete_hint(hint, call, root_command()) == completed


def test_the_program_is_named_so_that_a_shell_finds_it(tmp_path: Path) -> None:
    program = tmp_path / "meetingctl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert hinted_program(str(program), str(tmp_path)) == "meetingctl"
    assert hinted_program(str(program), "/nowhere") == str(program)
    assert hinted_program("/somewhere/pytest", "/nowhere") == "meetingctl"
    assert our_program("/x/meetingctl/__main__.py") == f"{shlex.quote(sys.executable)} -m meetingctl"


def test_an_error_keeps_the_profile_and_the_address(cli: Cli, server: Server) -> None:
    cli("login", "--profile", "lab", "--server-url", server.url, stdin=f"{server.admin_key}\n")
    gone = cli("--profile", "lab", "fleet", "show", "nobody")
    assert gone.err.endswith("hint: meetingctl --profile lab fleet list\n")
    named = cli("fleet", "show", "nobody", "--json", "--profile", "lab", "--server-url", server.url)
    assert named.json["error"]["hint"] == f"meetingctl --profile lab --server-url {server.url} fleet list"
    wrong = cli("login", "--profile", "new", "--server-url", server.url, stdin="mk_0123456789ab_no\n")
    assert wrong.err.endswith(f"hint: meetingctl --profile new --server-url {server.url} login\n")


def test_a_hint_leaves_out_a_profile_that_is_not_there(cli: Cli) -> None:
    assert cli("--profile", "none", "fleet", "list").err.endswith("hint: meetingctl config profile list\n")


def test_nobody_has_named_a_server(cli: Cli) -> None:
    cli.env["MEETINGCTL_TIMEOUT_S"] = "1"
    cli.env["MEETINGCTL_SERVER_URL"] = "http://127.0.0.1:9"
    assert "hint: meetingctl serve all\n" in cli("whoami").err
    del cli.env["MEETINGCTL_SERVER_URL"]
    refused = cli("whoami")
    if refused.code == 69:  # the default port may belong to a server of this machine
        assert "hint: meetingctl login --server-url https://HOST, or meetingctl serve all" in refused.err
