from __future__ import annotations

import json
from pathlib import Path

import pytest

from meetingctl.core.errors import Conflict
from meetingctl.core.layout import LOCKED_RECORDINGS_JSON
from meetingctl.device.recorder.locks import change_locks, read_locks
from meetingctl.device.system import System


def test_no_file_locks_nothing(tmp_path: Path) -> None:
    assert read_locks(System(tmp_path)) == frozenset()


def test_lock_and_unlock_keep_a_sorted_list(tmp_path: Path) -> None:
    system = System(tmp_path)
    change_locks(system, lock=["rec_2.ts", "rec_1.ts"])
    assert json.loads(system.read(LOCKED_RECORDINGS_JSON)) == ["rec_1.ts", "rec_2.ts"]
    assert change_locks(system, lock=["rec_3.ts"], unlock=["rec_2.ts", "rec_9.ts"]) == {"rec_1.ts", "rec_3.ts"}
    assert read_locks(system) == {"rec_1.ts", "rec_3.ts"}


def test_nothing_is_written_when_nothing_changes(tmp_path: Path) -> None:
    system = System(tmp_path)
    change_locks(system, unlock=["rec_1.ts"])
    assert not system.path(LOCKED_RECORDINGS_JSON).exists()


@pytest.mark.parametrize("text", ["[", '{"a": 1}', "[1]", '"rec_1.ts"'])
def test_a_damaged_file_is_an_error_and_is_left_alone(tmp_path: Path, text: str) -> None:
    system = System(tmp_path)
    system.write(LOCKED_RECORDINGS_JSON, text)
    with pytest.raises(Conflict, match="nothing is deleted"):
        read_locks(system)
    with pytest.raises(Conflict):
        change_locks(system, lock=["rec_1.ts"])
    assert system.read(LOCKED_RECORDINGS_JSON) == text


def test_an_empty_file_locks_nothing(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.write(LOCKED_RECORDINGS_JSON, "\n")
    assert read_locks(system) == frozenset()
