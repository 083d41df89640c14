"""What devices have logged: redaction as tables, and the commands against a real SSH server."""

from __future__ import annotations

import json
import signal
import stat
import time
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.target import parse_target
from meetingctl.remote.logs import archive_name, journal_line, redact_all
from meetingctl.remote.redact import MASK, find_secrets, redact

from .machine import reports_of

SECRET = "hunter22x"


@pytest.mark.parametrize(
    "text",
    [
        f'RTSP_PASSWORD="{SECRET}"',
        f"RTSP_PASSWORD={SECRET}",
        f"export MEETING_TOKEN_CODE='{SECRET}'  # note",
        f'{{"token_code": "{SECRET}", "psk":"{SECRET}"}}',
        f"{{'ap_password': '{SECRET}'}}",
        f"wpa_passphrase={SECRET}",
        f"psk: {SECRET}",
        f"rtsp://admin:{SECRET}@10.0.0.7:8554/stream",
        f"Authorization: Basic {SECRET}",
        f"authorization: Digest username=x, response={SECRET}",
        f"X-Token-Code: {SECRET}",
        f"curl -H 'X-API-Key: {SECRET}' http://host",
        f"GET /snapshot?user=admin&password={SECRET}&x=1",
        f"ffmpeg --password {SECRET} -i x",
        f"key mk_0123abcd_{SECRET} used",
        f"whsec_{SECRET}",
        f"eyJhbGciOiJI.{SECRET}.{SECRET}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\ncut off here",
        f'RTSP_PASSWORD="{SECRET}',
        f"a: RTSP_PASSWORD={SECRET}",
        f'snmp_secret = "{SECRET} with \\" quotes"',
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    redacted = redact(text)
    assert SECRET not in redacted
    assert MASK in redacted


@pytest.mark.parametrize(
    "text",
    [
        "RTSP_PORT=8554",
        'RTSP_USER="admin"',
        "rtsp_auth_method=both",
        'RTSP_PASSWORD=""',
        "password authentication: yes",
        "Accepted publickey for pi from 10.0.0.1 port 5123 ssh2",
        "http://10.0.0.7:8470/api/devices@x",
        "VIDEO_KEYINT=30",
        "bypassed the filter in 3 s",
        '{"token_required": true}',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_redaction_keeps_the_rest_of_a_line() -> None:
    text = f"a=1 RTSP_PASSWORD={SECRET} b=2, rtsp://u:{SECRET}@h/x"
    assert redact(text) == f"a=1 RTSP_PASSWORD={MASK} b=2, rtsp://u:{MASK}@h/x"


def test_a_secret_of_the_configuration_is_found_in_the_logs() -> None:
    texts = {
        "config/config.env": f'RTSP_PASSWORD="{SECRET}"\nWEB_PASS=meeting\n',
        "journal/x.log": f"login with {SECRET} refused by meeting-tunnel-agent; meeting said {SECRET}2",
    }
    redacted = redact_all(texts)
    assert redacted["journal/x.log"] == f"login with {MASK} refused by meeting-tunnel-agent; {MASK} said {SECRET}2"
    assert find_secrets(["A_PASSWORD=abc", "B_TOKEN=true"]) == frozenset()


@given(st.text(max_size=200))
def test_any_text_can_be_redacted_twice(text: str) -> None:
    once = redact(text, ["abcdef"])
    assert redact(once, ["abcdef"]) == once


def test_redaction_of_a_long_line_ends_soon() -> None:
    started_s = time.monotonic()
    for piece in (
        "a",
        "pass",
        "pass.",
        "password=",
        "://",
        "token-",
        "-----BEGIN PRIVATE KEY-----",
        "eyJ" + "a" * 9,
        "-eyJ",
        "mk_0000_-",
    ):
        redact(piece * (40_000 // len(piece)))
    assert time.monotonic() - started_s < 20


def test_the_line_for_the_journal() -> None:
    assert journal_line(["a", "b"], lines=5, follow=True, since_s=90.0) == (
        "exec journalctl --no-pager --quiet --output=short-iso --lines=5 --follow --since=-90s "
        "--unit=a.service --unit=b.service"
    )
    assert journal_line(["a"], lines=5, grep="x y").endswith("'--grep=x y' --unit=a.service || [ $? = 1 ]")


def test_the_name_of_an_archive_is_one_plain_name() -> None:
    assert archive_name(parse_target("pi@[fd00::7]:2222"), "T") == "device-logs_pi_fd00_7_2222_T.zip"
    assert archive_name(parse_target("cam-7"), "T") == "device-logs_cam-7_T.zip"


def test_lines_of_one_device_are_plain_and_of_many_prefixed(here, camera, second_camera):
    common = ("-i", str(camera.identity), "--unit", "rtsp-recorder")
    alone = here("remote", "logs", camera.target, *common)
    assert (alone.code, alone.out.count(" | ")) == (0, 0)
    assert "--lines=200 --unit=rtsp-recorder.service" in alone.out
    both = here("remote", "logs", camera.target, second_camera.target, *common)
    assert sorted(line.split(" | ")[0] for line in both.out.splitlines()) == sorted(
        [camera.target, second_camera.target]
    )


def test_lines_in_json(here, camera):
    done = here("remote", "logs", camera.target, "-i", str(camera.identity), "-n", "5", "--since", "10m", "--json")
    (report,) = reports_of(done.out)
    assert done.code == 0
    assert len(report["lines"]) == 1
    assert "--since=-600s" in report["lines"][0]
    assert here("remote", "logs", camera.target, "--unit", "sshd").code == 1
    assert here("remote", "logs", camera.target, "-f", "--json").code == 2


def test_ctrl_c_ends_the_journal_on_the_device(meetingctl, camera, machine):
    words = ("remote", "logs", camera.target, "-i", str(camera.identity), "-f", "-o", "ndjson")
    with meetingctl.start(*words) as process:
        line = json.loads(process.stdout.readline())
        assert line["target"] == camera.target
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    deadline_s = time.monotonic() + 20
    while not machine.has("journal_ended") and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert machine.has("journal_ended")


def test_an_archive_holds_no_secret_and_is_private(here, camera, tmp_path):
    out = tmp_path / "logs"
    done = here("remote", "collect", camera.target, "-i", str(camera.identity), "--out", str(out), "--json")
    (report,) = reports_of(done.out)
    (path,) = out.iterdir()
    assert (done.code, report["file"], report["redacted"], report["is_cut"]) == (0, str(path), True, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert sorted(texts) == report["entries"]
    journal = texts["journal/rtsp-recorder.log"]
    assert "password=***" in journal
    assert not any("hunter22" in text for text in texts.values())
    assert "Linux" in texts["diagnostics/kernel.txt"]
    plain = here(
        "remote", "collect", camera.target, "-i", str(camera.identity), "--out", str(out), "--no-redact", "--json"
    )
    with zipfile.ZipFile(reports_of(plain.out)[0]["file"]) as archive:
        assert b"password=hunter22" in archive.read("journal/rtsp-recorder.log")


def test_a_folder_that_cannot_be_written_is_told(here, camera, tmp_path):
    (tmp_path / "file").write_text("")
    done = here("remote", "collect", camera.target, "-i", str(camera.identity), "--out", str(tmp_path / "file"))
    assert done.code == 1
    assert "cannot write" in done.err
