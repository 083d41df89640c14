"""The recorder against a real RTSP server and a real ffmpeg."""

from __future__ import annotations

import os
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from meetingctl.core.layout import RECORDER_INPUT, STREAM_LOCAL_JSON
from meetingctl.core.secret import Secret

from .conftest import PASSWORD, Bench, Camera, first_is_keyframe, packets, wait_until

pytestmark = pytest.mark.gst


def all_arguments() -> str:
    texts = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(text for text in texts if "rtsp_source.py" not in text)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return all records with their fields."""
    text = "\n".join(str(vars(record)) for record in caplog.records)
    assert "segment" in text or "reason" in text
    return text


def test_it_records_cuts_on_keyframes_and_shows_no_password(bindings: None, tmp_path: Path, caplog) -> None:
    caplog.set_level("DEBUG")
    camera = Camera(sound="audio")
    camera.start()
    try:
        with Bench(tmp_path, rtsp_port=camera.port).running() as bench:
            wait_until(lambda: bench.state() == "recording")
            script = tmp_path / RECORDER_INPUT.lstrip("/")
            assert stat.S_IMODE(script.stat().st_mode) == 0o600
            assert "p%3A" in script.read_text()
            arguments = all_arguments()
            assert str(bench.folder) in arguments
            assert "p%3A" not in arguments
            assert PASSWORD not in arguments
            wait_until(lambda: len(bench.closed) >= 3)
    finally:
        camera.kill()
    assert bench.error is None
    assert not script.exists()
    segments = bench.segments()
    assert sorted(bench.closed) == [f"/rec/{path.name}" for path in segments]
    assert list((bench.folder / ".live").iterdir()) == []
    assert bench.state() == "stopped"
    for path in segments[:3]:
        assert set(packets(path)) == {"video", "audio"}
        assert first_is_keyframe(path)
    assert "p%3A" not in logged(caplog) + str(bench.progress())


def test_the_local_listener_needs_no_password(bindings: None, tmp_path: Path) -> None:
    camera = Camera(user="", password="")
    camera.start()
    try:
        bench = Bench(tmp_path, rtsp_port=1, rtsp_password=Secret("wrong"))
        bench.system.write(STREAM_LOCAL_JSON, f'{{"port": {camera.port}, "path": "/stream"}}')
        with bench.running():
            wait_until(lambda: bench.state() == "recording")
            assert "/stream" not in str(bench.progress())
    finally:
        camera.kill()


def test_a_source_that_dies_and_returns_leaves_a_short_hole(camera: Camera, tmp_path: Path) -> None:
    """The recorder adds little to the time that the source was away, and loses none of what comes after it."""
    with Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600).running() as bench:
        wait_until(lambda: bench.progress().get("bytes", 0) > 20_000)
        camera.kill()
        left_s = time.time()
        wait_until(lambda: len(bench.closed) == 1)
        wait_until(lambda: bench.state() == "waiting")
        assert bench.progress()["reason"] in {"the stream ended", "nothing listens at the address of the stream"}
        time.sleep(max(0.0, left_s + 2.0 - time.time()))  # a camera needs a moment to start again
        camera.start()
        back_s = time.time()
        wait_until(lambda: bench.state() == "recording")
        wait_until(lambda: time.time() > back_s + 12)
        stopped_s = time.time()
    before, after = bench.segments()
    assert len(packets(before)["video"]) > 15
    assert first_is_keyframe(after)
    times = packets(after)["video"]
    hole_s = stopped_s - (times[-1] - times[0]) - left_s
    assert hole_s < 4.0
    assert hole_s - (back_s - left_s) < 1.5, "of the hole this much is the recorder's"
    expected = 15 * (times[-1] - times[0]) + 1
    assert expected > 120
    assert 0.99 * expected - 1 <= len(times) <= 1.01 * expected + 2


def test_a_source_that_hangs_is_given_up_and_found_again(camera: Camera, tmp_path: Path) -> None:
    with Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600).running() as bench:
        wait_until(lambda: bench.progress().get("bytes", 0) > 20_000)
        camera.hang()
        wait_until(lambda: bench.state() == "waiting")
        assert len(bench.closed) == 1
        camera.kill()
        camera.start()
        wait_until(lambda: bench.state() == "recording")
    assert len(packets(bench.segments()[0])["video"]) > 10


def test_a_refused_login_is_named_and_not_shown(camera: Camera, tmp_path: Path, caplog) -> None:
    caplog.set_level("DEBUG")
    bench = Bench(tmp_path, rtsp_port=camera.port, rtsp_password=Secret("n0t-it"))
    with bench.running():
        wait_until(lambda: bench.state() == "waiting")
        assert bench.progress()["reason"] == "the stream refuses the login"
        wait_until(lambda: bench.progress()["failures"] >= 2)
    assert "n0t-it" not in logged(caplog) + str(bench.progress())


def test_a_killed_ffmpeg_loses_no_segment(camera: Camera, tmp_path: Path) -> None:
    with Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600).running() as bench:
        wait_until(lambda: bench.progress().get("bytes", 0) > 60_000)
        os.kill(bench.progress()["ffmpeg_pid"], signal.SIGKILL)
        wait_until(lambda: len(bench.closed) == 1)
        wait_until(lambda: bench.progress().get("segment"))
    assert len(packets(bench.segments()[0])["video"]) > 15


def test_a_clock_that_is_set_starts_a_new_segment(camera: Camera, tmp_path: Path) -> None:
    with Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600).running() as bench:
        wait_until(lambda: bench.progress().get("bytes", 0) > 20_000)
        bench.clock_offset_s = 86400.0
        wait_until(lambda: len(bench.closed) == 1)
        wait_until(lambda: bench.progress().get("bytes", 0) > 20_000)
        assert bench.progress()["failures"] == 0


@pytest.mark.parametrize("gone", [".live", ""])
def test_a_folder_that_vanishes_is_made_again(camera: Camera, tmp_path: Path, gone: str) -> None:
    with Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600).running() as bench:
        wait_until(lambda: bench.progress().get("bytes", 0) > 20_000)
        folder, taken = bench.folder, bench.progress()["segment"]
        (folder / gone).rename(tmp_path / "taken away")
        wait_until(lambda: (folder / ".live").exists(), poll_s=0.0005)
        assert bench.progress()["segment"] != taken, "what was taken away is not shown in the new folder"
        wait_until(lambda: bench.progress().get("bytes", 0) > 20_000)
        assert bench.state() == "recording"
    assert len(bench.segments()) == 1


def test_a_new_folder_is_taken_at_the_next_reload(camera: Camera, tmp_path: Path) -> None:
    with Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600).running() as bench:
        wait_until(lambda: bench.progress().get("bytes", 0) > 20_000)
        bench.config = replace(bench.config, record_dir="/other")
        bench.reload.set()
        wait_until(lambda: bench.progress().get("record_dir") == "/other" and bench.progress().get("bytes", 0) > 20_000)
        assert len(bench.segments()) == 1
        bench.config = replace(bench.config, record_enable=False)
        bench.reload.set()
        wait_until(lambda: bench.state() == "off")
    assert len(list((tmp_path / "other").glob("*.ts"))) == 1
