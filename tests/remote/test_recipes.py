"""Connections of recipes: pinned host keys, passwords for sudo, the tunnel's way; against a real SSH server."""

from __future__ import annotations

import time

import asyncssh
import pytest

from meetingctl.core.errors import AuthError, ConfigError, HostKeyChanged, MeetingctlError, TransportLost, Unreachable
from meetingctl.core.secret import Secret
from meetingctl.core.sshkey import PublicKey
from meetingctl.core.target import parse_target
from meetingctl.remote.hosts import HostKeys, name_host
from meetingctl.remote.recipes.connection import open_connection
from meetingctl.remote.recipes.link import Link
from meetingctl.remote.recipes.session import Session
from meetingctl.remote.session import Login
from meetingctl.remote.visit import Privilege
from meetingctl.remote.ways import Route


@pytest.fixture
def pins(tmp_path) -> HostKeys:
    return HostKeys(tmp_path / "known_hosts")


def open_link(device, pins, notes=None, *, target="cam-7", port=None, **login) -> Link:
    parsed = parse_target(target)
    route = Route("127.0.0.1", port or device.port, "tunnel", "as a test")
    who = Login(**{"user": "anyone", "identity": device.identity, **login})
    note = (notes if notes is not None else []).append
    return Link(parsed, route, who, open_connection(parsed, route, login=who, pins=pins, connect_s=10, note=note))


def test_the_first_key_is_pinned_under_the_name_of_the_device(device, pins):
    notes = []
    for _ in range(2):
        link = open_link(device, pins, notes)
        assert link.ask("echo hello") == "hello\n"
        link.close()
    assert pins.pinned(name_host(parse_target("cam-7"))) == (device.offered,)
    assert len(notes) == 1


def test_another_key_is_refused_with_both_fingerprints_before_the_login(device, pins):
    other = PublicKey(asyncssh.generate_private_key("ssh-ed25519").public_data)
    pins.pin("cam-7", other)
    with pytest.raises(HostKeyChanged) as refused:
        open_link(device, pins, identity=None, password=Secret("never sent"))
    assert other.fingerprint in refused.value.message
    assert device.offered.fingerprint in refused.value.message
    assert refused.value.hint == f"meetingctl remote trust cam-7 --fingerprint {device.offered.fingerprint}"
    assert pins.pinned("cam-7") == (other,)


def test_a_key_is_not_pinned_when_the_login_fails(device, pins, tmp_path):
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)
    with pytest.raises(AuthError, match="anyone may not log in"):
        open_link(device, pins, identity=stranger)
    with pytest.raises(ConfigError, match="no such key file"):
        open_link(device, pins, identity=tmp_path / "missing")
    assert pins.pinned("cam-7") == ()


def test_nobody_there(device, pins):
    with pytest.raises(Unreachable, match=r"no SSH login at 127\.0\.0\.1:1 \(tunnel\): connection refused"):
        open_link(device, pins, port=1)


def test_root_by_a_password_that_is_tried_once(camera, machine, pins):
    machine.note("is_user")
    machine.note("password", "right")
    link = open_link(camera, pins, password=Secret("right"))
    assert link.ask("echo $IS_ROOT; cat", privilege=Privilege.needed) == "1\n"
    assert link.ask("echo $IS_ROOT") == "\n"
    link.close()
    wrong = open_link(camera, pins, password=Secret("wrong"))
    before = len(machine.calls)
    with pytest.raises(AuthError, match="may not become root: 1 incorrect password attempt"):
        wrong.ask("true", privilege=Privilege.needed)
    assert machine.calls[before:] == ["sudo -S"]
    assert "wrong" not in " ".join(machine.calls)
    wrong.close()


