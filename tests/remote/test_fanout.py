"""One command on many devices: outcomes, deadlines, when to stop, and what is shown."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopthread import LoopThread
from meetingctl.client import FleetClient
from meetingctl.core.errors import AuthError, MeetingctlError, NotFound, Unreachable
from meetingctl.core.target import AddressTarget, DeviceTarget
from meetingctl.remote.fanout import Limits, Report, Result, fold_exit_code, why_stop
from meetingctl.remote.selection import expand_targets, parse_targets
from remote.crowd import Crowd, with_pins


@pytest.fixture
def crowd(tmp_path: Path, loop_thread: LoopThread) -> Iterator[Crowd]:
    crowd = Crowd(tmp_path / "crowd")
    yield crowd
    loop_thread.run(crowd.close())


def results(output: bytes) -> dict[str, str]:
    return {row["target"]: row["result"] for row in json.loads(output)}


def test_two_hundred_devices_each_with_its_outcome_and_within_the_deadline(meetingctl, crowd, loop_thread):
    """Ten hang at connect, ten in the command, ten refuse, five cut the connection half way."""
    loop_thread.run(crowd.start(mute=10, hang=10, refuse=10, drop=5, exit=5, ok=160))
    names = crowd.names("mute", "hang", "refuse", "drop", "exit", "ok")
    began_s = time.monotonic()
    done = meetingctl(
        *("remote", "run", *names, "-i", str(crowd.identity), "--deadline", "8s", "--retries", "1", "--json"),
        *("--", "uptime"),
    )
    took_s = time.monotonic() - began_s
    assert done.returncode == 3, done.stderr
    expected = dict.fromkeys(crowd.names("ok"), "ok")
    expected |= dict.fromkeys(crowd.names("exit", "hang", "drop"), "failed")
    expected |= dict.fromkeys(crowd.names("mute", "refuse"), "unreachable")
    assert results(done.stdout) == expected
    assert list(results(done.stdout)) == names
    rows = {row["target"]: row for row in json.loads(done.stdout)}
    assert {rows[name]["exit_code"] for name in crowd.names("exit")} == {7}
    assert {rows[name]["stdout"] for name in crowd.names("ok")} == {"ran uptime\n"}
    assert {rows[name]["attempts"] for name in crowd.names("refuse")} == {2}
    assert {rows[name]["error"]["code"] for name in crowd.names("hang", "drop")} == {"transport_lost"}
    assert Counter(expected.values()) == {"ok": 160, "failed": 20, "unreachable": 20}
    # What began is not begun again.
    assert crowd.sessions == 180
    # Fifty at once: those that hang hold no other up, so the whole takes little longer than one deadline.
    assert took_s < 30, took_s


def test_output_of_many_carries_its_device_and_a_report_is_left(meetingctl, crowd, loop_thread):
    loop_thread.run(crowd.start(ok=3, exit=1, refuse=1))
    names = crowd.names("ok", "exit", "refuse")
    done = meetingctl("remote", "run", *names, "-i", str(crowd.identity), "--retries", "0", "--", "hello")
    assert done.returncode == 3
    lines = done.stdout.decode().splitlines()
    assert sorted(lines) == sorted(f"{name} | ran hello" for name in crowd.names("ok", "exit"))
    text = done.stderr.decode()
    assert "3 ok, 1 failed, 1 unreachable" in text
    report = re.search(r"^report: (.+)$", text, re.MULTILINE)
    assert report
    again = re.search(r"^again:  meetingctl (.+)$", text, re.MULTILINE)
    assert again
    assert f"--retry-from {report[1]} -- hello" in again[1]
    sessions = crowd.sessions
    done = meetingctl("--json", *again[1].split())
    assert set(results(done.stdout)) == {*crowd.names("exit", "refuse")}
    assert crowd.sessions == sessions + 1


def test_a_silent_command_is_given_up_and_a_talking_one_is_not(meetingctl, crowd, loop_thread):
    loop_thread.run(crowd.start(hang=1, ok=1))
    done = meetingctl(
        "remote", "run", *crowd.names("hang", "ok"), "-i", str(crowd.identity), "--idle", "1s", "--json", "--", "x"
    )
    rows = json.loads(done.stdout)
    assert [row["result"] for row in rows] == ["failed", "ok"]
    assert "silent for 1 s" in rows[0]["error"]["message"]


def test_no_more_at_once_than_asked_for(meetingctl, crowd, loop_thread):
    loop_thread.run(crowd.start(ok=9))
    done = meetingctl("remote", "run", *crowd.names("ok"), "-i", str(crowd.identity), "--parallel", "2", "--", "x")
    assert done.returncode == 0, done.stderr
    assert crowd.sessions == 9
    assert crowd.busiest <= 2


@pytest.mark.parametrize("rule", [["--fail-fast"], ["--max-fail", "10"]])
def test_after_failures_nothing_else_begins(meetingctl, crowd, loop_thread, rule):
    loop_thread.run(crowd.start(exit=1, ok=5))
    names = crowd.names("exit", "ok")
    done = meetingctl(
        "remote", "run", *names, "-i", str(crowd.identity), *rule, "--parallel", "1", "-o", "json", "--", "x"
    )
    found = Counter(results(done.stdout).values())
    assert found == {"failed": 1, "skipped": 5}
    assert done.returncode == 1
    assert crowd.sessions == 1


def test_limit_and_dry_run(meetingctl, crowd, loop_thread):
    loop_thread.run(crowd.start(ok=4))
    done = meetingctl("remote", "run", *crowd.names("ok"), "--limit", "2", "--dry-run", "--json", "--", "uptime")
    assert [row["target"] for row in json.loads(done.stdout)] == crowd.names("ok")[:2]
    assert crowd.sessions == 0


def test_targets_from_standard_input(meetingctl, crowd, loop_thread, tmp_path):
    loop_thread.run(crowd.start(ok=2))
    listing = tmp_path / "targets"
    listing.write_text("# the lobby\n\n" + "\n".join(crowd.names("ok")) + "  # and so on\n")
    with listing.open("rb") as stdin:
        done = meetingctl("remote", "run", "-", "-i", str(crowd.identity), "--json", "--", "x", stdin=stdin)
    assert set(results(done.stdout).values()) == {"ok"}


def test_a_script_arrives_whole_and_leaves_nothing(meetingctl, device, tmp_path):
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\nprintf \'%s|\' "$0" "$@"\necho \'quotes " and $dollars\'\n')
    done = meetingctl(
        "remote", "run", device.target, "-i", str(device.identity), "--script", str(script), "--", "a b", "c"
    )
    assert done.returncode == 0, done.stderr
    path, *words = done.stdout.decode().split("|")
    assert words == ["a b", "c", 'quotes " and $dollars\n']
    assert not Path(path).exists()


def test_interrupted_runs_say_what_they_left(meetingctl, crowd, loop_thread):
    loop_thread.run(crowd.start(hang=1, ok=2))
    names = crowd.names("hang", "ok")
    with meetingctl.start("remote", "run", *names, "-i", str(crowd.identity), "--parallel", "1", "--", "x") as process:
        line = process.stdout.readline()
        assert line.endswith(b"| begun\n")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # as from a terminal and from `timeout` at once
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"1 failed, 2 skipped" in err
    assert b"Traceback" not in err
    assert b"never retrieved" not in err


def test_a_known_key_of_many_is_looked_up_and_a_changed_one_refused(meetingctl, crowd, loop_thread):
    loop_thread.run(crowd.start(ok=3))
    with_pins(crowd, meetingctl.known_hosts, crowd.names("ok"))
    text = meetingctl.known_hosts.read_text().splitlines()
    other = Path(f"{crowd.identity}.pub").read_text().split()[1]
    meetingctl.known_hosts.write_text("\n".join([text[0].rpartition(" ")[0] + f" {other}", *text[1:]]) + "\n")
    done = meetingctl("remote", "run", *crowd.names("ok"), "-i", str(crowd.identity), "--json", "--", "x")
    rows = json.loads(done.stdout)
    assert [row["result"] for row in rows] == ["failed", "ok", "ok"]
    assert rows[0]["error"]["code"] == "host_key_changed"
    assert "meetingctl remote trust" in rows[0]["error"]["hint"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["remote", "run", "--", "x"], "missing TARGET"),
        (["remote", "run", "cam-1"], "missing command"),
        (["remote", "run", "cam-1", "--"], "missing command"),
        (["remote", "run", "pi@127.0.0.1:1", "--deadline", "soon", "--", "x"], "soon"),
        (["remote", "run", "pi@127.0.0.1:1", "--retry-from", "/dev/null", "--", "x"], "none of these targets failed"),
        (["remote", "run", "-", "--", "x"], "missing TARGET"),
    ],
)
def test_bad_words_are_told_with_the_next_step(meetingctl, words, message):
    done = meetingctl(*words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.decode()


def test_a_selector_needs_the_server(meetingctl):
    done = meetingctl("remote", "run", "tag:lobby", "--", "true")
    assert done.returncode == 69
    assert b"meetingctl login" in done.stderr


# The rules alone.


@pytest.mark.parametrize(
    ("bad", "planned", "limits", "stops"),
    [
        (1, 10, Limits(), False),
        (1, 10, Limits(fail_fast=True), True),
        (0, 10, Limits(fail_fast=True), False),
        (1, 10, Limits(max_fail_percent=10), False),
        (2, 10, Limits(max_fail_percent=10), True),
        (1, 10, Limits(max_fail_percent=0), True),
    ],
)
def test_when_to_stop(bad, planned, limits, stops):
    assert (why_stop(bad, planned, limits) is not None) is stops


def report(result: str, error: MeetingctlError | None = None) -> Report:
    return Report("x", Result(result), error=error)


@pytest.mark.parametrize(
    ("reports", "code"),
    [
        ([report("ok")], 0),
        ([report("ok"), report("failed")], 3),
        ([report("ok"), report("skipped")], 3),
        ([report("unreachable", Unreachable("x"))] * 2, 69),
        ([report("failed", AuthError("x"))] * 2, 4),
        ([report("failed", AuthError("x")), report("unreachable", Unreachable("x"))], 1),
    ],
)
def test_one_exit_code_for_many(reports, code):
    assert fold_exit_code(reports) == code


def test_each_device_once_in_the_order_given():
    found = parse_targets(["cam-2", "-", "cam-1"], lambda: ["pi@10.0.0.1", "cam-2", "  ", "# no"])
    assert expand_targets(found, None) == [
        DeviceTarget("cam-2"),
        AddressTarget("pi", "10.0.0.1"),
        DeviceTarget("cam-1"),
    ]


def test_a_bad_line_is_named():
    with pytest.raises(MeetingctlError, match="standard input, line 2"):
        parse_targets(["-"], lambda: ["cam-1", "??"])


def test_a_tag_is_never_taken_for_the_whole_fleet():
    """A server that does not know the filter answers with every device."""

    class Server(FleetClient):
        def list_devices(self, **_wanted: object):
            yield {"device_key": "cam-1", "tags": ["lobby"]}
            yield {"device_key": "cam-2", "tags": []}
            yield {"device_key": "cam-3"}

    with Server("http://127.0.0.1:9") as client:
        assert expand_targets(parse_targets(["tag:lobby"], list), client) == [DeviceTarget("cam-1")]
        with pytest.raises(NotFound, match="tag:attic: no device"):
            expand_targets(parse_targets(["tag:attic"], list), client)


def test_groups_are_not_there():
    with FleetClient("http://127.0.0.1:9") as client, pytest.raises(NotFound, match="no groups"):
        expand_targets(parse_targets(["@site"], list), client)
