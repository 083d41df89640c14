from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from meetingctl.core.layout import LOCKED_RECORDINGS_JSON
from meetingctl.device.config import DeviceConfig
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.recorder.locks import change_locks
from meetingctl.device.recorder.room import make_room
from meetingctl.device.system import System

MIB = 1 << 20
CONFIG = DeviceConfig(record_dir="/rec", min_free_disk_mb=0, max_disk_mb=3)
WANTS_MORE = 1_000_000  # MiB that no test machine has free


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path, env={"PATH": "/nonexistent"})


@pytest.fixture
def folder(system: System) -> RecordFolder:
    folder = RecordFolder(system, "/rec")
    folder.prepare()
    for number in range(1, 6):
        path = folder.path / f"rec_{number}.ts"
        path.write_bytes(os.urandom(MIB))
        os.utime(path, (number, number))
    return folder


def left(folder: RecordFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir() if path.is_file())


def test_the_quota_is_kept_and_each_deletion_is_told(system: System, folder: RecordFolder) -> None:
    told: list[str] = []
    room = make_room(system, folder, CONFIG, on_deleted=told.append)
    assert left(folder) == ["rec_3.ts", "rec_4.ts", "rec_5.ts"]
    assert told == ["rec_1.ts", "rec_2.ts"] == list(room.deleted)
    assert (room.problem, room.freed_bytes) == ("", 2 * MIB)
    assert make_room(system, folder, CONFIG).deleted == ()


def test_locked_last_and_foreign_files_stay_even_on_a_full_disk(system: System, folder: RecordFolder) -> None:
    change_locks(system, lock=["rec_2.ts"])
    (folder.path / "holiday.ts").write_bytes(b"x")
    (folder.live_path / "rec_9.ts").write_bytes(b"x")
    config = replace(CONFIG, min_free_disk_mb=WANTS_MORE)
    room = make_room(system, folder, config, protected={"rec_1.ts"})
    assert left(folder) == ["holiday.ts", "rec_1.ts", "rec_2.ts", "rec_5.ts"]
    assert (folder.live_path / "rec_9.ts").exists()
    assert (room.level, room.problem) == ("full", "disk full, nothing may be deleted")


def test_harmless_things_go_first(system: System, folder: RecordFolder) -> None:
    system.write("/var/log/rpi-cam/rtsp_recorder.log.1", "x")
    make_room(system, folder, CONFIG)
    assert system.path("/var/log/rpi-cam/rtsp_recorder.log.1").exists()
    make_room(system, folder, replace(CONFIG, min_free_disk_mb=WANTS_MORE))
    assert not system.path("/var/log/rpi-cam/rtsp_recorder.log.1").exists()


def test_damaged_locks_delete_no_recording(system: System, folder: RecordFolder) -> None:
    system.write(LOCKED_RECORDINGS_JSON, "not json")
    room = make_room(system, folder, CONFIG)
    assert len(left(folder)) == 5
    assert "nothing is deleted" in room.problem