def test_what_a_command_says(device, pins):
    link = open_link(device, pins)
    answer = link.answer("echo out; echo err >&2; exit 7")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (7, "out\n", "err\n")
    with pytest.raises(MeetingctlError, match=r"cam-7: err$"):
        link.ask("echo err >&2; exit 7")
    with pytest.raises(TransportLost, match=r"no answer within 0\.3 s"):
        link.ask("sleep 20", within_s=0.3)
    link.close()
    with pytest.raises(TransportLost):
        link.ask("true")


def test_a_file_is_replaced_only_as_it_was_read(device, pins, tmp_path):
    link = open_link(device, pins)
    path = tmp_path / "meeting.json"
    link.replace_file(str(path), "one\n", expect=None, mode=0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one\n", 0o600)
    with pytest.raises(MeetingctlError, match="changed by somebody else"):
        link.replace_file(str(path), "two\n", expect=None)
    assert path.read_text() == "one\n"
    link.close()


def test_leaving_over_a_lost_link_goes_without_saying(device, pins, tmp_path):
    link = open_link(device, pins)
    link.put(str(tmp_path / "small"), b"1")
    link.connection.transport.packetizer.close()
    with pytest.raises(TransportLost):
        link.put(str(tmp_path / "other"), b"2")
    link.close()


def test_the_password_of_the_setting_reaches_sudo(camera, machine, here):
    machine.note("is_user")
    machine.note("password", "right")
    here.env["MEETINGCTL_SSH_PASSWORD"] = "right"
    words = ("remote", "install", camera.target, "--identity", str(camera.identity), "--check-only", "--json")
    looked = here(*words)
    assert looked.json["device"]["boot_id"] == "boot-1", looked.err
    here.env["MEETINGCTL_SSH_PASSWORD"] = "wrong"
    refused = here(*words)
    assert (refused.code, refused.json["error"]["code"]) == (4, "unauthenticated")
    assert "right" not in looked.out + looked.err + " ".join(machine.calls)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--check-only", "--attach"), "exclude each other"),
        ((), "no package is named"),
        (("--from", "a", "--release", "b/c/1"), "exclude each other"),
        (("--from", "/nonexistent.tar.gz"), "nonexistent"),
        (("--token-file", "a", "--token-stdin", "--from", "a"), "exclude each other"),
        (("--hostname", "-x;", "--from", "a"), "not a host name"),
        (("--check-only", "--timeout", "soon"), "not a duration"),
    ],
)
def test_words_that_make_no_sense(here, words, reason):
    refused = here("remote", "install", "device@192.0.2.7", *words)
    assert refused.code in {1, 2}, refused.err
    assert reason in refused.err


def test_a_device_is_not_told_of_a_server_that_it_cannot_reach(here, tmp_path):
    refused = here("remote", "install", "device@192.0.2.7", "--device-key", "cam-7", "--from", str(tmp_path / "x"))
    assert (refused.code, "a device cannot reach" in refused.err, "--api-url" in refused.err) == (2, True, True)


def test_a_link_is_opened_again_and_a_login_that_stays_refused_ends_it(monkeypatch):
    opened = []

    def opener():
        opened.append(len(opened))
        if len(opened) == 2:
            raise Unreachable("away")
        if len(opened) > 3:
            raise AuthError("refused")
        return FakeLink()

    class FakeLink:
        def close(self) -> None:
            pass

    told = []
    session = Session(opener, time.monotonic() + 60, told.append)
    monkeypatch.setattr("meetingctl.remote.recipes.session.PAUSE_S", (0.01, 0.02))
    first = session.link()
    assert session.link() is first
    session.drop()
    assert session.link() is not first
    assert told == ["away"]
    session.drop()
    monkeypatch.setattr("meetingctl.remote.recipes.session.REFUSES_S", 0.05)
    with pytest.raises(AuthError, match="refused"):
        session.link()


def test_a_first_link_is_opened_at_once_or_not_at_all():
    def opener():
        raise Unreachable("away")

    with pytest.raises(Unreachable, match=r"^away$"):
        Session(opener, time.monotonic() + 60, print).link()
