"""Configuration of devices: pure parts as tables, and the commands against a real SSH server."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from meetingctl.cli import remote_config_edit as editing
from meetingctl.core.errors import ConfigError, Conflict, InvalidInput, MeetingctlError, NotFound
from meetingctl.remote.config import (
    diff_values,
    file_path,
    find_path,
    flatten,
    mask,
    set_path,
    split_words,
    unset_path,
)

from .machine import reports_of

DOCUMENT = {"a": {"b": 1, "on": True}, "rows": [{"ssid": "x"}, {"ssid": "y"}], "name": "7"}
ENV = "/etc/rpi-cam/config.env"
TEXT = """# camera at the door
VIDEOIN_FPS=15   # slow
RTSP_USER="admin"
RTSP_PASSWORD="hunter22"

MEETING_DEVICE_KEY=cam-7
# the end
"""


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("a.b", "2", {**DOCUMENT, "a": {"b": 2, "on": True}}),
        ("a.b", "2.5", {**DOCUMENT, "a": {"b": 2.5, "on": True}}),
        ("a.on", "false", {**DOCUMENT, "a": {"b": 1, "on": False}}),
        ("rows.1.ssid", "true", {**DOCUMENT, "rows": [{"ssid": "x"}, {"ssid": "true"}]}),
        ("name", "8", {**DOCUMENT, "name": "8"}),
        ("new.deep", "text", {**DOCUMENT, "new": {"deep": "text"}}),
        ("new", "[1]", {**DOCUMENT, "new": [1]}),
        ("a", "{}", {**DOCUMENT, "a": {}}),
    ],
)
def test_a_value_is_set_by_its_path(path, text, expected) -> None:
    before = repr(DOCUMENT)
    assert set_path(DOCUMENT, path, text) == expected
    assert repr(DOCUMENT) == before


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("a.b", "x", InvalidInput),
        ("a.b", "true", InvalidInput),
        ("a.on", "1", InvalidInput),
        ("a", "1", InvalidInput),
        ("a.b.c", "1", InvalidInput),
        ("rows.2", "1", NotFound),
        ("rows.-1", "1", NotFound),
        ("", "1", InvalidInput),
    ],
)
def test_what_does_not_fit_is_refused(path, text, kind) -> None:
    with pytest.raises(kind):
        set_path(DOCUMENT, path, text)


def test_paths_are_found_and_taken_out() -> None:
    assert find_path(DOCUMENT, "rows.0.ssid") == "x"
    assert unset_path(DOCUMENT, "rows.0") == {**DOCUMENT, "rows": [{"ssid": "y"}]}
    assert unset_path(DOCUMENT, "a.b") == {**DOCUMENT, "a": {"on": True}}
    for path in ("none", "a.none", "rows.9", "name.x"):
        with pytest.raises(NotFound):
            unset_path(DOCUMENT, path)
    assert flatten({"a": {"b": []}, "c": [1]}) == {"a.b": [], "c.0": 1}


def test_differences_hide_secrets() -> None:
    rows = diff_values({"A": "1", "PSK": "x", "same": "s"}, {"PSK": "y", "same": "s", "N": "rtsp://u:p@h/x"})
    assert rows == [
        {"key": "A", "old": "1", "new": None},
        {"key": "PSK", "old": "***", "new": "***"},
        {"key": "N", "old": None, "new": "rtsp://u:***@h/x"},
    ]
    assert (mask("token_required", True), mask("ap_password", "")) == (True, "")


@pytest.mark.parametrize(
    ("words", "takes_value", "expected"),
    [
        (["c1", "c2", "VIDEOIN_FPS", "20"], True, (["c1", "c2"], [("VIDEOIN_FPS", "20")])),
        (["c1", "RTSP_PASSWORD"], True, (["c1"], [("RTSP_PASSWORD", None)])),
        (["c1", "A=1", "B=x=y"], True, (["c1"], [("A", "1"), ("B", "x=y")])),
        (["c1", "VIDEO_OVERLAY_TEXT", "a=b"], True, (["c1"], [("VIDEO_OVERLAY_TEXT", "a=b")])),
        (["c1", "unknown", "5"], True, (["c1"], [("unknown", "5")])),
        (["c1", "RTSP_PORT", "RTSP_PATH"], False, (["c1"], [("RTSP_PORT", None), ("RTSP_PATH", None)])),
        (["c1", "unknown"], False, (["c1"], [("unknown", None)])),
        ([], True, ([], [])),
    ],
)
def test_words_are_targets_and_keys(words, takes_value, expected) -> None:
    known = {"VIDEOIN_FPS", "RTSP_PASSWORD", "VIDEO_OVERLAY_TEXT", "RTSP_PORT", "RTSP_PATH"}
    assert split_words(words, is_key=lambda word: word in known, takes_value=takes_value) == expected


@pytest.mark.parametrize("name", ["../x.json", "a/b.env", "x.conf", "/etc/../x.json", "", "/etc/shadow"])
def test_other_files_are_refused(name) -> None:
    with pytest.raises(InvalidInput):
        file_path(name)


def test_files_have_their_place() -> None:
    assert file_path("meeting.json") == "/etc/rpi-cam/meeting.json"
    assert file_path("/tmp/x.env") == "/tmp/x.env"


def test_a_change_keeps_every_other_byte() -> None:
    assert editing.edit(ENV, TEXT, {"VIDEOIN_FPS": "20"}).startswith(TEXT.replace("=15 ", "=20 ").rstrip())
    assert editing.edit(ENV, TEXT, {"RTSP_USER": "admin"}) == TEXT
    assert "RTSP_USER" not in editing.edit(ENV, TEXT, {"RTSP_USER": None})
    json_text = '{"b":1,\n "a": "x"}'
    assert editing.edit("/x.json", json_text, {"b": "1"}) == json_text
    assert editing.edit("/x.json", json_text, {"b": "2"}) == '{\n  "b": 2,\n  "a": "x"\n}\n'


def test_values_are_checked_before_anything_is_written() -> None:
    with pytest.raises(InvalidInput, match="VIDEOIN_FPS"):
        editing.check_wanted(ENV, {"VIDEOIN_FPS": "900"})
    with pytest.raises(InvalidInput):
        editing.check_keys(ENV, ["VIDEOIN_FSP"])
    with pytest.raises(Conflict):
        editing.edit(ENV, "MEETING_PROVISIONED=yes\n", {"MEETING_DEVICE_KEY": "x"})
    with pytest.raises(ConfigError, match="VIDEOIN_FPS"):
        editing.check_whole(ENV, "VIDEOIN_FPS=900\n")
    with pytest.raises(ConfigError, match="mask"):
        editing.check_whole(ENV, "RTSP_PASSWORD=***\n")
    for text in ("", "1", "{"):
        with pytest.raises(MeetingctlError):
            editing.check_whole("/x.json", text)


def test_a_pushed_file_leaves_a_device_its_identity() -> None:
    pushed = "VIDEOIN_FPS=20\nMEETING_DEVICE_KEY=other\nMEETING_TOKEN_CODE=ABCDEF\n"
    kept = editing.keep_identity(TEXT, pushed)
    assert "MEETING_DEVICE_KEY=cam-7" in kept
    assert "ABCDEF" not in kept


def test_the_units_that_read_a_key() -> None:
    assert editing.units_for(ENV, ["CHECK_INTERVAL"]) == ["rtsp-watchdog"]
    assert "rpi-av-rtsp-recorder" in editing.units_for(ENV, ["VIDEO_FPS"])
    assert editing.units_for(ENV, ["UNKNOWN"]) == []


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "etc/config.env"
    file.parent.mkdir()
    file.write_text(TEXT)
    file.chmod(0o640)
    return file


def test_a_key_is_read_changed_and_left_alone(here, camera, machine, config):
    machine.unit("rpi-av-rtsp-recorder")
    machine.unit("rpi-cam-onvif", "inactive")
    common = ("-i", str(camera.identity), "--file", str(config), "--json")
    got = here("remote", "config", "get", camera.target, "VIDEO_FPS", "RTSP_PASSWORD", "RTSP_PORT", *common)
    (report,) = reports_of(got.out)
    assert [row["value"] for row in report["values"]] == ["15", "***", "8554"]
    words = ("remote", "config", "set", camera.target, "VIDEOIN_FPS", "20", *common, "--restart", "auto")
    planned = reports_of(here(*words, "--dry-run").out)[0]
    assert planned["changes"][0] == {"key": "VIDEOIN_FPS", "old": "15", "new": "20"}
    assert (planned["changed"], config.read_text()) == (False, TEXT)
    first, second = (reports_of(here(*words).out)[0] for _ in range(2))
    assert (first["changed"], second["changed"], second["backup"]) == (True, False, None)
    assert first["restarted"] == ["rpi-av-rtsp-recorder"]
    assert "VIDEOIN_FPS=20   # slow" in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    backup = Path(first["backup"])
    assert (backup.read_text(), backup.parent, stat.S_IMODE(backup.stat().st_mode)) == (TEXT, config.parent, 0o640)
    assert [call for call in machine.changes if "restart" in call] == ["restart -- rpi-av-rtsp-recorder.service"]


def test_wrong_values_and_passwords_never_reach_a_device(here, camera, machine, config):
    common = ("-i", str(camera.identity), "--file", str(config))
    wrong = here("remote", "config", "set", camera.target, "VIDEOIN_FPS", "900", *common)
    assert (wrong.code, "VIDEOIN_FPS" in wrong.err) == (2, True)
    unknown = here("remote", "config", "set", camera.target, "VIDEOIN_FSP", "9", *common)
    assert (unknown.code, "VIDEOIN_FPS" in unknown.err) == (2, True)
    shown = here("remote", "config", "set", camera.target, "RTSP_PASSWORD", "secret99", *common)
    assert (shown.code, "secret99" in shown.err) == (2, False)
    assert machine.calls == []
    done = here("remote", "config", "set", camera.target, "RTSP_PASSWORD", *common, stdin="secret99\n")
    assert (done.code, "secret99" in done.out + done.err) == (0, False)
    assert 'RTSP_PASSWORD="secret99"' in config.read_text()
    assert here("remote", "config", "unset", camera.target, "RTSP_PASSWORD", *common).code == 0
    assert "RTSP_PASSWORD" not in config.read_text()


def test_a_json_file_is_changed_by_path(here, camera, tmp_path):
    file = tmp_path / "wifi_failover.json"
    file.write_text('{"enabled": false, "networks": [{"ssid": "a", "psk": "geheim99"}]}')
    common = ("-i", str(camera.identity), "--file", str(file), "--json")
    done = here("remote", "config", "set", camera.target, "enabled", "true", *common)
    assert reports_of(done.out)[0]["changes"] == [{"key": "enabled", "old": False, "new": True}]
    listed = here("remote", "config", "list", camera.target, *common)
    values = {row["key"]: row["value"] for row in reports_of(listed.out)[0]["values"]}
    assert values == {"enabled": True, "networks.0.ssid": "a", "networks.0.psk": "***"}
    assert here("remote", "config", "set", camera.target, "enabled", "maybe", *common).code == 2
    assert here("remote", "config", "get", camera.target, "networks.1.ssid", *common).code == 1


def test_a_file_goes_there_and_back(here, camera, second_camera, config, tmp_path):
    local = tmp_path / "mine/config.env"
    local.parent.mkdir()
    local.write_text(TEXT.replace("=15", "=25").replace("cam-7", "other"))
    common = ("-i", str(camera.identity), "--file", str(config))
    differs = here("remote", "config", "diff", camera.target, str(local), *common, "--exit-code")
    assert differs.code == 3
    assert f"{camera.target}\tVIDEOIN_FPS\t15\t25\n" in differs.out
    pushed = here("remote", "config", "push", camera.target, str(local), *common)
    assert pushed.code == 0
    assert config.read_text() == TEXT.replace("=15", "=25")
    targets = (camera.target, second_camera.target)
    pulled = here("remote", "config", "pull", *targets, *common, "--out", str(tmp_path / "kept"), "--json")
    places = [Path(report["here"]) for report in reports_of(pulled.out)]
    assert [place.read_text() for place in places] == [config.read_text()] * 2
    assert stat.S_IMODE(places[0].stat().st_mode) == 0o600
    same = here("remote", "config", "diff", camera.target, str(places[0]), *common, "--exit-code")
    assert (same.code, same.out) == (0, "")
    local.write_text("VIDEOIN_FPS=900\n")
    assert here("remote", "config", "push", camera.target, str(local), *common).code == 78
