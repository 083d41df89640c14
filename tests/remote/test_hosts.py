import subprocess
import threading

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import Busy, InvalidInput
from meetingctl.core.sshkey import PublicKey, parse_fingerprint
from meetingctl.core.target import parse_target
from meetingctl.remote import hosts
from meetingctl.remote.hosts import (
    HostKeys,
    describe_change,
    judge_host_key,
    name_host,
    read_pins,
    remove_pins,
    write_pin,
)


def make_key(kind: str = "ssh-ed25519") -> PublicKey:
    return PublicKey(asyncssh.generate_private_key(kind).public_data)


ONE, TWO = make_key(), make_key("ecdsa-sha2-nistp256")
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
LINES = st.lists(
    st.one_of(
        st.just(""),
        st.just("# a comment"),
        st.just(f"@cert-authority * {TWO.text}"),
        st.just("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-ed25519 AAAA"),
        st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from([ONE, TWO])).map(
            lambda entry: f"{','.join(entry[0])} {entry[1].text} made by hand"
        ),
    ),
    max_size=6,
).map("\n".join)


def test_a_fingerprint_is_the_one_that_openssh_prints(tmp_path):
    path = tmp_path / "key.pub"
    path.write_text(f"{ONE.text} comment\n")
    printed = subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True, text=True, check=True).stdout
    assert ONE.fingerprint == printed.split()[1]
    assert ONE.kind == "ssh-ed25519"


def test_a_fingerprint_is_read_with_and_without_its_prefix():
    assert parse_fingerprint(ONE.fingerprint) == ONE.fingerprint
    assert parse_fingerprint(ONE.fingerprint.removeprefix("SHA256:")) == ONE.fingerprint
    for wrong in ("", "SHA256:", "MD5:00:11", ONE.fingerprint[:-2], "SHA256:" + "!" * 43):
        with pytest.raises(InvalidInput):
            parse_fingerprint(wrong)


@given(LINES, NAMES)
def test_pinning_changes_nothing_but_the_one_name(text, name):
    others = {other for names, _ in hosts._entries(text) for other in names} - {name.lower()}
    pinned = write_pin(text, name, ONE)
    assert read_pins(pinned, name) == (ONE,)
    assert {other: read_pins(pinned, other) for other in others} == {other: read_pins(text, other) for other in others}
    assert read_pins(remove_pins(pinned, name), name) == ()
    comments = [line for line in text.splitlines() if line[:1] in {"#", "@", "|"}]
    assert [line for line in pinned.splitlines() if line[:1] in {"#", "@", "|"}] == comments


def test_openssh_finds_our_pins(tmp_path):
    path = tmp_path / "known_hosts"
    HostKeys(path).pin("Cam-7.site", ONE)
    found = subprocess.run(["ssh-keygen", "-F", "Cam-7.site", "-f", path], capture_output=True, text=True, check=True)
    assert ONE.text in found.stdout


def test_any_pinned_key_is_known_and_another_is_a_change():
    assert judge_host_key((), ONE) == "new"
    assert judge_host_key((TWO, ONE), ONE) == "known"
    assert judge_host_key((TWO,), ONE) == "changed"


def test_a_change_names_both_fingerprints_and_the_command_that_accepts_it():
    error = describe_change(parse_target("cam-7"), "192.0.2.7:22", (ONE,), TWO)
    assert ONE.fingerprint in error.message
    assert TWO.fingerprint in error.message
    assert f"meetingctl remote trust cam-7 --fingerprint {TWO.fingerprint}" in (error.hint or "")
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("target", "name"),
    [("cam-7", "cam-7"), ("pi@192.0.2.7", "192.0.2.7"), ("pi@[fd00::7]:2222", "[fd00::7]:2222")],
)
def test_names_are_those_of_openssh(target, name):
    assert name_host(parse_target(target)) == name


def test_a_target_of_many_has_no_host_key():
    with pytest.raises(InvalidInput):
        name_host(parse_target("tag:lobby"))


def test_a_second_pin_replaces_the_first_and_unpin_returns_it(tmp_path):
    pins = HostKeys(tmp_path / "new folder" / "known_hosts")
    assert pins.pinned("cam-7") == ()
    pins.pin("cam-7", ONE)
    pins.pin("cam-7", TWO)
    assert pins.pinned("CAM-7") == (TWO,)
    assert pins.path.stat().st_mode & 0o777 == 0o600
    assert pins.unpin("cam-7") == (TWO,)
    assert pins.unpin("cam-7") == ()


def test_commands_that_pin_at_once_lose_nothing(tmp_path):
    pins = HostKeys(tmp_path / "known_hosts")
    threads = [threading.Thread(target=pins.pin, args=(f"cam-{number}", ONE)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(pins.pinned(f"cam-{number}") == (ONE,) for number in range(20))


def test_a_file_that_stays_locked_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "LOCK_WAIT_S", 0.1)
    pins = HostKeys(tmp_path / "known_hosts")
    with pins._locked(), pytest.raises(Busy):
        pins.pin("cam-7", ONE)
