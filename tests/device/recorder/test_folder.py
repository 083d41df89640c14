from __future__ import annotations

import os
from pathlib import Path

import pytest

from meetingctl.core.errors import Conflict, InvalidInput, MeetingctlError
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.system import System


@pytest.fixture
def folder(tmp_path: Path) -> RecordFolder:
    folder = RecordFolder(System(tmp_path), "/rec")
    folder.prepare()
    return folder


def test_a_closed_segment_moves_beside_the_others(folder: RecordFolder) -> None:
    (folder.live_path / "rec_1.ts").write_bytes(b"x")
    assert folder.settle("rec_1.ts") == "rec_1.ts"
    assert (folder.path / "rec_1.ts").read_bytes() == b"x"
    assert list(folder.live_path.iterdir()) == []


def test_a_repeated_name_never_replaces_a_recording(folder: RecordFolder) -> None:
    for content in ("first", "second", "third"):
        (folder.live_path / "rec_1.ts").write_text(content)
        folder.settle("rec_1.ts")
    assert {path.name: path.read_text() for path in folder.path.glob("*.ts")} == {
        "rec_1.ts": "first",
        "rec_1_2.ts": "second",
        "rec_1_3.ts": "third",
    }


def test_a_move_that_broke_off_half_way_is_finished(folder: RecordFolder) -> None:
    (folder.live_path / "rec_1.ts").write_text("x")
    (folder.path / "rec_1.ts").hardlink_to(folder.live_path / "rec_1.ts")
    assert folder.settle_all() == ["rec_1.ts"]
    assert [path.name for path in folder.path.glob("*.ts")] == ["rec_1.ts"]
    assert list(folder.live_path.iterdir()) == []


def test_a_link_that_takes_the_name_is_not_followed(folder: RecordFolder, tmp_path: Path) -> None:
    (folder.path / "rec_1.ts").symlink_to(tmp_path / "nowhere")
    (folder.live_path / "rec_1.ts").write_text("x")
    assert folder.settle("rec_1.ts") == "rec_1_2.ts"


def test_leftovers_move_and_empty_ones_go(folder: RecordFolder) -> None:
    (folder.live_path / "rec_2.ts").write_text("2")
    (folder.live_path / "rec_1.ts").write_text("1")
    (folder.live_path / "rec_3.ts").touch()
    (folder.live_path / "notes.txt").write_text("mine")
    assert folder.settle_all() == ["rec_1.ts", "rec_2.ts"]
    assert [path.name for path in folder.live_path.iterdir()] == ["notes.txt"]


def test_a_missing_segment_is_nothing(folder: RecordFolder) -> None:
    assert folder.settle("rec_1.ts") is None
    assert folder.settle("../x.ts") is None


def test_only_our_regular_files_are_recordings(folder: RecordFolder, tmp_path: Path) -> None:
    (folder.path / "rec_1.ts").write_bytes(b"x" * 5000)
    (folder.path / "holiday.ts").write_text("x")
    (folder.path / "rec_2.mp4").write_text("x")
    (folder.path / "rec_dir.ts").mkdir()
    (folder.live_path / "rec_3.ts").write_text("x")
    (folder.path / "rec_4.ts").symlink_to(folder.path / "rec_1.ts")
    assert [item.name for item in folder.recordings()] == ["rec_1.ts"]
    assert folder.recordings()[0].size_bytes >= 5000
    assert folder.open_segment() == ("rec_3.ts", 1)
    assert folder.space().folder_bytes >= 5004


@pytest.mark.parametrize("name", ["holiday.ts", "../rec_1.ts", "rec_link.ts", "rec_dir.ts", ".live"])
def test_what_is_not_ours_is_never_deleted(folder: RecordFolder, tmp_path: Path, name: str) -> None:
    (folder.path / "holiday.ts").write_text("x")
    (tmp_path / "rec_1.ts").write_text("x")
    (folder.path / "rec_link.ts").symlink_to(tmp_path / "rec_1.ts")
    (folder.path / "rec_dir.ts").mkdir()
    with pytest.raises(InvalidInput):
        folder.delete(name)
    assert (tmp_path / "rec_1.ts").exists()
    assert (folder.path / "holiday.ts").exists()
    assert os.path.lexists(folder.path / "rec_link.ts")


def test_delete_is_done_once(folder: RecordFolder) -> None:
    (folder.path / "rec_1.ts").write_text("x")
    assert folder.delete("rec_1.ts")
    assert not folder.delete("rec_1.ts")


def test_two_recorders_do_not_share_a_folder(folder: RecordFolder, tmp_path: Path) -> None:
    with (
        folder.held(),
        pytest.raises(Conflict, match="another recorder"),
        RecordFolder(System(tmp_path), "/rec").held(),
    ):
        pass
    with folder.held():
        pass


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "rec").write_text("a file")
    with pytest.raises(MeetingctlError, match="/rec: not a directory"):
        RecordFolder(System(tmp_path), "/rec").prepare()


def test_a_link_instead_of_the_live_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rec").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rec/.live").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput):
        RecordFolder(System(tmp_path), "/rec").prepare()
