from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.facts import Facts
from meetingctl.device.stream.pipeline import build_stream, build_substream, pretty, shown_properties

from .cases import CASES, ELEMENTS, SOFTWARE

GOLDEN = Path(__file__).parent / "data" / "pipelines.json"


def test_every_case_has_its_golden_pipeline() -> None:
    """Renew with `python -m stream.test_pipeline` in tests/device, and read the difference."""
    assert rendered() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", sorted(CASES))
def test_rules_that_hold_for_every_pipeline(name: str) -> None:
    spec = build_stream(*CASES[name])
    launch = spec.launch
    assert launch.startswith("( ")
    assert launch.endswith(" )")
    assert launch.count("name=pay0 pt=96 config-interval=0") == 1
    assert launch.count("h264parse config-interval=-1 ! rtph264pay") == 1
    if spec.encoder:
        chain = f"videoconvert ! video/x-raw,format=I420 ! queue leaky=downstream max-size-buffers=3 ! {spec.encoder} "
        assert chain in launch
        assert "! video/x-h264,profile=" in launch.partition(spec.encoder)[2]
    if "name=label" in launch:
        assert launch.index("name=label") < launch.index("format=I420 ! queue")
    assert ("name=pay1" in launch) == (spec.sound != "none")


def test_texts_of_people_never_stand_in_a_launch_line() -> None:
    for name, (config, facts) in CASES.items():
        launch = build_stream(config, facts).launch
        for text in (config.stream_source_url, config.video_overlay_text, config.videoin_device, "secret", "plughw"):
            assert not text or text not in launch, name


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_changes_the_launch_line(label: str, form: str) -> None:
    plain = DeviceConfig(stream_source_mode="test", video_overlay_enable=True, video_overlay_show_datetime=True)
    spoilt = replace(plain, video_overlay_text=label, video_overlay_datetime_format=form)
    spec = build_stream(spoilt, SOFTWARE)
    assert spec.launch == build_stream(plain, SOFTWARE).launch
    assert spec.properties["clock"]["time-format"] == form


def test_overlay_tokens_tell_what_is_sent() -> None:
    config = DeviceConfig(
        stream_source_mode="test",
        videoout_width=320,
        videoout_height=240,
        video_overlay_enable=True,
        video_overlay_text="{CAMERA_TYPE} {VIDEO_RESOLUTION}@{VIDEO_FPS} {VIDEO_FORMAT} {OTHER}",
        video_overlay_position="bottom-right",
    )
    label = build_stream(config, SOFTWARE).properties["label"]
    assert label["text"] == "TEST 320x240@15 TEST {OTHER}"
    assert (label["halignment"], label["valignment"], label["font-desc"]) == (2, 1, "Sans 24")


def test_date_and_time_need_the_overlay_to_be_on() -> None:
    config = DeviceConfig(stream_source_mode="test", video_overlay_show_datetime=True)
    assert "clockoverlay" not in build_stream(config, SOFTWARE).launch


def test_the_bitrate_reaches_every_encoder_in_its_own_unit() -> None:
    def build(encoder: str) -> tuple[object, str]:
        facts = Facts(encoders=(encoder,), elements=ELEMENTS)
        spec = build_stream(DeviceConfig(stream_source_mode="test", h264_bitrate_kbps=900), facts)
        return spec.properties.get("encoder"), spec.launch

    assert build("x264enc")[0] == {"bitrate": 900}
    assert build("openh264enc")[0] == {"bitrate": 900_000}
    assert build("v4l2h264enc")[0] is None
    assert "video_bitrate=900000" in build("v4l2h264enc")[1]


@pytest.mark.parametrize(
    ("facts", "package"),
    [
        (Facts(elements=ELEMENTS), "gstreamer1.0-plugins-ugly"),
        (Facts(encoders=("x264enc",)), "gstreamer1.0-plugins-bad"),
    ],
)
def test_a_missing_encoder_names_its_package(facts: Facts, package: str) -> None:
    with pytest.raises(MeetingctlError) as caught:
        build_stream(DeviceConfig(stream_source_mode="test"), facts)
    assert package in str(caught.value.hint)


def test_passwords_are_hidden_from_people() -> None:
    spec = build_stream(*CASES["rtsp"])
    assert spec.properties["origin"]["location"] == "rtsp://u:secret@10.0.0.9/a"
    assert shown_properties(spec)["origin"]["location"] == "rtsp://u:***@10.0.0.9/a"


def test_the_second_stream_reads_the_first_one_and_opens_no_device() -> None:
    config = DeviceConfig(substream_width=160, substream_height=120, substream_fps=5, substream_bitrate_kbps=100)
    spec = build_substream(config, SOFTWARE, "rtsp://127.0.0.1:1/hidden")
    assert not spec.opens_once
    assert spec.properties["encoder"] == {"bitrate": 100}
    assert "width=160,height=120,framerate=5/1" in spec.launch
    assert "hidden" not in spec.launch


def rendered() -> dict[str, dict[str, object]]:
    out: dict[str, dict[str, object]] = {}
    for name, case in CASES.items():
        spec = build_stream(*case)
        out[name] = {
            "launch": pretty(spec.launch).split("\n"),
            "properties": shown_properties(spec),
            "describe": spec.describe(),
            "opens_once": spec.opens_once,
            "notes": list(spec.notes),
        }
    return out


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(rendered(), indent=1) + "\n")
