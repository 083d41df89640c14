from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from meetingctl.core.errors import Conflict, InvalidInput, NotFound, StorageFull
from meetingctl.core.layout import LOCKED_RECORDINGS_JSON, RECORDINGS_DIR
from meetingctl.device.media.cache import MediaCache
from meetingctl.device.media.catalog import (
    delete_recordings,
    find_recording,
    list_recordings,
    select_recordings,
)
from meetingctl.device.media.export import export_recording, target_of
from meetingctl.device.media.probe import Metadata
from meetingctl.device.recorder.locks import change_locks, read_locks
from meetingctl.device.system import System

Put = Callable[[str, bytes], str]


def names(rows) -> list[str]:
    return [row["name"] for row in rows]


def test_a_row_says_what_file_lock_and_cache_know(system: System, put: Put) -> None:
    path = put("rec_20260117_143025.ts", b"x" * 2048)
    change_locks(system, lock=["rec_20260117_143025.ts"])
    with MediaCache(system) as cache:
        cache.note_file(path, Metadata(300.0, 640, 480, "h264", 1, 15.0, True, "{}"))
        row = list_recordings(system, RECORDINGS_DIR, cache)[0]
    assert {
        key: row[key] for key in ("name", "path", "state", "size_bytes", "size_display", "locked", "extension")
    } == {
        "name": "rec_20260117_143025.ts",
        "path": path,
        "state": "closed",
        "size_bytes": 2048,
        "size_display": "2.0 Ko",
        "locked": True,
        "extension": ".ts",
    }
    assert (row["duration_display"], row["resolution"], row["has_audio"]) == ("0:05:00", "640x480", True)


def test_the_open_segment_is_recording_and_others_files_are_not_shown(system: System, put: Put) -> None:
    put("rec_1.ts", b"x")
    put("notes.txt", b"x")
    live = system.path(RECORDINGS_DIR) / ".live"
    live.mkdir()
    (live / "rec_2.ts").write_bytes(b"xx")
    rows = {row["name"]: row for row in list_recordings(system, RECORDINGS_DIR)}
    assert {name: row["state"] for name, row in rows.items()} == {"rec_1.ts": "closed", "rec_2.ts": "recording"}
    assert rows["rec_1.ts"]["duration"] is None


def test_no_folder_no_rows(tmp_path: Path) -> None:
    assert list_recordings(System(tmp_path), "/nowhere") == []


ROWS = [
    {"name": "rec_1.ts", "modified": 3.0, "size_bytes": 1, "locked": True, "extension": ".ts"},
    {"name": "rec_2.mp4", "modified": 1.0, "size_bytes": 3, "locked": False, "extension": ".mp4"},
    {"name": "Cut.ts", "modified": 2.0, "size_bytes": 2, "locked": False, "extension": ".ts"},
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["rec_1.ts", "Cut.ts", "rec_2.mp4"]),
        ({"sort": "date-asc"}, ["rec_2.mp4", "Cut.ts", "rec_1.ts"]),
        ({"sort": "name-asc"}, ["Cut.ts", "rec_1.ts", "rec_2.mp4"]),
        ({"sort": "size-desc"}, ["rec_2.mp4", "Cut.ts", "rec_1.ts"]),
        ({"only": "locked"}, ["rec_1.ts"]),
        ({"only": "unlocked"}, ["Cut.ts", "rec_2.mp4"]),
        ({"only": "mp4"}, ["rec_2.mp4"]),
        ({"search": "cut"}, ["Cut.ts"]),
    ],
)
def test_filters_orders_and_search(options: dict[str, str], expected: list[str]) -> None:
    assert names(select_recordings(ROWS, **options)) == expected


@pytest.mark.parametrize("options", [{"only": "x"}, {"sort": "date"}])
def test_unknown_filters_and_orders_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="allowed is one of"):
        select_recordings(ROWS, **options)


