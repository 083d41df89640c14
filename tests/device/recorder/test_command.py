from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.secret import Secret
from meetingctl.device.config import DeviceConfig
from meetingctl.device.recorder.command import (
    choose_source,
    closed_segment,
    explain_ending,
    mask,
    record_argv,
    render_input,
)

CONFIG = DeviceConfig(rtsp_user="viewer", rtsp_password=Secret("p:@/w 'x"), rtsp_path="live/cam")


class TestSource:
    def test_the_local_listener_wins(self) -> None:
        source = choose_source(CONFIG, '{"port": 40123, "path": "/r4nd0m", "http_port": 9}')
        assert (source.host, source.port, source.url) == ("127.0.0.1", 40123, "rtsp://127.0.0.1:40123/r4nd0m")

    @pytest.mark.parametrize(
        "text",
        [
            None,
            "",
            "{",
            "[]",
            '{"port": "1", "path": "/x"}',
            '{"port": 0, "path": "/x"}',
            '{"port": 1, "path": "/"}',
            '{"port": true, "path": "/x"}',
        ],
    )
    def test_without_it_the_public_address_with_the_login(self, text: str | None) -> None:
        source = choose_source(CONFIG, text)
        parts = urlsplit(source.url)
        assert (parts.hostname, parts.port, parts.path) == ("127.0.0.1", 8554, "/live/cam")
        assert (unquote(parts.username or ""), unquote(parts.password or "")) == ("viewer", "p:@/w 'x")

    def test_no_login_unless_both_are_set(self) -> None:
        assert "@" not in choose_source(replace(CONFIG, rtsp_password=Secret("")), None).url

    def test_neither_password_nor_secret_path_is_shown(self) -> None:
        assert choose_source(CONFIG, None).shown == "rtsp://127.0.0.1:8554/live/cam"
        assert "r4nd0m" not in repr(choose_source(CONFIG, '{"port": 1, "path": "/r4nd0m"}'))
        assert "p%3A" not in repr(choose_source(CONFIG, None))

    @given(st.text(max_size=30), st.text(max_size=30))
    def test_no_login_breaks_out_of_the_script(self, user: str, password: str) -> None:
        config = replace(
            CONFIG,
            rtsp_user=user.encode(errors="replace").decode(),
            rtsp_password=Secret(password.encode(errors="replace").decode()),
        )
        lines = render_input(choose_source(config, None)).splitlines()
        assert len(lines) == 7
        assert "option use_wallclock_as_timestamps 1" in lines
        assert lines[1].count("'") == 2


class TestArguments:
    def test_no_address_and_no_login_among_them(self, tmp_path: Path) -> None:
        words = " ".join(record_argv(tmp_path / "in", tmp_path / ".live", 300))
        assert "rtsp://" not in words
        assert "-c:v copy -c:a aac -b:a 64k" in words
        assert words.endswith("/.live/rec_%Y%m%d_%H%M%S.ts")

    def test_a_percent_sign_in_the_folder_is_no_time(self) -> None:
        assert record_argv(Path("/in"), Path("/a%Yb"), 30)[-1] == "/a%%Yb/rec_%Y%m%d_%H%M%S.ts"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("rec_1.ts,0.000000,30.066667\n", "rec_1.ts"),
        ("rec_1.ts,-0.1,2", "rec_1.ts"),
        ("", None),
        ("rec_1.ts", None),
        ("rec_1.ts,a,b", None),
        (",1,2", None),
    ],
)
def test_lines_of_the_segment_list(line: str, name: str | None) -> None:
    assert closed_segment(line) == name


@pytest.mark.parametrize(
    "line",
    [
        "[concat @ 0x5] Impossible to open 'rtsp://us:x%40%2Fw@127.0.0.1:18555/stream'",
        "rtsp://us:pa@ss/w@127.0.0.1/x",
        "a rtsp://us:x%40@h/x and http://us:x%40@h/y",
    ],
)
def test_logins_are_masked(line: str) -> None:
    shown = mask(line)
    assert "us:" not in shown
    assert "x%40" not in shown
    assert "://***@" in shown


def test_an_address_without_a_login_stays() -> None:
    assert mask("'rtsp://127.0.0.1:1/x' and a@b") == "'rtsp://127.0.0.1:1/x' and a@b"


@pytest.mark.parametrize(
    ("code", "lines", "reason"),
    [
        (1, ["[rtsp @ 1] method DESCRIBE failed: 401 Unauthorized", "x"], "the stream refuses the login"),
        (1, ["av_interleaved_write_frame(): No space left on device"], "the disk is full"),
        (1, ["tcp://127.0.0.1:1: Connection refused"], "nothing listens at the address of the stream"),
        (0, ["in: Connection timed out"], "the stream sent nothing for 5 s"),
        (0, [], "the stream ended"),
        (0, ["[aac @ 1] Queue input is backward in time"], "the stream ended"),
        (139, [], "ffmpeg ended with code 139"),
        (1, ["Cannot open rtsp://a:b@c/d"], "Cannot open rtsp://***@c/d"),
    ],
)
def test_endings_are_explained(code: int, lines: list[str], reason: str) -> None:
    ending = explain_ending(code, lines)
    assert ending.reason == reason
    assert ending.is_disk_full == ("disk" in reason)
