"""Units of devices: the plan as a table, and the commands against a real SSH server."""

from __future__ import annotations

import pytest

from meetingctl.core.errors import HostKeyChanged, MeetingctlError, NotFound, Unreachable
from meetingctl.remote.reboot import wait_for_boot
from meetingctl.remote.services import Step, UnitState, choose_units, judge_state, plan_units, split_units
from meetingctl.remote.visit import Answer, explain_failure

from .machine import reports_of

STREAM, RECORDER, WEB, AGENT = "rpi-av-rtsp-recorder", "rtsp-recorder", "rpi-cam-webmanager", "meeting-tunnel-agent"


def state(unit: str, active: str = "active", enabled: str = "enabled", load: str = "loaded") -> UnitState:
    return UnitState(unit, load, active, "", enabled)


def everything(**more: UnitState) -> list[UnitState]:
    from meetingctl.core.layout import UNITS

    named = {item.unit: item for item in more.values()}
    return [named.get(unit, state(unit, "inactive", "", "not-found")) for unit in UNITS]


def test_words_are_targets_or_units() -> None:
    assert split_units(["cam-1", f"{RECORDER}.service", "tag:x", RECORDER, STREAM]) == (
        ["cam-1", "tag:x"],
        [RECORDER, STREAM],
    )
    with pytest.raises(NotFound, match=r"sshd\.service"):
        split_units(["cam-1", "sshd.service"])


def test_the_web_page_stops_first_and_starts_last() -> None:
    states = everything(a=state(STREAM), b=state(RECORDER, enabled="disabled"), c=state(WEB), d=state(AGENT))
    assert choose_units("stop", states, []) == [WEB, AGENT, RECORDER, STREAM]
    assert choose_units("restart", states, []) == [STREAM, RECORDER, AGENT, WEB]
    assert choose_units("start", states, []) == [STREAM, AGENT, WEB]
    assert choose_units("start", states, [RECORDER]) == [RECORDER]
    with pytest.raises(NotFound, match="rpi-cam-onvif"):
        choose_units("start", states, ["rpi-cam-onvif"])


@pytest.mark.parametrize(
    ("verb", "active", "enabled", "step"),
    [
        ("start", "active", "enabled", None),
        ("start", "inactive", "enabled", "start"),
        ("start", "activating", "enabled", "start"),
        ("start", "failed", "enabled", "start"),
        ("stop", "inactive", "enabled", None),
        ("stop", "failed", "enabled", None),
        ("stop", "active", "enabled", "stop"),
        ("stop", "deactivating", "enabled", "stop"),
        ("restart", "active", "enabled", "restart"),
        ("restart", "inactive", "disabled", "restart"),
        ("enable", "inactive", "enabled", None),
        ("enable", "active", "disabled", "enable"),
        ("disable", "active", "enabled", "disable"),
        ("disable", "active", "disabled", None),
        ("disable", "active", "enabled-runtime", "disable"),
    ],
)
def test_only_what_is_not_so_yet_is_done(verb, active, enabled, step) -> None:
    (planned,) = plan_units(verb, [STREAM], [state(STREAM, active, enabled)])
    assert planned.verb == step
    assert planned.reason


@pytest.mark.parametrize(
    ("verb", "active", "enabled", "is_well"),
    [
        ("start", "active", "enabled", True),
        ("start", "inactive", "enabled", False),
        ("start", "failed", "enabled", False),
        ("stop", "inactive", "enabled", True),
        ("stop", "active", "enabled", False),
        ("enable", "active", "enabled", True),
        ("enable", "active", "disabled", False),
        ("disable", "active", "disabled", True),
        (None, "failed", "disabled", True),
    ],
)
def test_states_are_compared_as_whole_words(verb, active, enabled, is_well) -> None:
    reason = judge_state(Step(STREAM, verb, ""), state(STREAM, active, enabled))
    assert (reason is None) is is_well


@pytest.mark.parametrize(
    ("stderr", "kind", "words"),
    [
        ("sudo: a password is required\n", "unauthenticated", "a password is required"),
        ("noise\nls: cannot access\n\n", "error", "ls: cannot access"),
        ("", "error", "exit code 5"),
    ],
)
def test_a_failure_is_explained(stderr, kind, words) -> None:
    error = explain_failure("cam-7", "pi", Answer(5, "", stderr))
    assert error.code == kind
    assert words in error.message


def test_units_are_listed_and_changed_once(here, camera, machine):
    machine.unit(STREAM)
    machine.unit(RECORDER, "inactive", "disabled")
    common = (camera.target, "-i", str(camera.identity), "--json")
    listed = here("remote", "services", "list", *common)
    (report,) = reports_of(listed.out)
    assert [(row["unit"], row["active"], row["enabled"]) for row in report["units"]] == [
        (STREAM, "active", "enabled"),
        (RECORDER, "inactive", "disabled"),
    ]
    planned = here("remote", "services", "start", *common, RECORDER, "--dry-run")
    (report,) = reports_of(planned.out)
    assert report["steps"] == [{"unit": RECORDER, "step": "start", "reason": "is inactive"}]
    assert (report["changed"], machine.changes) == (False, [])
    for changed in (True, False):
        started = here("remote", "services", "start", *common, RECORDER)
        (report,) = reports_of(started.out)
        assert (started.code, report["changed"]) == (0, changed)
        assert report["units"][0]["active"] == "active"
    assert machine.changes == [f"start -- {RECORDER}.service"]
    assert here("remote", "services", "enable", *common, RECORDER).code == 0
    assert machine.read_unit(RECORDER) == ("active", "enabled")


