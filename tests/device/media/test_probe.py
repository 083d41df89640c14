from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.device.media.probe import parse_probe, probe_argv

FULL = {
    "programs": [],
    "streams": [
        {"codec_type": "audio", "codec_name": "aac", "avg_frame_rate": "0/0", "bit_rate": "64000"},
        {"codec_type": "video", "codec_name": "h264", "width": 640, "height": 480, "avg_frame_rate": "30000/1001"},
    ],
    "format": {"duration": "300.066667", "bit_rate": "1200345"},
}


def test_a_recording_with_sound() -> None:
    facts = parse_probe(json.dumps(FULL))
    assert facts is not None
    assert (facts.duration_s, facts.resolution, facts.codec) == (300.066667, "640x480", "h264")
    assert (facts.bitrate_bps, facts.fps, facts.has_audio) == (1200345, 29.97, True)
    assert json.loads(facts.raw) == FULL


def test_what_is_not_said_is_unknown() -> None:
    facts = parse_probe(
        '{"streams": [{"codec_type": "video", "avg_frame_rate": "0/0"}], "format": {"duration": "N/A"}}'
    )
    assert facts is not None
    assert (facts.duration_s, facts.resolution, facts.codec, facts.fps, facts.has_audio) == (
        None,
        None,
        None,
        None,
        False,
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"streams": []}', '{"streams": [{"codec_type": "audio"}]}', '{"streams": [1]}']
)
def test_no_picture_no_facts(text: str) -> None:
    assert parse_probe(text) is None


@given(
    st.recursive(
        st.none() | st.text() | st.floats() | st.integers(),
        lambda item: st.lists(item) | st.dictionaries(st.text(), item),
    )
)
def test_any_json_is_read_without_a_crash(value: object) -> None:
    parse_probe(
        json.dumps({"streams": [{"codec_type": "video", "width": value, "avg_frame_rate": value}], "format": value})
    )


def test_a_name_is_no_address_and_no_option() -> None:
    assert probe_argv(Path("/r/rec_1.ts"))[-1] == "file:/r/rec_1.ts"
