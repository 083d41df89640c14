"""The completion files: fresh, accepted by their shells, and right about what comes next."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meetingctl.cli.completion_scripts import FILE_NAMES, render
from meetingctl.cli.completion_tree import SHELLS, read_tree, remember_names
from meetingctl.cli.generate import generated_files
from meetingctl.cli.main import root_command

from .runner import Cli
from .test_tree import LEAVES

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [*(f"completions/{name}" for name in FILE_NAMES.values()), "docs/cli.md"])
def test_generated_files_are_fresh(name: str) -> None:
    assert (REPOSITORY / name).read_text(encoding="utf-8") == generated_files()[name], "run: make docs"


def test_the_reference_names_every_command() -> None:
    text = generated_files()["docs/cli.md"]
    missing = [path for path in LEAVES if f" meetingctl {path}\n" not in text]
    assert missing == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_completed(shell: str) -> None:
    tree = read_tree(root_command())
    text = render(shell, tree)
    for spec in tree:
        assert " ".join(spec.path) in text
        for option in spec.options:
            spelled = [name.lstrip("-") if shell == "fish" else name for name in option.names]
            assert all(name in text for name in spelled), option
    assert "@HEAD@" not in text


@pytest.mark.parametrize("shell", SHELLS)
def test_show_prints_the_file(shell: str, cli: Cli) -> None:
    assert cli("completion", "show", shell).out == render(shell, read_tree(root_command()))


@pytest.mark.parametrize("shell", SHELLS)
def test_install_and_uninstall(shell: str, cli: Cli) -> None:
    installed = cli("completion", "install", shell, "--json")
    path = Path(installed.json["file"])
    assert path.is_relative_to(cli.home)
    assert path.read_text() == render(shell, read_tree(root_command()))
    assert cli("completion", "uninstall", shell, "--json").json["removed"] is True
    assert not path.exists()


def test_install_takes_the_login_shell(cli: Cli) -> None:
    cli.env["SHELL"] = "/usr/bin/fish"
    assert cli("completion", "install", "--dry-run", "--json").json["shell"] == "fish"
    cli.env["SHELL"] = "/bin/tcsh"
    assert cli("completion", "install").code == 2


QUESTIONS = [
    ("meetingctl con", ["config"]),
    ("meetingctl config ", ["get", "set", "unset", "list", "path", "check", "profile"]),
    ("meetingctl --profile x config profile ", ["list", "use", "add", "remove"]),
    ("meetingctl config get tunnel_po", ["tunnel_ports", "tunnel_poll_s"]),
    ("meetingctl config list --or", ["--origin"]),
    ("meetingctl fleet list --pro", ["--profile"]),
    ("meetingctl -o nd", ["ndjson"]),
    ("meetingctl fleet list --color n", ["never"]),
    ("meetingctl fleet show ca", ["cam-1", "cam-7"]),
    ("meetingctl fleet authorize cam-1 cam", ["cam-1", "cam-7"]),
    ("meetingctl tunnel open cam-1 vn", ["vnc"]),
    ("meetingctl help exit", ["exit-codes"]),
]


@pytest.fixture
def cached(cli: Cli) -> Cli:
    rows = [{"device_key": "cam-1", "tags": ["lobby"]}, {"device_key": "cam-7"}, {"device_key": "$(reboot) x"}]
    remember_names(cli.home / ".cache/meetingctl", rows)
    return cli


def test_names_that_a_shell_could_take_for_code_are_not_kept(cached: Cli) -> None:
    assert (cached.home / ".cache/meetingctl/complete/devices").read_text() == "cam-1\ncam-7\n"
    assert (cached.home / ".cache/meetingctl/complete/tags").read_text() == "lobby\n"


def test_listing_devices_keeps_their_names(admin: Cli) -> None:
    admin("fleet", "create", "named-by-list", "--type", "t", "--distribution", "d")
    admin("fleet", "list")
    assert "named-by-list" in (admin.home / ".cache/meetingctl/complete/devices").read_text().splitlines()


def ask(argv: list[str], cli: Cli) -> list[str]:
    result = subprocess.run(argv, env=cli.environment(), capture_output=True, text=True, timeout=30, check=True)
    assert result.stderr == ""
    return result.stdout.split("\n")[:-1]


@pytest.mark.parametrize(("line", "expected"), QUESTIONS)
def test_bash(line: str, expected: list[str], cached: Cli, require_program: Callable[..., str]) -> None:
    script = (
        'source "$1"; COMP_WORDS=(${2%% }); [[ $2 == *" " ]] && COMP_WORDS+=(""); '
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _meetingctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = REPOSITORY / "completions" / FILE_NAMES["bash"]
    assert ask([require_program("bash"), "--norc", "-uc", script, "-", str(path), line], cached) == expected


@pytest.mark.parametrize(("tail", "expected"), [(("tag", ":", ""), ["lobby"]), (("tag", ":", "lo"), ["lobby"])])
def test_bash_puts_a_tag_together_again(
    tail: tuple[str, ...], expected: list[str], cached: Cli, require_program: Callable[..., str]
) -> None:
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _meetingctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = REPOSITORY / "completions" / FILE_NAMES["bash"]
    words = ["meetingctl", "remote", "ssh", *tail]
    assert ask([require_program("bash"), "--norc", "-c", script, "-", str(path), *words], cached) == expected


@pytest.mark.real
@pytest.mark.parametrize(("line", "expected"), QUESTIONS)
def test_fish(line: str, expected: list[str], cached: Cli, require_program: Callable[..., str]) -> None:
    path = REPOSITORY / "completions" / FILE_NAMES["fish"]
    script = f"source {path}; complete -C '{line}'"
    lines = ask([require_program("fish"), "--no-config", "-c", script], cached)
    assert {line.split("\t")[0] for line in lines} == {*expected}


@pytest.mark.real
@pytest.mark.parametrize(("line", "expected"), QUESTIONS)
def test_zsh(line: str, expected: list[str], cached: Cli, require_program: Callable[..., str]) -> None:
    # The completion system's two outlets are replaced, because it runs on a terminal only.
    script = """
        compdef() { : }
        _describe() { local -a all; all=(${(P)2}); print -rl -- ${all%%:*} }
        compadd() { shift; print -rl -- "$@" }
        source $1
        words=(${=2}); [[ $2 == *' ' ]] && words+=(''); CURRENT=$#words; _meetingctl
    """
    path = REPOSITORY / "completions" / FILE_NAMES["zsh"]
    lines = ask([require_program("zsh"), "-f", "-c", script, "-", str(path), line], cached)
    current = line.rpartition(" ")[2]
    assert {*expected} == {word for word in lines if word.startswith(current)}