def test_delete_skips_locked_and_tells_each_outcome(system: System, put: Put, tmp_path: Path) -> None:
    for name in ("rec_1.ts", "rec_2.ts", "cut.mp4"):
        put(name, b"x")
    outside = tmp_path / "secret.ts"
    outside.write_text("x")
    change_locks(system, lock=["rec_2.ts"])
    done = delete_recordings(
        system, RECORDINGS_DIR, ["rec_1.ts", "rec_2.ts", "cut.mp4", "rec_9.ts", "../../../../secret.ts"]
    )
    assert done.deleted == ["rec_1.ts", "cut.mp4"]
    assert done.skipped_locked == ["rec_2.ts"]
    assert set(done.failed) == {"rec_9.ts", "../../../../secret.ts"}
    assert outside.exists()


def test_force_deletes_and_unlocks(system: System, put: Put) -> None:
    put("rec_1.ts", b"x")
    change_locks(system, lock=["rec_1.ts", "rec_2.ts"])
    with MediaCache(system) as cache:
        cache.note_file(f"{RECORDINGS_DIR}/rec_1.ts")
        assert delete_recordings(system, RECORDINGS_DIR, ["rec_1.ts"], force=True, cache=cache).deleted == ["rec_1.ts"]
        assert cache.rows() == []
    assert read_locks(system) == {"rec_2.ts"}


def test_damaged_locks_delete_nothing(system: System, put: Put) -> None:
    put("rec_1.ts", b"x")
    system.write(LOCKED_RECORDINGS_JSON, "{")
    with pytest.raises(Conflict):
        delete_recordings(system, RECORDINGS_DIR, ["rec_1.ts"], force=True)
    assert find_recording(system, RECORDINGS_DIR, "rec_1.ts")


def test_a_link_is_no_recording(system: System, tmp_path: Path) -> None:
    (system.path(RECORDINGS_DIR) / "rec_1.ts").symlink_to(tmp_path / "x")
    with pytest.raises(NotFound):
        find_recording(system, RECORDINGS_DIR, "rec_1.ts")


class TestExport:
    def test_a_copy_into_a_folder_keeps_its_name(self, system: System, put: Put, tmp_path: Path) -> None:
        path = put("rec_1.ts", b"x" * 100)
        target = target_of(path, tmp_path, as_mp4=False)
        assert export_recording(system, path, target, as_mp4=False) == 100
        assert (tmp_path / "rec_1.ts").read_bytes() == b"x" * 100

    def test_a_file_is_replaced_only_when_asked(self, system: System, put: Put, tmp_path: Path) -> None:
        path, target = put("rec_1.ts", b"new"), tmp_path / "out.ts"
        target.write_bytes(b"old")
        with pytest.raises(Conflict):
            export_recording(system, path, target, as_mp4=False)
        export_recording(system, path, target, as_mp4=False, replace=True)
        assert target.read_bytes() == b"new"

    def test_a_missing_folder_is_named(self, system: System, put: Put, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="no such folder"):
            export_recording(system, put("rec_1.ts", b"x"), tmp_path / "no" / "x.ts", as_mp4=False)

    def test_what_cannot_fit_is_not_begun(self, system: System, put: Put, tmp_path: Path) -> None:
        path = put("rec_1.ts", b"x")
        with system.path(path).open("r+b") as file:
            file.truncate(1 << 42)
        with pytest.raises(StorageFull):
            export_recording(system, path, tmp_path / "x.ts", as_mp4=False)

    @pytest.mark.real
    def test_mp4_has_the_same_pictures(self, system: System, put: Put, clip: bytes, tmp_path: Path) -> None:
        path = put("rec_1.ts", clip)
        target = target_of(path, tmp_path, as_mp4=True)
        export_recording(system, path, target, as_mp4=True)
        assert target.name == "rec_1.mp4"
        assert target.read_bytes()[4:8] == b"ftyp"

    @pytest.mark.real
    def test_what_is_no_video_leaves_no_file(self, system: System, put: Put, clip: bytes, tmp_path: Path) -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(Exception, match="could not convert"):
            export_recording(system, put("rec_1.ts", b"no"), tmp_path / "x.mp4", as_mp4=True)
        assert sorted(tmp_path.iterdir()) == before
