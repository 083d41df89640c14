"""Facts in, steps out: each file below `tests/data/plan/remote_install` is one case."""

from __future__ import annotations

import contextlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from meetingctl.core.errors import InvalidInput, MeetingctlError
from meetingctl.core.plan import as_rows
from meetingctl.core.secret import Secret
from meetingctl.device.config.envfile import parse_env, update_env
from meetingctl.remote.recipes import meeting
from meetingctl.remote.recipes.bundle import Bundle, misfits
from meetingctl.remote.recipes.facts import InstallFacts, parse_install_facts
from meetingctl.remote.recipes.install import is_off_by_choice, judge_heartbeat
from meetingctl.remote.recipes.meeting import EnvSyntax, Membership
from meetingctl.remote.recipes.plan import Wishes, find_obstacles, plan_install, refuse_unfit
from meetingctl.remote.recipes.steps import percent_of
from meetingctl.remote.recipes.unit import UNIT
from meetingctl.remote.services import UnitState
from meetingctl.remote.transient import UnitFacts, parse_unit, start_line

CASES = sorted((Path(__file__).parents[1] / "data/plan/remote_install").glob("*.json"))
SYNTAX = EnvSyntax(
    lambda text: parse_env(text).values(), lambda text, changes: update_env(parse_env(text), dict(changes)).render()
)
MEMBER = Membership("cam-7", Secret("3FA9C1"), "https://fleet.example/api", "fleet.example", 9001)
BUNDLE = Bundle(Path("bundle.tar.gz"), "2.0", "ab" * 32, 50_000_000, 60_000_000, ("meetingctl-2.0-py3-none-any.whl",))


def facts_of(row: dict) -> InstallFacts:
    values = dict(row)
    if "unit" in values:
        values["unit"] = UnitFacts(**values["unit"])
    if isinstance(values.get("meeting"), dict):
        values["meeting"] = json.dumps(values["meeting"])
    if "python" in values:
        values["python"] = tuple(values["python"])
    assert values.keys() <= {field.name for field in fields(InstallFacts)}
    return InstallFacts(**values)


def wishes_of(row: dict) -> Wishes:
    values = dict(row)
    member = replace(MEMBER, token=Secret(values.pop("token", "3FA9C1"))) if values.pop("member", True) else None
    bundle = BUNDLE if values.pop("bundle", True) else None
    return Wishes(SYNTAX, member=member, bundle=bundle, **values)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_plan(case: Path) -> None:
    table = json.loads(case.read_text())
    facts, wishes = facts_of(table["facts"]), wishes_of(table["wishes"])
    assert list(find_obstacles(facts, wishes.bundle)) == table.get("obstacles", [])
    rows = as_rows(plan_install(facts, wishes, table.get("done", [])))
    assert rows == table["steps"], json.dumps(rows, indent=1)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_percentages_of_a_plan_never_go_back(case: Path) -> None:
    table = json.loads(case.read_text())
    steps = plan_install(facts_of(table["facts"]), wishes_of(table["wishes"]), table.get("done", []))
    percents = [percent_of(step) for step in steps]
    assert percents == sorted(percents)


def test_the_texts_of_a_first_installation() -> None:
    text = meeting.write_meeting(None, MEMBER, provisioned=False)
    assert json.loads(text) == {
        "enabled": True,
        "api_url": "https://fleet.example/api",
        "device_key": "cam-7",
        "token_code": "3FA9C1",
        "heartbeat_interval": 60,
        "auto_connect": True,
        "provisioned": False,
        "tunnel_host": "fleet.example",
        "tunnel_port": 9001,
        "tunnel_ssl": False,
    }
    config = meeting.write_config("# mine\nVIDEOIN_FPS=15 # kept\n", MEMBER, SYNTAX, provisioned=True)
    assert config.startswith("# mine\nVIDEOIN_FPS=15 # kept\n")
    values = parse_env(config).values()
    assert values["MEETING_TOKEN_CODE"] == "********"
    assert "3FA9C1" not in config
    assert (values["MEETING_PROVISIONED"], values["RECORD_ENABLE"]) == ("yes", "yes")
    assert meeting.write_config(config, MEMBER, SYNTAX, provisioned=True) == config
    off = config.replace("RECORD_ENABLE=yes", "RECORD_ENABLE=no")
    assert meeting.write_config(off, MEMBER, SYNTAX, provisioned=True) == off


