"""Accounts of people against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Server
from .runner import Cli


@pytest.fixture
def name(own_name: str) -> str:
    return own_name


def as_user(admin: Cli, server: Server, home: Path, token: str) -> Cli:
    home.mkdir()
    return Cli(home, {"MEETINGCTL_SERVER_URL": server.url, "MEETINGCTL_API_KEY": token})


def test_a_life_of_an_account(admin: Cli, server: Server, name: str, tmp_path: Path) -> None:
    made = admin("user", "create", name, "--role", "operator", "--json", stdin="long enough\n").json
    person = as_user(admin, server, tmp_path / "person", made["token"])
    shown = person("whoami", "--json").json
    assert (shown["kind"], shown["name"], shown["role"]) == ("user", name, "operator")
    assert admin("user", "update", name, "--role", "viewer", "--json").json["role"] == "viewer"
    assert person("whoami", "--json").json["role"] == "viewer"
    fresh = admin("user", "token", name, "--yes", "-o", "plain").out.strip()
    assert person("whoami").code == 4
    assert as_user(admin, server, tmp_path / "other", fresh)("whoami").code == 0
    assert admin("user", "rm", name, "--dry-run").code == 0
    assert admin("user", "rm", name, "--yes").code == 0
    assert admin("user", "show", name).code == 1


def test_a_dry_run_creates_nobody(admin: Cli, name: str) -> None:
    assert admin("user", "create", name, "--dry-run").code == 0
    assert admin("user", "show", name).code == 1


def test_people_change_their_own_password_with_the_old_one(
    admin: Cli, server: Server, name: str, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    first.write_text("long enough\n")
    made = admin("user", "create", name, "--role", "viewer", "--password-file", str(first), "--json").json
    person = as_user(admin, server, tmp_path / "person", made["token"])
    second = tmp_path / "second"
    second.write_text("another one\n")
    files = ("--old-password-file", str(second), "--password-file", str(second))
    assert person("user", "password", *files).code == 4
    assert person("user", "password", stdin="long enough\nanother one\n").code == 0
    assert person("user", "list").code == 4
    assert admin("user", "password", name, stdin="a third one\n").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("create", "x", "--role", "root"),
        ("create", "two words"),
        ("update", "x"),
        ("create", "x", "--ssh-key", "/dev/null"),
        ("create", "x", "--password-file", "/dev/null"),
    ],
)
def test_what_is_wrong_is_said(admin: Cli, words: tuple[str, ...]) -> None:
    answer = admin("user", *words, stdin="long enough\n")
    assert answer.code == 2, answer
    assert answer.err


def test_a_short_password_and_a_taken_name(admin: Cli, name: str) -> None:
    assert admin("user", "create", name, stdin="short\n").code == 2
    assert admin("user", "create", name, stdin="long enough\n").code == 0
    assert admin("user", "create", name.upper(), stdin="long enough\n").code == 1


def test_a_password_is_no_option(admin: Cli) -> None:
    assert "--password " not in admin("user", "create", "--help").out
