"""CSI cameras: the rules of their controls, and the whole path with a stand-in that delivers real access units."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core.errors import InvalidInput
from meetingctl.device.stream.csi import check_controls, describe_controls, libcamera_properties

from .support import Stream, fake_tools, probe, running_stream, size_of, try_probe, viewer, wait_growth, wait_until
from .test_loopback import get

KNOWN = {
    "Brightness": (-1.0, 1.0, 0.0),
    "ColourGains": (0.0, 32.0, None),
    "FrameDurationLimits": (100, 1_000_000, None),
    "ScalerCrop": ((0, 0, 64, 64), (0, 0, 2592, 1944), (0, 0, 2592, 1944)),
    "AeEnable": (False, True, True),
}


@pytest.mark.parametrize(
    ("wanted", "checked"),
    [
        ({"Brightness": 0.5}, {"Brightness": 0.5}),
        ({"AeEnable": False}, {"AeEnable": False}),
        ({"ColourGains": 2.0}, {"ColourGains": [2.0, 2.0]}),
        ({"ColourGains": [1, 2]}, {"ColourGains": [1, 2]}),
        ({"FrameDurationLimits": 33333}, {"FrameDurationLimits": [33333, 33333]}),
        ({"ScalerCrop": [0, 0, 640, 480]}, {"ScalerCrop": [0, 0, 640, 480]}),
    ],
)
def test_controls_that_are_good(wanted: dict[str, Any], checked: dict[str, Any]) -> None:
    assert check_controls(wanted, KNOWN) == checked


@pytest.mark.parametrize(
    "wanted",
    [{"Nothing": 1}, {"Brightness": "a"}, {"Brightness": 2}, {"Brightness": [1, 2]}, {"ColourGains": [1, 2, 3]},
     {"ColourGains": []}, {"ScalerCrop": [0, 0, 9999, 480]}, {"Brightness": None}],
)  # fmt: skip
def test_controls_that_are_not(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        check_controls(wanted, KNOWN)


def test_controls_as_the_web_page_reads_them() -> None:
    shown = describe_controls(KNOWN, {"Brightness": 0.3})
    assert shown["Brightness"] == {
        "name": "Brightness", "min": -1.0, "max": 1.0, "default": 0.0, "value": 0.3, "type": "float",
    }  # fmt: skip
    assert [shown[name]["type"] for name in ("AeEnable", "ColourGains", "ScalerCrop")] == ["bool", "array", "array"]


def test_stored_controls_for_the_fallback() -> None:
    stored = {"Brightness": 0.1, "ExposureTime": 5000, "ColourGains": [1, 2]}
    assert libcamera_properties(stored) == {"brightness": 0.1, "exposure-time": 5000}


@pytest.fixture(scope="module")
def camera_units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Access units as a CSI camera of 640x480 delivers them, four seconds of them."""
    source = ["-f", "lavfi", "-i", "testsrc=size=640x480:rate=15", "-t", "4", "-pix_fmt", "yuv420p"]
    encoder = ["-c:v", "libx264", "-profile:v", "baseline", "-tune", "zerolatency", "-g", "15", "-x264-params", "aud=1"]
    target = tmp_path_factory.mktemp("units") / "units.h264"
    subprocess.run(["ffmpeg", "-v", "error", *source, *encoder, str(target)], check=True, timeout=90)
    return target