def test_keys_of_meeting_json_that_are_not_ours_stay() -> None:
    before = json.dumps({"extra": {"a": 1}, "heartbeat_interval": 30, "device_key": "cam-7", "token_code": "AAAAAA"})
    after = json.loads(meeting.write_meeting(before, MEMBER, provisioned=True))
    assert (after["extra"], after["heartbeat_interval"], after["token_code"]) == ({"a": 1}, 30, "3FA9C1")
    without = replace(MEMBER, token=Secret(""))
    assert json.loads(meeting.write_meeting(before, without, provisioned=True))["token_code"] == "AAAAAA"
    with pytest.raises(MeetingctlError, match="no token code"):
        meeting.write_meeting(before, replace(without, device_key="cam-8"), provisioned=True)
    assert json.loads(meeting.write_meeting("{broken", MEMBER, provisioned=True))["device_key"] == "cam-7"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1 localhost\n", "127.0.0.1 localhost\n127.0.1.1\tcam-7\n"),
        ("127.0.0.1 localhost", "127.0.0.1 localhost\n127.0.1.1\tcam-7\n"),
        ("# a\n127.0.1.1 old old.lan\n::1 ip6\n", "# a\n127.0.1.1\tcam-7\n::1 ip6\n"),
        ("127.0.1.1 a\n127.0.1.1 b\n", "127.0.1.1\tcam-7\n"),
        ("127.0.1.1 cam-7 cam-7.lan # kept\n", "127.0.1.1 cam-7 cam-7.lan # kept\n"),
    ],
)
def test_hosts(text: str, wanted: str) -> None:
    assert meeting.write_hosts(text, "cam-7") == wanted
    assert meeting.write_hosts(wanted, "cam-7") == wanted


def test_a_host_name_of_a_key() -> None:
    assert meeting.host_name_of("8F0A_33.x") == "8f0a-33-x"
    assert meeting.host_name_of("A" * 100) == "a" * 63
    with pytest.raises(InvalidInput):
        meeting.host_name_of("___")
    with pytest.raises(InvalidInput):
        meeting.check_host_name("-cam; reboot")


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("meetingctl-2.0-py3-none-any.whl", True),
        ("six-1.16-py2.py3-none-any.whl", True),
        ("cffi-2.1-cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", True),
        ("cffi-2.1-cp311-cp311-manylinux2014_aarch64.whl", False),
        ("cffi-2.1-cp313-cp313-manylinux2014_x86_64.whl", False),
        ("bcrypt-5-cp39-abi3-manylinux_2_28_aarch64.whl", True),
        ("bcrypt-5-cp314-abi3-manylinux_2_28_aarch64.whl", False),
        ("requirements.txt", True),
    ],
)
def test_wheels_for_a_device(wheel: str, fits: bool) -> None:
    assert (misfits([wheel], (3, 13), "arm64") == []) is fits


def test_a_device_that_cannot_take_the_package() -> None:
    facts = InstallFacts(python=(3, 9), has_systemd=False, version="3.0", check=0, free_bytes=10**8, arch="arm64")
    with pytest.raises(MeetingctlError) as refused:
        refuse_unfit("cam-7", facts, BUNDLE)
    reasons = "it has no systemd; Python 3.11 or newer is needed, found 3.9; version 3.0 is there, newer than 2.0"
    assert reasons in refused.value.message


FIT = InstallFacts(python=(3, 13), arch="arm64", free_bytes=10**10, tmp_free_bytes=10**9)
RUNS = UnitFacts("active", "running")


