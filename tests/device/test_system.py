from __future__ import annotations

import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from meetingctl.core.errors import Busy, Forbidden, InvalidInput, MeetingctlError, NotFound, TooLarge
from meetingctl.device.system import Clock, System


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def wait_until(condition, *, deadline_s: float = 5.0) -> bool:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if condition():
            return True
        threading.Event().wait(0.01)
    return False


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_folder_is_not_live_and_the_root_always_is(system: System, tmp_path: Path) -> None:
    assert (system.is_booted, system.is_live) == (False, False)
    booted = Path("/run/systemd/system")
    assert (System(Path("/")).is_booted, System(Path("/")).is_live) == (booted.is_dir(), True)  # in a container as well
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert (system.is_booted, system.is_live) == (True, True)


class TestFiles:
    def test_write_then_read(self, system: System, tmp_path: Path) -> None:
        system.write("/etc/rpi-cam/x", "héllo\n")
        assert system.read("/etc/rpi-cam/x") == "héllo\n"
        assert (tmp_path / "etc/rpi-cam/x").read_bytes() == "héllo\n".encode()
        assert [p.name for p in (tmp_path / "etc/rpi-cam").iterdir()] == ["x"]

    def test_bytes_that_are_no_text_survive(self, system: System, tmp_path: Path) -> None:
        system.write("/x", b"a\xff\xfe\n")
        system.write("/x", system.read("/x"))
        assert (tmp_path / "x").read_bytes() == b"a\xff\xfe\n"

    def test_what_is_no_plain_file_is_refused_without_waiting(self, system: System, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "circle").symlink_to("circle")
        (tmp_path / "folder").mkdir()
        for name, text in (("pipe", "not a regular file"), ("circle", "circle"), ("folder", "cannot read")):
            with pytest.raises(MeetingctlError, match=text) as caught:
                system.read(f"/{name}")
            assert caught.value.hint

    def test_a_rewrite_keeps_the_mode_and_a_given_one_wins(self, system: System, tmp_path: Path) -> None:
        system.write("/x", "1")
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
        (tmp_path / "x").chmod(0o640)
        system.write("/x", "2")
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
        system.write("/x", "3", mode=0o600)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_owner_is_kept_and_a_new_file_gets_the_group_of_its_folder(self, system: System, tmp_path: Path) -> None:
        os.chown(tmp_path, 0, 33)
        system.write("/x", "1")
        assert ((tmp_path / "x").stat().st_uid, (tmp_path / "x").stat().st_gid) == (0, 33)
        os.chown(tmp_path / "x", 1234, 4321)
        system.write("/x", "2")
        assert ((tmp_path / "x").stat().st_uid, (tmp_path / "x").stat().st_gid) == (1234, 4321)

    def test_a_link_is_replaced_and_its_target_untouched(self, system: System, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("old")
        (tmp_path / "link").symlink_to("target")
        system.write("/link", "new")
        assert (tmp_path / "target").read_text() == "old"
        assert not (tmp_path / "link").is_symlink()

    def test_failures_say_what_to_do(self, system: System, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="/etc/none"):
            system.read("/etc/none")
        with pytest.raises(InvalidInput):
            system.read("etc/none")
        with pytest.raises(InvalidInput):
            system.write("/etc/../../x", "")
        (tmp_path / "big").write_bytes(b"x" * 11)
        with pytest.raises(TooLarge):
            system.read("/big", limit_bytes=10)
        (tmp_path / "file").write_text("")
        with pytest.raises(MeetingctlError, match="cannot write"):
            system.write("/file/below", "")

    def test_a_failed_write_leaves_the_old_file_and_no_rest(self, system: System, tmp_path: Path) -> None:
        system.write("/d/x", "old")
        (tmp_path / "d/y").mkdir()
        with pytest.raises(MeetingctlError):
            system.write("/d/y", "cannot replace a folder")
        assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["x", "y"]

    def test_two_writers_wait_for_each_other(self, system: System) -> None:
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with system.locked("/etc"):
                held.set()
                release.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        try:
            assert held.wait(5)
            with pytest.raises(Busy, match="/etc"), system.locked("/etc", timeout_s=0.1):
                pass
        finally:
            release.set()
            thread.join()
        with system.locked("/etc", timeout_s=1):
            pass


class TestRun:
    def test_both_outputs_code_and_locale(self, system: System) -> None:
        ran = system.run("sh", "-c", 'printf "%s" "$LC_ALL"; echo oops >&2; exit 3')
        assert (ran.out, ran.err, ran.code, ran.ok, ran.timed_out) == ("C.UTF-8", "oops\n", 3, False, False)
        assert ran.argv[0] == "sh"

    def test_arguments_never_meet_a_shell(self, system: System) -> None:
        assert system.run("printf", "%s", "$(id);'`").out == "$(id);'`"

    def test_missing_and_not_runnable(self, system: System, tmp_path: Path) -> None:
        assert system.run("no-such-program-here").code == 127
        (tmp_path / "plain").write_text("x")
        assert system.run(str(tmp_path / "plain")).code == 126

    def test_programs_are_found_on_the_given_path(self, tmp_path: Path) -> None:
        program = tmp_path / "v4l2-ctl"
        program.write_text("#!/bin/sh\necho fake $1\n")
        program.chmod(0o755)
        assert System(tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).run("v4l2-ctl", "-x").out == "fake -x\n"

    def test_input_larger_than_a_pipe(self, system: System) -> None:
        assert len(system.run("cat", stdin="x" * 500_000).out) == 500_000

    def test_input_that_nobody_reads(self, system: System) -> None:
        assert system.run("true", stdin=b"x" * 500_000).code == 0

    def test_output_is_capped(self, system: System) -> None:
        ran = system.run("head", "-c", "3000000", "/dev/zero")
        assert (len(ran.out), ran.code) == (1 << 20, 0)

    def test_a_signal_is_128_and_its_number(self, system: System) -> None:
        assert system.run("sh", "-c", "kill -9 $$").code == 137

    def test_time_out_kills_the_whole_group(self, system: System, tmp_path: Path) -> None:
        script = f"echo started; sleep 60 & echo $! > {tmp_path}/pid; wait"
        started_s = time.monotonic()
        ran = system.run("sh", "-c", script, timeout_s=0.3)
        assert (ran.code, ran.timed_out, ran.out) == (124, True, "started\n")
        assert time.monotonic() - started_s < 2
        pid = int((tmp_path / "pid").read_text())
        assert wait_until(lambda: not is_alive(pid))

    def test_a_program_that_ignores_term_is_killed(self, system: System) -> None:
        started_s = time.monotonic()
        ran = system.run("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", timeout_s=0.2)
        assert ran.timed_out
        assert time.monotonic() - started_s < 4

    def test_a_program_that_closed_its_outputs_still_has_a_deadline(self, system: System) -> None:
        assert system.run("sh", "-c", "exec >&- 2>&-; sleep 60", timeout_s=0.3).timed_out

    def test_a_background_program_with_the_pipes_is_not_waited_for(self, system: System, tmp_path: Path) -> None:
        started_s = time.monotonic()
        ran = system.run("sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo done", timeout_s=30)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert (ran.code, ran.out, ran.timed_out) == (0, "done\n", False)
        assert time.monotonic() - started_s < 5


class TestSpawn:
    def test_a_child_is_stopped_with_the_block(self, system: System) -> None:
        with system.spawn("sleep", "60") as child:
            assert child.poll() is None
        assert child.poll() == 130
        assert not is_alive(child.pid)

    def test_stop_climbs_to_kill_and_takes_the_group(self, system: System, tmp_path: Path) -> None:
        script = f"trap '' INT TERM; sleep 60 & echo $! > {tmp_path}/pid; echo up; while :; do sleep 0.05; done"
        child = system.spawn("sh", "-c", script, stdout="pipe")
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        pid = int((tmp_path / "pid").read_text())
        assert child.stop(grace_s=0.1) == 137
        assert wait_until(lambda: not is_alive(pid))

    def test_signals_outputs_and_end(self, system: System) -> None:
        script = "trap 'echo got; exit 7' USR1; echo up >&2; while :; do sleep 0.02; done"
        child = system.spawn("sh", "-c", script, stdout="pipe", stderr="pipe")
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stderr.readline() == b"up\n"
        assert child.wait(0.01) is None
        child.send(signal.SIGUSR1)
        assert child.wait(5) == 7
        assert child.stdout.read() == b"got\n"
        child.send(signal.SIGUSR1)
        assert child.stop() == 7

    def test_a_missing_program(self, system: System, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="no-such-program-here"):
            system.spawn("no-such-program-here")
        (tmp_path / "plain").write_text("x")
        with pytest.raises(Forbidden):
            system.spawn(str(tmp_path / "plain"))


def test_the_clock_is_given_or_real(tmp_path: Path) -> None:
    assert abs(System(tmp_path).clock.wall_s() - time.time()) < 5
    fixed = System(tmp_path, clock=Clock(lambda: 1.5, lambda: 2.5)).clock
    assert (fixed.wall_s(), fixed.monotonic_s()) == (1.5, 2.5)