def test_a_unit_that_is_inactive_is_not_active(here, camera, machine):
    """The script of old took `inactive` for `active`, because one word holds the other."""
    machine.unit(STREAM, "inactive")
    machine.note(f"{STREAM}.dies")
    done = here("remote", "services", "restart", camera.target, STREAM, "-i", str(camera.identity))
    assert done.code == 1
    assert f"{STREAM} is failed, not active, after restart" in done.err


def test_sudo_that_refuses_is_said_with_what_helps(here, camera, machine, tmp_path):
    machine.unit(STREAM, "inactive")
    machine.note("is_user")
    machine.note("sudo_refuses")
    common = (camera.target, STREAM, "-i", str(camera.identity))
    refused = here("remote", "services", "start", *common)
    assert refused.code == 4
    assert "may not become root: a password is required" in refused.err
    assert "--ask-password" in refused.err
    (machine.state / "sudo_refuses").unlink()
    machine.note("password", "right")
    (tmp_path / "wrong").write_text("wrong\n")
    (tmp_path / "right").write_text("right\n")
    machine.note("calls")
    wrong = here("remote", "services", "start", *common, "--password-file", str(tmp_path / "wrong"))
    assert wrong.code == 4
    assert machine.calls.count("sudo -S") == 1
    login = ("-i", str(camera.identity), "--password-file", str(tmp_path / "wrong"))
    for verb, *words in (("smoke",), ("collect", "--out", str(tmp_path)), ("update", "--rollback")):
        refused = here("remote", verb, camera.target, *words, *login)
        assert refused.code == 4, refused.err
    assert machine.calls.count("sudo -S") == 4
    assert here("remote", "services", "start", *common, "--password-file", str(tmp_path / "right")).code == 0
    assert machine.read_unit(STREAM)[0] == "active"


def test_many_devices_fold_to_one_exit_code(here, camera, second_camera, machine):
    machine.unit(STREAM, "inactive")
    words = ("remote", "services", "start", camera.target, "pi@127.0.0.1:1", STREAM, "--retries", "0")
    done = here(*words, "-i", str(camera.identity))
    assert done.code == 3
    assert f"{camera.target}\t{STREAM}\tstart\tis inactive" in done.out
    assert "1 ok, 1 unreachable" in done.err


def test_a_restart_is_told_by_the_boot_id(here, camera, machine):
    common = ("remote", "reboot", camera.target, "-i", str(camera.identity), "--json")
    planned = here(*common, "--dry-run")
    assert reports_of(planned.out)[0]["boot_id_before"] == "boot-1"
    assert machine.changes == []
    done = here(*common, "--wait")
    (report,) = reports_of(done.out)
    assert (done.code, report["boot_id_before"], report["boot_id_after"]) == (0, "boot-1", "boot-2")


def test_a_device_that_does_not_restart_is_a_failure(here, camera, machine):
    (machine.bin / "systemctl").write_text("#!/bin/sh\nexit 0\n")
    done = here("remote", "reboot", camera.target, "-i", str(camera.identity), "--wait", "--within", "2s")
    assert done.code == 1
    assert "the boot id is still boot-1" in done.err


def test_switching_off_asks(here, camera, machine):
    common = ("remote", "shutdown", camera.target, "-i", str(camera.identity))
    refused = here(*common)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert not machine.has("off")
    assert here(*common, "--yes").code == 0


def test_restarting_many_asks(here, camera, second_camera):
    done = here("remote", "reboot", camera.target, second_camera.target, "-i", str(camera.identity))
    assert done.code == 2


async def _wait(answers, **more):
    found = iter(answers)

    async def ask() -> str:
        answer = next(found)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return await wait_for_boot("one", ask, **{"within_s": 60.0, "target": "cam", **more})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("meetingctl.remote.reboot._PAUSE_S", (0.0, 0.01))


def run(coroutine):
    import asyncio

    return asyncio.run(coroutine)


def test_waiting_lasts_until_another_boot_answers(quick) -> None:
    back = run(_wait(["one", Unreachable("gone"), MeetingctlError("refused"), "two"]))
    assert (back.boot_id_before, back.boot_id_after) == ("one", "two")


def test_a_changed_host_key_ends_the_wait(quick) -> None:
    with pytest.raises(HostKeyChanged):
        run(_wait([HostKeyChanged("other key"), "two"]))


def test_a_device_that_stays_away_is_no_reason_to_begin_again(quick) -> None:
    async def ask() -> str:
        raise Unreachable("gone")

    with pytest.raises(MeetingctlError, match="not back within") as raised:
        run(wait_for_boot("one", ask, within_s=0.2, target="cam"))
    assert not isinstance(raised.value, Unreachable)