@pytest.mark.parametrize(
    ("facts", "reasons", "way_out"),
    [
        (FIT, [], ""),
        (replace(FIT, tmp_free_bytes=None), [], ""),
        (
            replace(FIT, tmp_free_bytes=8192),
            ["/tmp is full: 1024 KiB are needed, 8 KiB are free"],
            "meetingctl remote run cam-7 --sudo -- du -xh --max-depth=1 /tmp",
        ),
        (
            replace(FIT, unwritable=("/tmp",), tmp_free_bytes=0),
            ["nothing can be written to /tmp"],
            "meetingctl remote run cam-7 -- findmnt --target /tmp",
        ),
        (
            replace(FIT, unwritable=("/var/tmp",)),
            ["nothing can be written to /var/tmp"],
            "meetingctl remote run cam-7 -- findmnt --target /var/tmp",
        ),
        (replace(FIT, unit=RUNS, unwritable=("/tmp",), tmp_free_bytes=0), [], ""),
    ],
)
def test_folders_for_files_in_between(facts: InstallFacts, reasons: list[str], way_out: str) -> None:
    for bundle in (BUNDLE, None):
        assert list(find_obstacles(facts, bundle)) == reasons
        with contextlib.ExitStack() as stack:
            refused = stack.enter_context(pytest.raises(MeetingctlError)) if reasons else None
            refuse_unfit("cam-7", facts, bundle)
        assert refused is None or refused.value.hint == way_out


def test_answers_of_a_device_become_facts() -> None:
    facts = parse_install_facts(
        {
            "whoami": "0\n",
            "python": "3 13\n",
            "systemd": "systemd 257 (257.9)\n+PAM\n",
            "time": "Timezone=Europe/Paris\nNTP=no\nCanNTP=yes\n",
            "meeting": '{"a": 1}\n',
            "config": "A=1",
            "has_files": "/etc/rpi-cam/meeting.json\n",
            "disk": "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/root 1000 1 900 1% /\n",
            "tmp": "Filesystem 1024-blocks Used Available Capacity Mounted on\ntmpfs 100 60 40 60% /tmp\n",
            "unwritable": "/tmp\n/var/tmp\n",
            "check": "1\n",
            "version": "1.4\n",
        }
    )
    assert (facts.python, facts.has_systemd, facts.has_ntp, facts.timezone) == ((3, 13), True, False, "Europe/Paris")
    assert (facts.meeting, facts.config, facts.free_bytes, facts.check) == ('{"a": 1}\n', None, 921600, 1)
    assert (facts.tmp_free_bytes, facts.unwritable) == (40960, ("/tmp", "/var/tmp"))
    nothing = parse_install_facts({})
    assert (nothing.tmp_free_bytes, nothing.unwritable) == (None, ())
    assert (nothing.python, nothing.has_systemd, nothing.is_installed) == ((0, 0), False, False)
    assert "secret" not in repr(replace(nothing, meeting="secret", config="secret", hosts="secret"))


def test_the_unit() -> None:
    text = "Id=meetingctl-install.service\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=7\n"
    unit = parse_unit(UNIT, f"{text}InvocationID=ab\nDescription=meetingctl-install: repair\n")
    assert (unit.is_running, unit.is_over, unit.is_good, unit.exit_code, unit.job) == (
        False,
        True,
        False,
        7,
        "repair",
    )
    assert parse_unit(UNIT, "").is_over is False
    assert UnitFacts("active", "running").is_running
    assert UnitFacts("active", "exited", "success", 0).is_good
    assert "'a b'" in start_line(UNIT, "x", ["echo", "a b"])


def test_a_recorder_that_is_to_be_off_is_well() -> None:
    off = UnitState("rtsp-recorder", "loaded", "inactive", "dead", "enabled", "success")
    assert is_off_by_choice(off)
    assert not is_off_by_choice(replace(off, result="exit-code"))
    assert not is_off_by_choice(replace(off, unit="rpi-av-rtsp-recorder"))
    assert not is_off_by_choice(replace(off, active="activating"))


@pytest.mark.parametrize(
    ("device", "address", "ok"),
    [
        ({}, None, False),
        ({"last_heartbeat": "t2", "status": "Available"}, None, True),
        ({"last_heartbeat": "t1", "status": "Available"}, None, False),
        ({"last_heartbeat": "t2", "status": "Disconnected"}, None, False),
        ({"last_heartbeat": "t2", "status": "Available", "ip_lan": "10.0.0.7"}, "10.0.0.7", True),
        ({"last_heartbeat": "t2", "status": "Available", "ip_address": "10.0.0.8"}, "10.0.0.7", False),
    ],
)
def test_a_heartbeat(device: dict, address: str | None, ok: bool) -> None:
    assert judge_heartbeat(device, address, before="t1")[0] is ok
