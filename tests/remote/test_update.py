"""`remote update` against a device in a folder, over a real SSH server."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator

import pytest

from .machine import reports_of
from .relay import Relay
from .release_machine import PREFIX, ReleaseMachine, package_files, write_package


@pytest.fixture
def releases(machine, tmp_path) -> ReleaseMachine:
    found = ReleaseMachine(machine, tmp_path / "root")
    found.install("1.0.0")
    return found


@pytest.fixture
def relay(camera, loop_thread) -> Iterator[Relay]:
    found = Relay(camera.port)
    loop_thread.run(found.start())
    yield found
    loop_thread.run(found.close())


@pytest.fixture
def update(here, camera, tmp_path):
    """Run `remote update` in JSON; return the exit code and the report of the one device."""
    here.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def run(*words: str, target: str = camera.target):
        done = here("remote", "update", target, "-i", str(camera.identity), "--json", "--settle", "1s", *words)
        return done.code, reports_of(done.out)[0] if done.out.startswith("[") else json.loads(done.out)

    return run


def test_only_what_differs_is_sent_and_a_second_run_does_nothing(update, releases, tmp_path):
    package = str(write_package(tmp_path, "1.1.0"))
    code, planned = update("--from", package, "--dry-run")
    assert (code, planned["outcome"], planned["changed"]) == (0, "planned", False)
    assert [(step["do"], step["on"]) for step in planned["steps"]] == [
        ("upload", "3 of 6 files"),
        ("apply", "1.1.0"),
        ("check", "smoke"),
    ]
    assert releases.program_calls == []
    code, done = update("--from", package)
    assert (code, done.get("outcome"), done["changed"]) == (0, "updated", True), done
    assert (done["from_version"], done["installed_version"], releases.version) == ("1.0.0", "1.1.0", "1.1.0")
    assert done["steps"] == planned["steps"]
    assert 5_000 < done["uploaded_bytes"] < 6_000  # the large file is there already
    assert [row["check"] for row in done["checks"]] == ["units", "rtsp", "onvif", "agent"]
    assert not releases.staging.exists()
    code, again = update("--from", package)
    assert (code, again["outcome"], again["steps"]) == (0, "current", [])
    assert len(releases.program_calls) == 1


def test_an_update_that_the_device_gives_up_is_told_in_its_words(update, releases, machine, tmp_path):
    machine.note("apply_fails")
    code, failed = update("--from", str(write_package(tmp_path, "1.1.0")))
    assert code == 1
    assert "health check failed; the former version runs again; 1.0.0 is installed" in failed["error"]["message"]
    assert (failed["outcome"], failed["installed_version"], failed["changed"]) == ("failed", "1.0.0", False)
    assert "update_from_file.log" in failed["error"]["hint"]
    assert not releases.staging.exists()


def test_what_works_no_more_returns_to_the_former_release(update, releases, machine, tmp_path):
    machine.note("breaks")
    code, back = update("--from", str(write_package(tmp_path, "1.1.0")))
    assert (code, back["outcome"], back["changed"]) == (1, "rolled_back", False)
    assert "1.1.0 runs, but units: rtsp-recorder is failed; 1.0.0 is installed" in back["error"]["message"]
    assert (releases.version, back["installed_version"]) == ("1.0.0", "1.0.0")
    assert [call.split()[2] for call in releases.program_calls] == ["apply", "rollback"]


def test_a_restart_of_the_device_is_waited_for(update, releases, machine, tmp_path):
    machine.note("restarts")
    code, done = update("--from", str(write_package(tmp_path, "1.1.0")))
    assert (code, done.get("outcome")) == (0, "updated"), done


def test_the_way_back_is_asked_for(update, releases, tmp_path):
    assert update("--from", str(write_package(tmp_path, "1.1.0")))[0] == 0
    code, done = update("--rollback")
    assert (code, done.get("outcome")) == (0, "returned"), done
    assert (done["from_version"], releases.version) == ("1.1.0", "1.0.0")


def test_a_lower_version_is_refused_and_the_same_needs_force(update, releases, tmp_path):
    code, refused = update("--from", str(write_package(tmp_path, "0.9.0")))
    assert (code, "older than the installed 1.0.0" in refused["error"]["message"]) == (2, True)
    code, _ = update("--from", str(write_package(tmp_path, "1.0.0")), "--force", "--no-restart", "--dry-run")
    assert code == 0
    assert releases.program_calls == []


@pytest.mark.parametrize("place", ["folder", "none"])
def test_a_device_without_a_release_of_ours_is_sent_to_install(update, releases, tmp_path, place):
    releases.web.unlink()
    if place == "folder":
        releases.web.mkdir()
        (releases.web / "VERSION").write_text("2.38\n")
    code, refused = update("--from", str(write_package(tmp_path, "1.1.0")))
    assert code == 1
    assert refused["error"]["hint"].startswith("meetingctl remote install ")


def test_a_partial_upload_is_continued_and_a_damaged_one_sent_again(update, releases, tmp_path):
    package = write_package(tmp_path, "1.1.0", extra_bytes=2_000_000)
    files = package_files("1.1.0", extra_bytes=2_000_000)
    wheels = {name.rpartition("/")[2]: content for name, (content, _) in files.items() if name.endswith(".whl")}
    new, own = wheels["new-1.0-py3-none-any.whl"], wheels["meetingctl-1.1.0-py3-none-any.whl"]
    releases.uploads.mkdir()
    (releases.uploads / f"{hashlib.sha256(new).hexdigest()}.part").write_bytes(new[:1_500_000])
    (releases.uploads / f"{hashlib.sha256(own).hexdigest()}.part").write_bytes(bytes(len(own)))
    (releases.uploads / "another").write_bytes(b"of another operator")
    code, done = update("--from", str(package))
    assert (code, done.get("outcome")) == (0, "updated"), done
    assert 505_000 < done["uploaded_bytes"] < 506_000
    assert [path.name for path in releases.uploads.iterdir()] == ["another"]


def test_a_link_cut_in_the_middle_is_taken_up_where_it_was(update, releases, machine, relay, tmp_path):
    """Cut while the files are sent and again while the device works; each time it is there again at once."""
    package = write_package(tmp_path, "1.1.0", extra_bytes=4_000_000)
    machine.note("waits")

    def let_go() -> None:
        machine.forget("waits")

    relay.cut_when(lambda: relay.sent_bytes > 2_000_000)
    relay.cut_when(lambda: bool(releases.program_calls), then=let_go)
    code, done = update("--from", str(package), target=relay.target)
    assert (code, done.get("outcome"), releases.version) == (0, "updated", "1.1.0"), done["error"]
    assert relay.cuts == 2
    assert releases.program_calls == [releases.program_calls[0]]
    assert done["uploaded_bytes"] < 4_006_000 + 2 * 256 * 1024


def test_a_link_cut_for_good_says_where_it_stands_and_the_same_command_goes_on(
    update, releases, machine, relay, tmp_path
):
    package = str(write_package(tmp_path, "1.1.0"))
    machine.note("waits")
    relay.cut_when(lambda: bool(releases.program_calls), then=relay.refuse)
    code, lost = update("--from", package, "--reconnect", "1s", target=relay.target)
    assert (code, lost["error"]["code"]) == (255, "transport_lost")
    assert "not back within 1 s; the update stands at: " in lost["error"]["message"]
    assert ", which goes on there; " in lost["error"]["message"]
    assert releases.version == "1.0.0"
    relay.accept()
    polls = releases.polls
    # The first look finds the unit at work, the second one is that of somebody who follows it.
    relay.cut_when(lambda: releases.polls > polls + 1, then=lambda: machine.forget("waits"))
    code, done = update("--from", package, target=relay.target)
    assert (code, done.get("outcome"), releases.version) == (0, "updated", "1.1.0"), done
    assert len(releases.program_calls) == 1


def test_an_interrupt_says_what_goes_on_and_the_same_command_follows_it(
    meetingctl, camera, releases, machine, tmp_path
):
    machine.note("waits")
    command = ("remote", "update", camera.target, "-i", str(camera.identity), "--from")
    package = str(write_package(tmp_path, "1.1.0"))
    with meetingctl.start(*command, package, "--settle", "1s") as process:
        for line in process.stderr:
            if b"50 % building" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"the update goes on there; the same command follows it" in err
    machine.forget("waits")
    assert meetingctl(*command, package, "--settle", "1s").returncode == 0
    assert (releases.version, len(releases.program_calls)) == ("1.1.0", 1)


def test_of_several_devices_each_has_its_outcome(here, camera, releases, tmp_path):
    package = str(write_package(tmp_path, "1.1.0"))
    words = ("-i", str(camera.identity), "--retries", "0", "--json", "--settle", "1s")
    done = here("remote", "update", camera.target, "pi@127.0.0.1:1", "--from", package, *words)
    assert done.code == 3
    assert [row["result"] for row in reports_of(done.out)] == ["ok", "unreachable"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one of --release, --channel, --from and --rollback"),
        (["--rollback", "--release", "a/b/1"], "name one of"),
        (["--rollback", "--force"], "--force and --no-restart go with a release"),
        (["--from", "/nonexistent/x.tar.gz"], "/nonexistent/x.tar.gz"),
    ],
)
def test_bad_words_are_refused_before_any_connection(update, machine, words, message):
    code, refused = update(*words)
    assert code in {1, 2}
    assert message in refused["error"]["message"]
    assert machine.calls == []


def test_the_prefix_is_the_one_of_packages():
    from meetingctl.core.update_package import PROGRAM_PREFIX

    assert PREFIX == PROGRAM_PREFIX
