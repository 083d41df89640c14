"""What viewers feel: a picture at once, and a way back after every failure of the source."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from meetingctl.device.stream.listener import MOST_CONNECTIONS, SILENT_S

from .rawclient import RawViewer
from .support import Stream, probe, running_stream, size_of, try_probe, viewer, wait_growth, wait_until

pytestmark = pytest.mark.gst


def test_a_late_viewer_sees_a_keyframe_at_once(gstreamer: None, root: Path) -> None:
    """With a keyframe every 4 s, a viewer would wait for 2 s on average; the best of five joins counts."""
    keys = {"VIDEOIN_FPS": 30, "H264_KEYINT": 120, "AUDIO_ENABLE": "no"}
    with running_stream(root, STREAM_SOURCE_MODE="test", **keys) as stream:
        port = int(stream.keys["RTSP_PORT"])
        with RawViewer(port) as first:
            first.play()
            first.wait_keyframe()
            waited_s = []
            for _ in range(5):
                with RawViewer(port) as late:
                    late.play()
                    waited_s.append(late.wait_keyframe())
        assert min(waited_s) < 0.15, waited_s
        assert max(waited_s) < 3, waited_s


def test_a_source_that_hangs_costs_the_viewers_their_link_and_comes_back(gstreamer: None, tmp_path: Path) -> None:
    with running_stream(tmp_path / "origin", STREAM_SOURCE_MODE="test", AUDIO_ENABLE="no") as origin:
        keys = {"STREAM_SOURCE_URL": origin.url(), "RTSP_PROXY_TRANSPORT": "tcp"}
        with running_stream(tmp_path / "proxy", STREAM_SOURCE_MODE="rtsp", **keys) as proxy:
            with viewer(proxy.url(), tmp_path / "out.ts") as process:
                wait_growth(tmp_path / "out.ts", 5_000)
                assert origin.process is not None
                origin.process.send_signal(signal.SIGSTOP)
                began_s = time.monotonic()
                try:
                    process.wait(30)
                    waited_s = time.monotonic() - began_s
                finally:
                    origin.process.send_signal(signal.SIGCONT)
                    back_s = time.monotonic()
                assert waited_s < 5, proxy.log_text()
                wait_until(lambda: is_served(int(proxy.keys["RTSP_PORT"])), "a new viewer is served")
                assert time.monotonic() - back_s < 2, proxy.log_text()
            wait_until(lambda: proxy.status()["stalls"] == 1, "the stall is counted")
            assert wait_until(lambda: try_probe(proxy.url()), "new viewers are served")["video"]


def is_served(port: int) -> bool:
    """Say whether a viewer gets a keyframe."""
    with RawViewer(port) as guest:
        try:
            guest.play()
        except AssertionError:  # 503 while the media is made anew
            return False
        guest.wait_keyframe()
        return True


def test_a_source_that_dies_and_returns_is_served_again(gstreamer: None, tmp_path: Path) -> None:
    with running_stream(tmp_path / "origin", STREAM_SOURCE_MODE="test", AUDIO_ENABLE="no") as origin:
        keys = {"STREAM_SOURCE_URL": origin.url(), "RTSP_PROXY_TRANSPORT": "tcp"}
        with running_stream(tmp_path / "proxy", STREAM_SOURCE_MODE="rtsp", **keys) as proxy:
            assert probe(proxy.url())["video"]
            assert origin.process is not None
            origin.process.kill()
            origin.process.wait()
            assert try_probe(proxy.url()) == {}
            origin.start()
            assert wait_until(lambda: try_probe(proxy.url()), "the stream is back")["video"]
            assert proxy.status()["pid"] == proxy.process.pid  # type: ignore[union-attr]


def test_a_sound_card_that_does_not_open_does_not_take_the_video_along(gstreamer: None, root: Path) -> None:
    from .support import fake_tools

    path = fake_tools(root / "bin", {"arecord": "exit 0"})
    keys = {"AUDIO_DEVICE": "plughw:9,0"}
    with running_stream(root, env={"PATH": path}, STREAM_SOURCE_MODE="test", **keys) as stream:
        assert stream.status()["sound"] == "alsa"
        shown = wait_until(lambda: try_probe(stream.url()), "video without sound")
        assert "audio" not in shown
        assert stream.status()["sound"] == "none"
        assert "sound card lost" in stream.log_text()


def test_a_viewer_who_asks_for_a_range_moves_nobody_else(plain_stream: Stream) -> None:
    """ffmpeg sends `Range: npt=0.000-`, which would seek the media that all viewers share."""
    port = int(plain_stream.keys["RTSP_PORT"])
    with RawViewer(port) as first:
        first.play()
        before = first.timestamps_s(2)[-1]
        with RawViewer(port) as second:
            second.play(Range="npt=0.000-")
            seen = first.timestamps_s(3)
    steps = [later - sooner for sooner, later in itertools.pairwise([before, *seen])]
    assert min(steps) >= 0
    assert max(steps) < 1
    assert seen[-1] - before > 1.5


def test_a_viewer_who_comes_when_the_last_one_leaves_is_served(plain_stream: Stream) -> None:
    for _ in range(10):
        with RawViewer(int(plain_stream.keys["RTSP_PORT"])) as only:
            only.play()
            only.wait_keyframe()


def test_viewers_that_come_and_go_leave_nothing_behind(plain_stream: Stream) -> None:
    port = int(plain_stream.keys["RTSP_PORT"])

    def round_trip(count: int) -> None:
        with RawViewer(port) as steady:
            steady.play()
            for index in range(count):
                with RawViewer(port) as guest:
                    guest.play()
                    if index % 2:
                        guest.leave()

    def descriptors() -> int:
        assert plain_stream.process is not None
        return len(list(Path(f"/proc/{plain_stream.process.pid}/fd").iterdir()))

    def is_empty() -> bool:
        status = plain_stream.status()
        return status["connections"] == 0 and status["clients"] == 0 and status["state"] == "idle"

    round_trip(10)
    wait_until(is_empty, "everybody has left")
    before = descriptors()
    round_trip(60)
    wait_until(is_empty, "everybody has left again")
    wait_until(lambda: descriptors() <= before + 3, "no file descriptor leaks")


def test_a_viewer_over_udp_that_is_killed_is_forgotten(plain_stream: Stream, tmp_path: Path) -> None:
    wait_until(lambda: plain_stream.status()["clients"] == 0, "the viewers of the test before have left")
    with viewer(plain_stream.url(), tmp_path / "out.ts", transport="udp") as process:
        wait_until(lambda: size_of(tmp_path / "out.ts") > 0, "the viewer plays")
        assert plain_stream.status()["clients"] == 1
        process.kill()
        wait_until(lambda: plain_stream.status()["clients"] == 0, "the viewer is forgotten")


def test_figures_while_somebody_watches(plain_stream: Stream, tmp_path: Path) -> None:
    with viewer(plain_stream.url(), tmp_path / "out.ts"):

        def counted() -> dict[str, Any] | None:
            status = plain_stream.status()
            return status if status["fps"] > 5 and status["clients"] == 1 else None

        status = wait_until(counted, "the viewer and his frames are counted")
        assert status["state"] == "live"
        assert status["bitrate_bps"] > 10_000
        assert status["last_buffer_age_s"] < 3
        assert status["local_clients"] == 0


def test_the_daemon_stays_small(plain_stream: Stream) -> None:
    """Proportional memory: GStreamer's libraries are shared with whatever else uses them."""
    assert plain_stream.process is not None
    rollup = Path(f"/proc/{plain_stream.process.pid}/smaps_rollup").read_text()
    pss_kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss_kib < 120 * 1024


