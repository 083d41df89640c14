"""Who gets in: every operation without, with a wrong, an old, an early, a replayed and a right token."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meetingctl.core.secret import Secret
from meetingctl.device.onvif.auth import REALM, Caller, Credentials, Denied, Gate, lock_s
from meetingctl.device.onvif.dispatch import TABLE
from meetingctl.device.onvif.replay import UsedCounts, UsedTokens
from meetingctl.device.onvif.soap import NAMESPACES
from meetingctl.device.onvif.sparing import Sparing
from meetingctl.device.rtsp.auth import Login, answer_challenge, choose_challenge, parse_challenges

from .conftest import Device
from .live import free_udp_port, running
from .schemas import request, subcodes

USER, PASSWORD = "admin", 'p"a$s wörd'
LOGIN = Credentials(USER, Secret(PASSWORD))
NOW_S = 1_800_000_000.0
OPERATIONS = {
    f"{next(key for key, uri in NAMESPACES.items() if uri == namespace)}:{name}": op
    for (namespace, name), op in TABLE.items()
}
PROTECTED = sorted(name for name, op in OPERATIONS.items() if op.access != "PRE")
REFUSED = ["Sender", "NotAuthorized"]


@pytest.fixture
def locked(device: Device) -> Device:
    device.configure(RTSP_USER=USER, RTSP_PASSWORD=PASSWORD.replace('"', '\\"').replace("$", "\\$"))
    device.system.write("/etc/rpi-cam/onvif.conf", '{"media2": true}')
    assert device.facts.login == LOGIN
    return device


@pytest.mark.parametrize("operation", PROTECTED)
def test_nothing_answers_without_a_valid_token(locked: Device, operation: str) -> None:
    before = locked.env()
    now = datetime.now(UTC)
    nobody = locked.call(operation)
    assert (nobody.status, subcodes(nobody.body)) == (401, REFUSED)
    old, early = now - timedelta(seconds=330), now + timedelta(seconds=330)
    for more in ({"created": old}, {"created": early}, {"password": "wrong"}, {"user": "other"}, {"nonce": b""}):
        answer = locked.call(operation, **({"user": USER, "password": PASSWORD} | more))
        assert (answer.status, subcodes(answer.body)) == (400, REFUSED), more
    twice = request(operation, user=USER, password=PASSWORD)
    assert subcodes(locked.send(twice).body) != REFUSED
    assert subcodes(locked.send(twice).body) == REFUSED
    assert locked.env() == before


@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - set(PROTECTED)))
def test_what_is_open_ignores_a_wrong_token(locked: Device, operation: str) -> None:
    for more in ({}, {"user": USER, "password": "wrong"}):
        assert REFUSED != subcodes(locked.call(operation, **more).body)


def test_an_unknown_operation_needs_a_token_too(locked: Device) -> None:
    assert subcodes(locked.call("tds:SystemReboot").body) == REFUSED
    answer = locked.call("tds:SystemReboot", user=USER, password=PASSWORD)
    assert subcodes(answer.body) == ["Receiver", "ActionNotSupported"]


def test_a_password_in_plain_text_is_refused(locked: Device) -> None:
    body = request("trt:GetProfiles", user=USER, password=PASSWORD)
    digest = body.partition(b"#PasswordDigest")
    assert subcodes(locked.send(digest[0] + b"#PasswordText" + digest[2]).body) == REFUSED


@pytest.mark.parametrize("created", ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00.123456Z", "2027-01-15T08:00:00"])
def test_the_time_of_a_token_may_be_written_in_several_ways(created: str) -> None:
    import hashlib

    from lxml import etree

    nonce = base64.b64encode(b"12345678").decode()
    digest = base64.b64encode(hashlib.sha1(b"12345678" + created.encode() + PASSWORD.encode()).digest()).decode()
    # As UniFi does it: a default namespace, and no EncodingType.
    header = etree.fromstring(
        f'<Header><Security xmlns="{NAMESPACES["wsse"]}"><UsernameToken><Username>{USER}</Username>'
        f'<Password Type="x#PasswordDigest">{digest}</Password><Nonce>{nonce}</Nonce>'
        f'<Created xmlns="{NAMESPACES["wsu"]}">{created}</Created></UsernameToken></Security></Header>'
    )
    at_s = datetime(2027, 1, 15, 8, 0, tzinfo=UTC).timestamp()
    assert Gate().check_call("ACT", LOGIN, Caller("a", "POST", "/"), header, now_s=at_s + 299)
    with pytest.raises(Denied):
        Gate().check_call("ACT", LOGIN, Caller("a", "POST", "/"), header, now_s=at_s + 302)


def digest(gate: Gate, target: str, *, password: str = PASSWORD, now_s: float = NOW_S, cnonce: str = "abc") -> str:
    challenge = choose_challenge(parse_challenges(gate.challenges(stale=False, now_s=now_s)))
    assert challenge is not None
    assert challenge.get("realm") == REALM
    return answer_challenge(challenge, Login(USER, Secret(password)), "POST", target, cnonce=cnonce)


def test_http_digest_lets_in_once_for_each_count() -> None:
    gate = Gate()
    header = digest(gate, "/onvif/x")
    caller = Caller("10.0.0.9", "POST", "/onvif/x", header)
    assert gate.check_call("ACT", LOGIN, caller, None, now_s=NOW_S)
    with pytest.raises(Denied) as replayed:
        gate.check_call("ACT", LOGIN, caller, None, now_s=NOW_S)
    assert replayed.value.stale
    assert replayed.value.status == 401


@pytest.mark.parametrize("wrong", ["password", "target", "nonce", "old"])
def test_http_digest_refuses(wrong: str) -> None:
    gate = Gate()
    header = digest(gate, "/onvif/x", password="other" if wrong == "password" else PASSWORD)
    if wrong == "nonce":
        header = digest(Gate(), "/onvif/x")
    caller = Caller("10.0.0.9", "POST", "/onvif/y" if wrong == "target" else "/onvif/x", header)
    with pytest.raises(Denied):
        gate.check_call("RS", LOGIN, caller, None, now_s=NOW_S + (301 if wrong == "old" else 0))


def test_basic_is_for_pictures_only_and_only_where_the_stream_allows_it() -> None:
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    caller = Caller("10.0.0.9", "GET", "/onvif/snapshot.jpg", f"Basic {pair}")
    Gate().check_picture(LOGIN, caller, allow_basic=True, now_s=NOW_S)
    with pytest.raises(Denied):
        Gate().check_picture(LOGIN, caller, allow_basic=False, now_s=NOW_S)
    with pytest.raises(Denied):
        Gate().check_call("RS", LOGIN, caller, None, now_s=NOW_S)


def test_wrong_passwords_lock_an_address_out_for_longer_each_time() -> None:
    assert [lock_s(count) for count in (0, 4, 5, 6, 7, 30)] == [0, 0, 1, 2, 4, 60]
    gate = Gate()

    def attempt(address: str, password: str, now_s: float) -> Denied | None:
        caller = Caller(address, "POST", "/", digest(gate, "/", password=password, now_s=now_s, cnonce=str(now_s)))
        try:
            gate.check_call("RS", LOGIN, caller, None, now_s=now_s)
        except Denied as error:
            return error
        return None

    for _ in range(5):
        assert attempt("10.0.0.66", "wrong", NOW_S) is not None
    locked = attempt("10.0.0.66", PASSWORD, NOW_S + 0.5)
    assert locked is not None
    assert locked.retry_after_s == 1
    assert attempt("10.0.0.9", PASSWORD, NOW_S + 0.5) is None
    assert attempt("10.0.0.66", PASSWORD, NOW_S + 1.5) is None
    assert attempt("10.0.0.66", "wrong", NOW_S + 2) is not None
    assert attempt("10.0.0.66", PASSWORD, NOW_S + 2) is None


def test_strangers_cannot_fill_the_memory_of_nonces(locked: Device) -> None:
    gate = Gate()
    for number in range(3000):
        caller = Caller(f"10.{number >> 8}.{number & 255}.1", "POST", "/", 'Digest username="x"')
        with pytest.raises(Denied):
            gate.check_call("RS", LOGIN, caller, None, now_s=NOW_S)
    assert len(gate._failures) <= 1024
    assert not len(gate._used)
    assert not gate._counts


def test_the_same_bytes_in_another_spelling_are_the_same_token(locked: Device) -> None:
    for nonce, spellings in ((b"1234567", ("MTIzNDU2Nx==", "MTIzNDU2N/==")), (b"12345678", ("MTIzNDU2Nzh=",))):
        body = request("trt:GetProfiles", user=USER, password=PASSWORD, nonce=nonce)
        assert locked.send(body).status == 200
        for spelled in spellings:
            other = body.replace(base64.b64encode(nonce), spelled.encode())
            assert subcodes(locked.send(other).body) == REFUSED, spelled


def test_a_used_token_stays_used_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "run" / "onvif-tokens"
    first = UsedTokens(300)
    first.keep_in(path)
    assert first.take("one", NOW_S, NOW_S)
    assert path.stat().st_mode & 0o777 == 0o600
    second = UsedTokens(300)  # the first one was killed
    second.keep_in(path)
    assert not second.take("one", NOW_S, NOW_S + 1)
    assert second.take("two", NOW_S, NOW_S + 1)
    for broken in (b"\xff\xfe", b"x y z\n1 \n", b"nan one\n"):
        path.write_bytes(broken)
        third = UsedTokens(300)
        third.keep_in(path)
        assert third.take("three", NOW_S, NOW_S)
        third.close()


def test_a_killed_service_remembers_the_tokens(tmp_path: Path) -> None:
    with running(tmp_path, RTSP_USER=USER, RTSP_PASSWORD="secret") as daemon:
        body = request("trt:GetProfiles", user=USER, password="secret")
        assert daemon.post(body)[0] == 200
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        daemon.log_path.unlink()
        daemon.start(f"--discovery-port={free_udp_port()}")
        assert daemon.post(body)[0] == 400


def test_a_user_with_letters_of_other_languages() -> None:
    login = Credentials("Jörg", Secret("p"))
    gate = Gate()
    challenge = choose_challenge(parse_challenges(gate.challenges(stale=False, now_s=NOW_S)))
    assert challenge is not None
    header = answer_challenge(challenge, Login("Jörg", Secret("p")), "POST", "/", cnonce="abc")
    on_the_wire = header.encode().decode("latin-1")
    assert gate.check_call("ACT", login, Caller("a", "POST", "/", on_the_wire), None, now_s=NOW_S)


def test_what_was_forgotten_counts_as_used() -> None:
    used = UsedTokens(300)
    for number in range(5000):
        assert used.take(str(number), NOW_S + number / 100, NOW_S + 50)
    assert not any(used.take(str(number), NOW_S + number / 100, NOW_S + 50) for number in (0, 500, 903, 904, 4999))
    counts = UsedCounts()
    later_s = NOW_S + 1200
    for number in range(1200):
        assert counts.take(str(number), NOW_S + number, 1, later_s)
    assert not any(counts.take(str(number), NOW_S + number, 1, later_s) for number in (0, 100, 175, 176, 1199))
    assert len(counts) <= 1024


def test_a_clock_that_was_ahead_shuts_nobody_out() -> None:
    used, counts = UsedTokens(300), UsedCounts()
    for number in range(5000):
        assert used.take(f"ahead {number}", NOW_S + 3600 + number / 100, NOW_S + 3600)
        counts.take(f"ahead {number}", NOW_S + 3600 + number, 1, NOW_S + 9000)
    for number in range(3000):
        assert used.take(str(number), NOW_S + number * 7 % 3000 / 100, NOW_S), number
    assert counts.take("now", NOW_S, 1, NOW_S)
    assert len(used) <= 4096


def test_counts_may_overtake_each_other_but_not_come_twice() -> None:
    counts = UsedCounts()
    order = (3, 1, 2, 200, 150, 137, 0xFFFFFFFF)
    assert [counts.take("n", NOW_S, count, NOW_S) for count in order] == [True] * len(order)
    assert not any(counts.take("n", NOW_S, count, NOW_S) for count in (*order, 4))


@pytest.mark.parametrize(
    "rest",
    ["a" * 15900, "a=" * 8000, 'a="' + "\\" * 15000, "a = " + " " * 15000, "a=" + " " * 2000 + '"', 'x="1"' * 400],
)
def test_a_malicious_header_costs_nothing(rest: str) -> None:
    from meetingctl.device.onvif.auth import read_parameters

    begun_s = time.process_time()
    for _ in range(20):
        assert read_parameters(rest) == {}
        read_parameters(rest[:2048])
    assert time.process_time() - begun_s < 0.5


def test_parameters_are_read_as_they_are_written() -> None:
    from meetingctl.device.onvif.auth import read_parameters

    shown = read_parameters(' username="a \\"b, c", NC=00000001 ,qop = auth,uri="/x?y=1"')
    assert shown == {"username": 'a "b, c', "nc": "00000001", "qop": "auth", "uri": "/x?y=1"}
    assert read_parameters("nc=1, nc=2") == {}


def test_the_log_is_not_filled_by_strangers() -> None:
    sparing = Sparing()
    assert [sparing.should_tell("10.0.0.9", now_s) for now_s in (0.0, 59.0, 60.0)] == [True, False, True]
    assert sum(sparing.should_tell(f"10.1.{number >> 8}.{number & 255}", 61.0) for number in range(9000)) == 29


def test_the_locked_are_not_freed_by_other_addresses() -> None:
    gate = Gate()
    for number in range(3000):
        gate._note_failure("10.0.0.66" if number < 8 else f"10.1.{number >> 8}.{number & 255}", NOW_S)
    with pytest.raises(Denied, match="too many"):
        gate._refuse_locked("10.0.0.66", NOW_S + 1)


def test_the_login_of_the_stream_is_copied_into_onvif_conf(locked: Device) -> None:
    import json

    kept = json.loads(locked.system.read("/etc/rpi-cam/onvif.conf"))
    assert (kept["username"], kept["password"], kept["media2"]) == (USER, PASSWORD, True)
    assert locked.system.path("/etc/rpi-cam/onvif.conf").stat().st_mode & 0o777 == 0o600
    locked.keys.pop("RTSP_USER")
    locked.configure()
    assert locked.facts.login == LOGIN  # the login of onvif.conf stays


@pytest.mark.parametrize(
    ("env", "conf"),
    [
        ('RTSP_USER="admin"\nRTSP_PASSWORD="abc\n', "{}"),
        (f'RTSP_USER="admin"\nRTSP_PASSWORD="{"x" * 200}"\n', "{}"),
        ('RTSP_USER="admin"\n', "{}"),
        ("RTSP_PASSWORD=abc\n", "{}"),
        ("", '{"username": "admin"}'),
        ("", '{"password": "abc"}'),
    ],
)
def test_a_login_that_cannot_be_used_opens_nothing(device: Device, env: str, conf: str) -> None:
    device.system.write("/etc/rpi-cam/config.env", env)
    device.system.write("/etc/rpi-cam/onvif.conf", conf)
    assert device.call("tds:GetSystemDateAndTime").status == 200
    for login in ({}, {"user": "admin", "password": "abc"}, {"user": "admin", "password": ""}):
        assert subcodes(device.call("trt:GetProfiles", **login).body) == REFUSED


@pytest.mark.parametrize(
    "env", ["", 'RTSP_USER=""\nRTSP_PASSWORD=\n', "# RTSP_USER=x\nRTSP_USER= # none\nRTSP_PORT=8554\n"]
)
def test_without_any_login_everything_is_open(device: Device, env: str) -> None:
    device.system.write("/etc/rpi-cam/config.env", env)
    assert device.call("trt:GetProfiles").status == 200


def test_an_empty_body_is_asked_for_the_login(locked: Device, device: Device) -> None:
    """Clients on libcurl begin so."""
    assert locked.send(b"").status == 401
    device.keys = {}
    device.configure()
    device.system.write("/etc/rpi-cam/onvif.conf", "{}")
    assert subcodes(device.send(b"").body) == ["Sender", "WellFormed"]


def test_the_secret_is_in_no_answer(locked: Device) -> None:
    locked.configure(ONVIF_URI_CREDENTIALS="no")
    for operation in ("tds:GetUsers", "trt:GetProfiles", "tds:GetScopes"):
        assert b"p&quot;a" not in locked.call(operation, user=USER, password=PASSWORD).body
        assert b'p"a$s' not in locked.call(operation, user=USER, password=PASSWORD).body


def test_time_is_told_to_everybody(locked: Device) -> None:
    answer = locked.call("tds:GetSystemDateAndTime", now_s=time.time())
    assert answer.status == 200
