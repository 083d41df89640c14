"""What the stream daemon takes of the memory of a small device, and that it takes no more with time."""

from __future__ import annotations

import re
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from .rawclient import RawViewer
from .support import Stream, running_stream, viewer, wait_growth, wait_until

pytestmark = pytest.mark.gst

LIMIT_KIB = 60 * 1024
CHURN = 100
NOISE_KIB = 7 * 1024  # what the allocator keeps differs by some MiB; a media that stays costs 140 KiB


def memory_kib(stream: Stream) -> int:
    """Return the proportional set size: a library that other processes use too counts by its share."""
    assert stream.process is not None
    text = Path(f"/proc/{stream.process.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


def test_viewers_pictures_and_hls_fit_in_little_memory(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream, viewer(stream.url(), root / "out.ts"):
        wait_growth(root / "out.ts")
        for _ in range(3):
            assert urlopen(stream.http_url("/snapshot.jpg"), timeout=30).read()[:2] == b"\xff\xd8"
            time.sleep(1.1)  # a younger picture would be given again
        assert b"#EXTM3U" in urlopen(stream.http_url("/hls/live.m3u8"), timeout=60).read()
        assert "libav" not in Path(f"/proc/{stream.process.pid}/maps").read_text()  # type: ignore[union-attr]
        assert memory_kib(stream) < LIMIT_KIB


def test_viewers_that_come_and_go_leave_no_memory_behind(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream:
        port = int(stream.keys["RTSP_PORT"])

        def churn(count: int) -> int:
            while count:
                with RawViewer(port) as guest:
                    try:
                        guest.play()
                    except AssertionError:  # 503: the media of the last viewer was just ending
                        continue
                    guest.wait_keyframe()
                count -= 1
            wait_until(lambda: stream.status()["connections"] == 0, "everybody has left")
            return memory_kib(stream)

        before_kib = churn(20)
        assert churn(CHURN) - before_kib < NOISE_KIB