@pytest.fixture
def csi_stream(gstreamer: None, camera_units: Path, tmp_path: Path) -> Iterator[Stream]:
    """A daemon that finds a CSI camera, stored controls and no sound; each test has its own, as it keeps changes."""
    folder = tmp_path / "csi"
    modules = folder / "modules"
    shutil.copytree(Path(__file__).parent / "fake_picamera", modules, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(camera_units, modules / "picamera2")
    listed = Path(__file__).parent / "data" / "rpicam_ov5647.txt"
    path = fake_tools(folder / "bin", {"v4l2-ctl": "exit 1", "arecord": "exit 1", "rpicam-hello": f"cat {listed}"})
    Stream(folder).system.write("/etc/rpi-cam/csi_tuning.json", '{"Brightness": 0.5, "ColourGains": 2.0, "Odd": 1}')
    size = {"VIDEOIN_WIDTH": 640, "VIDEOIN_HEIGHT": 480, "VIDEOIN_FPS": 15}
    with running_stream(folder, env={"PATH": path, "PYTHONPATH": str(modules)}, **size) as stream:
        yield stream


def calls(stream: Stream) -> list[dict[str, Any]]:
    path = stream.root / "modules" / "picamera2" / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def watching(url: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Watch, with pictures already there; a viewer who waited too long for the first was dropped, and comes back."""
    for _ in range(4):
        with viewer(url, output) as process:
            wait_until(
                lambda p=process: size_of(output) >= 5_000 or p.poll() is not None, "pictures, or a dropped viewer"
            )
            if process.poll() is None:
                yield process
                return
    raise AssertionError(output.with_suffix(".log").read_text())


@pytest.mark.gst
def test_frames_of_the_camera_reach_a_viewer(csi_stream: Stream) -> None:
    shown = probe(csi_stream.url())
    assert (shown["video"]["codec_name"], shown["video"]["width"]) == ("h264", 640), csi_stream.log_text()
    status = csi_stream.status()
    assert (status["source"], status["encoder"], status["passthrough"]) == ("csi", "", True)
    assert {"configured": [640, 480, 15.0]} in calls(csi_stream)
    assert {"controls": {"Brightness": 0.5}} in calls(csi_stream)
    assert {"controls": {"ColourGains": [2.0, 2.0]}} in calls(csi_stream)
    assert "no control 'Odd'" in csi_stream.log_text()


@pytest.mark.gst
def test_controls_change_while_somebody_watches(csi_stream: Stream, tmp_path: Path) -> None:
    wait_until(lambda: csi_stream.status()["state"] == "idle", "nobody watches")
    shown = json.loads(get(csi_stream.http_url("/controls"))[1])["controls"]
    assert shown["Brightness"] == {
        "name": "Brightness", "min": -1.0, "max": 1.0, "default": 0.0, "value": 0.5, "type": "float",
    }  # fmt: skip
    assert get(csi_stream.http_url("/set_controls"), b'{"Brightness": 7}')[0] == 400
    assert get(csi_stream.http_url("/set_controls"), b'{"Brightness": 0.25}')[0] == 200
    with watching(csi_stream.url(), tmp_path / "out.ts") as process:
        assert {"controls": {"Brightness": 0.25}} in calls(csi_stream)
        status, body = get(csi_stream.http_url("/set_controls"), b'{"ColourGains": 3, "AeEnable": false}')
        assert (status, json.loads(body)["applied"]) == (200, {"ColourGains": [3, 3], "AeEnable": False})
        assert {"controls": {"ColourGains": [3, 3], "AeEnable": False}} in calls(csi_stream)
        shown = json.loads(get(csi_stream.http_url("/controls"))[1])["controls"]
        assert (shown["AeEnable"]["value"], shown["ColourGains"]["value"]) == (False, [3, 3])
        assert get(csi_stream.http_url("/set_controls"), b'{"Brightness": 7}')[0] == 400
        wait_growth(tmp_path / "out.ts", 5_000)
        assert process.poll() is None


@pytest.mark.gst
def test_rpicam_draws_a_text_without_a_second_encoding(csi_stream: Stream, tmp_path: Path) -> None:
    units = csi_stream.root / "modules" / "picamera2" / "units.h264"
    record = tmp_path / "argv"
    script = f'[ "$1" = --version ] && exit 0\nprintf "%s\\n" "$@" >{record}\nwhile :; do cat {units}; sleep 0.2; done'
    fake_tools(csi_stream.root / "bin", {"rpicam-vid": script})
    keys = {"VIDEO_OVERLAY_ENABLE": "yes", "VIDEO_OVERLAY_TEXT": "50% {VIDEO_RESOLUTION}"}
    csi_stream.configure(**keys, CSI_OVERLAY_MODE="libcamera", H264_BITRATE_KBPS=900)
    try:
        assert csi_stream.reload() == ["swap"]
        assert csi_stream.status()["encoder"] == ""
        with watching(csi_stream.url(), tmp_path / "out.ts"):
            words = record.read_text().split("\n")
            assert words[words.index("--bitrate") + 1] == "900000"
            stage = json.loads(Path(words[words.index("--post-process-file") + 1]).read_text())
            assert stage["annotate_cv"]["text"] == "50%% 640x480"
            assert list(_processes(csi_stream.root / "bin" / "rpicam-vid"))
            assert get(csi_stream.http_url("/controls"))[0] == 409
        wait_until(lambda: csi_stream.status()["state"] == "idle", "nobody watches")
        wait_until(lambda: not list(_processes(csi_stream.root / "bin" / "rpicam-vid")), "rpicam-vid is stopped")
        csi_stream.configure(VIDEO_OVERLAY_TEXT="other")
        assert csi_stream.reload() == ["swap"]
    finally:
        csi_stream.configure(
            VIDEO_OVERLAY_ENABLE=None, VIDEO_OVERLAY_TEXT=None, CSI_OVERLAY_MODE=None, H264_BITRATE_KBPS=None
        )
        assert csi_stream.reload() == ["swap"]


def _processes(program: Path) -> Iterator[int]:
    """Yield the processes that run a script."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(program).encode() in entry.read_bytes().split(b"\0"):
                yield int(entry.parent.name)


@pytest.mark.gst
def test_a_text_is_drawn_by_decoding_and_encoding_again(csi_stream: Stream) -> None:
    csi_stream.configure(VIDEO_OVERLAY_ENABLE="yes", VIDEO_OVERLAY_TEXT="hello")
    try:
        assert csi_stream.reload() == ["swap"]
        assert csi_stream.status()["encoder"] == "x264enc"
        assert wait_until(lambda: try_probe(csi_stream.url()), "a picture with text")["video"]["width"] == 640
    finally:
        csi_stream.configure(VIDEO_OVERLAY_ENABLE=None, VIDEO_OVERLAY_TEXT=None)
        assert csi_stream.reload() == ["swap"]
