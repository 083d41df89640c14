"""Login shells that print in every session, as with a greeting in `.bashrc`: OpenSSH's server, and bash behind it."""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.runner import Cli
from e2e.world import HOST, Sshd
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.secret import sha256_hex
from meetingctl.core.target import parse_target
from meetingctl.remote import sections
from meetingctl.remote.hosts import HostKeys
from meetingctl.remote.recipes.connection import open_connection
from meetingctl.remote.recipes.link import Link
from meetingctl.remote.recipes.transfer import send_file
from meetingctl.remote.session import Login
from meetingctl.remote.visit import Privilege
from meetingctl.remote.ways import Route

pytestmark = pytest.mark.real

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
GREETINGS = {
    "no-end": 'echo "the disk is nearly full" >&2; printf "Welcome"\n',
    "long": 'i=0; while [ "$i" -lt 800 ]; do echo "Welcome to the camera $i"; i=$((i + 1)); done\n',
}


@pytest.fixture(params=GREETINGS.values(), ids=GREETINGS.keys())
def greeter(tmp_path: Path, request: pytest.FixtureRequest, require_program: Callable[..., str]) -> Iterator[Sshd]:
    """A server whose user has that `.bashrc`; SFTP is a program of its own, which the login shell starts."""
    require_program("sshd", package="openssh-server")
    require_program(str(SFTP_SERVER), package="openssh-sftp-server")
    if Path(pwd.getpwuid(os.geteuid()).pw_shell).name != "bash":
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs bash as login shell")
    home = tmp_path / "far-home"
    home.mkdir()
    (home / ".bashrc").write_text(request.param)
    sshd = Sshd(tmp_path / "sshd")
    config = tmp_path / "sshd/sshd_config"
    text = config.read_text().replace("internal-sftp", str(SFTP_SERVER))
    config.write_text(f"{text}SetEnv HOME={home}\n")
    sshd.start()
    yield sshd
    sshd.daemon.stop()


@pytest.fixture
def link(greeter: Sshd, tmp_path: Path) -> Iterator[Link]:
    target, pins = parse_target(f"{greeter.user}@{HOST}:{greeter.port}"), HostKeys(tmp_path / "known_hosts")
    login = Login(greeter.user, greeter.identity)
    route = Route(HOST, greeter.port, "address", "as a test")
    connection = open_connection(target, route, login=login, pins=pins, connect_s=20, note=lambda text: None)
    link = Link(target, route, login, connection)
    yield link
    link.close()


def test_a_recipe_does_not_take_it_for_an_answer(link: Link, tmp_path: Path) -> None:
    assert "Welcome" in link.connection.run("true", hide=True, in_stream=False).stdout
    assert link.ask("echo hello") == "hello\n"
    assert link.ask_sections({"one": "echo 1"}, privilege=Privilege.none) == {"one": "1\n"}
    answer = link.answer("echo why >&2; exit 3")
    assert (answer.exit_code, answer.stdout) == (3, "")
    assert answer.stderr.endswith("why\n")


def test_a_recipe_replaces_a_file_and_sends_one(link: Link, tmp_path: Path) -> None:
    path = tmp_path / "meeting.json"
    link.replace_file(str(path), "one\n", expect=None, mode=0o600)
    link.replace_file(str(path), "two\n", expect=sha256_hex("one\n"))
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two\n", 0o600)
    package = tmp_path / "package"
    package.write_bytes(os.urandom(100_000))
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    send_file(link, package, str(tmp_path / "sent"), "package", sha256=digest, sent=lambda done, total: None)
    assert (tmp_path / "sent/package").read_bytes() == package.read_bytes()


def test_the_other_commands_work_through_it(greeter: Sshd, here: Cli, tmp_path: Path) -> None:
    target, login = f"{greeter.user}@{HOST}:{greeter.port}", ("--identity", str(greeter.identity))
    (tmp_path / "web").mkdir()
    page = tmp_path / "web/page"
    page.write_text("text\n")
    deployed = here("remote", "deploy", target, str(page), "--to", str(tmp_path / "far"), *login, "--json")
    assert deployed.code == 0, deployed.out + deployed.err
    assert (tmp_path / "far/page").read_text() == "text\n"
    copied = here("remote", "copy", f"{target}:{tmp_path}/far/page", str(tmp_path / "back"), *login)
    assert copied.code == 0, copied.out + copied.err
    assert (tmp_path / "back").read_text() == "text\n"


def test_without_an_sftp_server_both_say_so(
    link: Link, greeter: Sshd, here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "_SFTP_FOLDERS", str(tmp_path / "nowhere"))
    with pytest.raises(MeetingctlError, match="no SFTP") as refused:
        link.put(str(tmp_path / "file"), b"1")
    assert refused.value.hint == "apt install openssh-sftp-server"
    assert link.ask("echo hello") == "hello\n"
    target, login = f"{greeter.user}@{HOST}:{greeter.port}", ("--identity", str(greeter.identity))
    copied = here("remote", "copy", f"{target}:{tmp_path}/none", str(tmp_path / "back"), *login)
    assert (copied.code, "no SFTP" in copied.err) == (1, True), copied.err
