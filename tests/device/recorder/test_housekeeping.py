from __future__ import annotations

import os
from pathlib import Path

import pytest

from meetingctl.device.recorder.housekeeping import (
    OLD_AFTER_S,
    PACKAGES_BYTES,
    Cleanup,
    Found,
    Litter,
    apply_cleanup,
    cut_log,
    plan_room,
    plan_start,
    read_litter,
)
from meetingctl.device.system import System

MIB = 1 << 20
LOGS = "/var/log/rpi-cam"


def found(name: str, size: int = 1, age: float = 0.0, folder: str = LOGS) -> Found:
    return Found(f"{folder}/{name}", size, age)


def names(files) -> list[str]:
    return [file.name for file in files]


class TestPlans:
    def test_room_cuts_long_logs_and_deletes_rotated_ones(self) -> None:
        litter = Litter(
            (found("a.log", 11 * MIB), found("b.log", 10 * MIB), found("a.log.1"), found("b.log.2.gz"), found("c.old"))
        )
        plan = plan_room(litter, log_max_bytes=10 * MIB)
        assert names(plan.cut) == ["a.log"]
        assert names(plan.delete) == ["a.log.1", "b.log.2.gz", "c.old"]

    def test_packages_go_only_when_they_are_many(self) -> None:
        few = Litter(packages=(found("a.deb", PACKAGES_BYTES),))
        many = Litter(packages=(found("a.deb", PACKAGES_BYTES), found("b.deb")))
        assert plan_room(few, log_max_bytes=MIB).delete == ()
        assert names(plan_room(many, log_max_bytes=MIB).delete) == ["a.deb", "b.deb"]

    def test_only_old_temporary_files_go(self) -> None:
        litter = Litter(temporaries=(found("meetingctl-1", age=86401), found("meetingctl-2", age=86399)))
        assert names(plan_room(litter, log_max_bytes=MIB).delete) == ["meetingctl-1"]

    def test_the_start_removes_debug_logs_and_old_logs_but_no_log_of_a_daemon(self) -> None:
        old = OLD_AFTER_S + 1
        litter = Litter(
            (
                found("gstreamer-1.log"),
                found("gst_debug.log"),
                found("dnsmasq.log", age=old),
                found("update_from_file.log", age=OLD_AFTER_S - 1),
                found("rtsp_recorder.log", 11 * MIB, old),
                found("rtsp_watchdog.log", 9 * MIB),
            )
        )
        plan = plan_start(litter)
        assert names(plan.delete) == ["gstreamer-1.log", "gst_debug.log", "dnsmasq.log"]
        assert names(plan.cut) == ["rtsp_recorder.log"]


@pytest.fixture
def system(tmp_path: Path) -> System:
    # No journalctl here: the journal of this machine is none of ours.
    return System(tmp_path, env={"PATH": "/nonexistent"})


def test_a_log_keeps_its_last_lines_and_its_open_file(system: System) -> None:
    system.write("/x.log", "".join(f"{number}\n" for number in range(5000)))
    path = system.path("/x.log")
    with path.open("a") as writer:
        freed = cut_log(system, "/x.log", 1000)
        writer.write("next\n")
    lines = path.read_text().splitlines()
    assert lines[0] == "4000"
    assert lines[-1] == "next"
    assert len(lines) == 1001
    assert freed > 10_000


def test_a_short_log_stays(system: System) -> None:
    system.write("/x.log", "1\n2\n")
    assert cut_log(system, "/x.log", 1000) == 0
    assert system.read("/x.log") == "1\n2\n"


def test_only_files_of_ours_are_found(system: System, tmp_path: Path) -> None:
    for name in (
        f"{LOGS}/a.log",
        "/tmp/meetingctl-1",
        "/tmp/other",
        "/var/cache/apt/archives/a.deb",
        "/var/cache/apt/archives/lock",
    ):
        system.write(name, "x")
    system.path(f"{LOGS}/link.log").symlink_to("/etc/passwd")
    os.link(system.path(f"{LOGS}/a.log"), system.path(f"{LOGS}/twice.log"))
    litter = read_litter(system, LOGS)
    assert (names(litter.logs), names(litter.packages), names(litter.temporaries)) == ([], ["a.deb"], ["meetingctl-1"])


def test_in_a_folder_of_others_only_our_names_count(system: System) -> None:
    for name in ("syslog.1", "auth.log", "rtsp_recorder.log.1", "gst_1.log"):
        system.write(f"/var/log/{name}", "x")
    assert sorted(names(read_litter(system, "/var/log").logs)) == ["gst_1.log", "rtsp_recorder.log.1"]


def test_a_plan_is_carried_out_as_far_as_it_goes(system: System) -> None:
    system.write(f"{LOGS}/a.log", "line\n" * 3000)
    system.write(f"{LOGS}/a.log.1", "x" * 100)
    plan = Cleanup((found("gone.log"), found("a.log")), (found("missing.1"), found("a.log.1", 100)))
    assert apply_cleanup(system, plan) == 100 + 2000 * 5
    assert [path.name for path in system.path(LOGS).iterdir()] == ["a.log"]
