"""Reload of a running daemon: what each class of key does to the viewers."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from meetingctl.core.errors import AuthError, InvalidInput, MeetingctlError, Unreachable
from meetingctl.device.rtsp import Endpoint, describe

from .support import Stream, free_port, probe, running_stream, viewer, wait_growth, wait_until

pytestmark = pytest.mark.gst


def bright_pixels(stream: Stream) -> int:
    """Count white pixels in the upper left corner of a snapshot, where a text would be."""
    with urlopen(stream.http_url("/snapshot.jpg"), timeout=30) as reply:
        picture = reply.read()
    argv = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "mjpeg",
        "-i",
        "-",
        "-vf",
        "crop=240:80:0:0,format=gray",
        "-f",
        "rawvideo",
        "-",
    ]
    ran = subprocess.run(argv, input=picture, capture_output=True, timeout=60, check=True)
    return sum(value > 200 for value in ran.stdout)


def test_live_keys_change_what_is_seen_and_nobody_is_dropped(gstreamer: None, root: Path) -> None:
    keys = {"VIDEO_OVERLAY_ENABLE": "yes", "VIDEO_OVERLAY_TEXT": " "}
    with (
        running_stream(root, STREAM_SOURCE_MODE="test", **keys) as stream,
        viewer(stream.url(), root / "out.ts") as process,
    ):
        wait_growth(root / "out.ts")
        started = stream.status()["media_started"]
        wait_until(lambda: bright_pixels(stream) < 20, "no text yet")
        stream.configure(VIDEO_OVERLAY_TEXT="HHHHHHHH", H264_BITRATE_KBPS=600, AUDIO_GAIN="0.5")
        assert stream.reload() == ["live"]
        wait_until(lambda: bright_pixels(stream) > 300, "the text is in the picture")
        wait_growth(root / "out.ts")
        assert process.poll() is None
        assert stream.status()["media_started"] == started


def test_a_new_password_counts_for_new_viewers(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream, viewer(stream.url(), root / "out.ts") as process:
        wait_growth(root / "out.ts")
        stream.configure(RTSP_USER="u", RTSP_PASSWORD="new", RTSP_AUTH_METHOD="digest")
        assert stream.reload() == ["login"]
        with pytest.raises(AuthError):
            describe(Endpoint("127.0.0.1", int(stream.keys["RTSP_PORT"]), "stream"), timeout_s=20)
        assert probe(stream.url(user="u", password="new"))["video"]
        wait_growth(root / "out.ts")
        assert process.poll() is None


def test_new_media_for_new_viewers_while_the_old_ones_keep_theirs(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream, viewer(stream.url(), root / "out.ts") as process:
        wait_growth(root / "out.ts")
        stream.configure(VIDEOIN_WIDTH=320, VIDEOIN_HEIGHT=240)
        assert stream.reload() == ["swap"]
        assert probe(stream.url())["video"]["width"] == 320
        wait_growth(root / "out.ts")
        assert process.poll() is None


def test_another_port_keeps_the_viewers_of_the_old_one(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream, viewer(stream.url(), root / "out.ts") as process:
        wait_growth(root / "out.ts")
        old_port = int(stream.keys["RTSP_PORT"])
        stream.configure(RTSP_PORT=free_port())
        assert stream.reload() == ["rebind"]
        assert probe(stream.url())["video"]
        with pytest.raises(Unreachable):
            describe(Endpoint("127.0.0.1", old_port, "stream"), timeout_s=20)
        wait_growth(root / "out.ts")
        assert process.poll() is None
        assert stream.status()["clients"] == 1


def test_what_cannot_be_done_changes_nothing(gstreamer: None, root: Path) -> None:
    with running_stream(root / "a", STREAM_SOURCE_MODE="test") as stream:
        assert stream.reload() == []
        stream.configure(H264_KEYINT=9999)
        with pytest.raises(InvalidInput, match=r"H264_KEYINT is '9999', allowed is a whole number from 1 to 120"):
            stream.reload()
        with running_stream(root / "b", STREAM_SOURCE_MODE="test") as other:
            own_port = stream.keys["RTSP_PORT"]
            stream.configure(H264_KEYINT=None, RTSP_PORT=other.keys["RTSP_PORT"])
            with pytest.raises(MeetingctlError, match="is in use"):
                stream.reload()
        stream.configure(RTSP_PORT=own_port)
        assert stream.reload() == []
        assert probe(stream.url())["video"]


def test_a_hang_up_signal_reloads(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream:
        stream.configure(VIDEOIN_WIDTH=320, VIDEOIN_HEIGHT=240)
        assert stream.process is not None
        stream.process.send_signal(signal.SIGHUP)
        wait_until(lambda: stream.status()["width"] == 320, "the size has changed")
        stream.configure(STREAM_SOURCE_MODE="rtsp")
        stream.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration kept" in stream.log_text(), "the wrong configuration is refused")
        assert stream.status()["mode"] == "test"