def test_forbidden_modules_are_not_loaded() -> None:
    code = (
        "import sys; from meetingctl.device.stream import __main__, daemon;"
        "print(sorted({'typer', 'rich', 'fastapi', 'sqlalchemy', 'httpx', 'asyncio'} & set(sys.modules)))"
    )
    import sys

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_flood_of_connections_is_bounded(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream:
        port = int(stream.keys["RTSP_PORT"])
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_CONNECTIONS + 200):
                guest = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
                with contextlib.suppress(OSError):
                    guest.sendall(b"OPTIONS rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\nX: ")
            wait_until(lambda: stream.status()["connections"] <= MOST_CONNECTIONS, "the rest is closed")
            time.sleep(1)  # a connection that is closed in the middle of a request could spin, and fill the log
            assert len(stream.log_text()) < 10_000
        wait_until(lambda: stream.status()["connections"] < MOST_CONNECTIONS, "they are gone")
        with RawViewer(port) as viewer:
            viewer.play()
            viewer.wait_keyframe()


def test_a_connection_that_says_nothing_is_closed(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream:
        port = int(stream.keys["RTSP_PORT"])
        with RawViewer(port) as viewer, socket.create_connection(("127.0.0.1", port), SILENT_S + 30) as silent:
            viewer.play()
            viewer.timestamps_s(SILENT_S)
            assert silent.recv(1) == b"", "the silent one is closed"
            viewer.wait_keyframe()
