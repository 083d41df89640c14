from __future__ import annotations

from datetime import datetime
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput
from meetingctl.device.recorder.naming import (
    STRFTIME_NAME,
    candidate_names,
    is_media_name,
    is_segment_name,
    parse_base_name,
    started_at,
)


def test_the_name_of_a_segment_is_ours_and_tells_its_start() -> None:
    moment = datetime(2026, 1, 17, 14, 30, 25)
    name = moment.strftime(STRFTIME_NAME)
    assert name == "rec_20260117_143025.ts"
    assert is_segment_name(name)
    assert started_at(name) == started_at("rec_20260117_143025_2.ts") == moment


@pytest.mark.parametrize(
    "name", ["holiday.ts", "rec_1.mp4", ".rec_1.ts", "../rec_1.ts", "rec_/../x.ts", "REC_1.ts", "rec_\0.ts"]
)
def test_other_names_are_not_ours(name: str) -> None:
    assert not is_segment_name(name)


def test_videos_of_others_are_shown_hidden_and_other_files_are_not() -> None:
    shown = ["rec_1.ts", "cut.MP4", "a.mkv", "b.avi"]
    assert all(map(is_media_name, shown))
    assert not any(map(is_media_name, [".live", ".x.ts", "notes.txt", "ts"]))


@pytest.mark.parametrize(
    "text", ["", "..", "/etc/passwd", "../rec_1.ts", "a/rec_1.ts", "rec_1.txt", "x" * 300 + ".ts", "\0.ts"]
)
def test_names_from_outside_are_plain_names_of_videos(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_base_name(text)


@pytest.mark.parametrize("name", ["rec_x.ts", "rec_20269999_000000.ts", "a.ts"])
def test_a_name_without_a_time_has_no_start(name: str) -> None:
    assert started_at(name) is None


@given(st.integers(1, 40))
def test_candidates_are_different_and_ours(count: int) -> None:
    names = list(islice(candidate_names("rec_20261025_023000.ts"), count))
    assert len(set(names)) == count
    assert all(map(is_segment_name, names))
    assert names[0] == "rec_20261025_023000.ts"
    assert names[1:2] in ([], ["rec_20261025_023000_2.ts"])
