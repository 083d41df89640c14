"""Every source but a camera, from end to end with ffmpeg as the viewer."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .support import Stream, probe, running_stream, try_probe, wait_until

pytestmark = pytest.mark.gst


def check_video(
    shown: dict[str, dict[str, object]], size: tuple[int, int], profile: str = "Constrained Baseline"
) -> None:
    video = shown["video"]
    assert (video["codec_name"], video["profile"]) == ("h264", profile)
    # 4:2:0 with 8 bits; what was a JPEG keeps its full range of brightness.
    assert video["pix_fmt"] in {"yuv420p", "yuvj420p"}
    assert (video["width"], video["height"]) == size


def test_a_test_picture_with_sound(plain_stream: Stream) -> None:
    shown = probe(plain_stream.url())
    check_video(shown, (640, 480))
    sound = shown["audio"]
    assert (sound["codec_name"], sound["profile"], sound["channels"]) == ("aac", "LC", 1)
    assert sound["sample_rate"] == "48000"


def test_udp(plain_stream: Stream) -> None:
    check_video(probe(plain_stream.url(), transport="udp"), (640, 480))


def test_the_second_stream_is_small(plain_stream: Stream) -> None:
    check_video(probe(plain_stream.url("stream-sub")), (320, 240))


def test_an_unknown_path_is_refused(plain_stream: Stream) -> None:
    assert try_probe(plain_stream.url("nothing")) == {}


def test_size_rate_and_profile_as_asked(gstreamer: None, root: Path) -> None:
    keys = {"VIDEOOUT_WIDTH": 320, "VIDEOOUT_HEIGHT": 240, "VIDEOOUT_FPS": 10, "H264_PROFILE": "main"}
    overlay = {"VIDEO_OVERLAY_ENABLE": "yes", "VIDEO_OVERLAY_SHOW_DATETIME": "yes", "VIDEO_OVERLAY_TEXT": "a ! b"}
    with running_stream(root, STREAM_SOURCE_MODE="test", AUDIO_ENABLE="no", **keys, **overlay) as stream:
        shown = probe(stream.url(), seconds=4)
        check_video(shown, (320, 240), "Main")
        assert "audio" not in shown
        count, _, per = str(shown["video"]["avg_frame_rate"]).partition("/")
        assert 8 <= int(count) / int(per or 1) <= 12


def test_a_transport_that_is_not_allowed_is_refused(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test", RTSP_PROTOCOLS="tcp") as stream:
        assert try_probe(stream.url(), transport="udp") == {}
        check_video(probe(stream.url()), (640, 480))


def test_the_other_software_encoder(gstreamer: None, root: Path) -> None:
    """openh264 takes over where a trial says that x264 does not work."""
    boot_id = ""
    stream = Stream(root)
    trial = f'{{"boot_id": "{boot_id}", "works": {{"x264enc": false, "openh264enc": true}}}}'
    stream.system.write("/run/rpi-cam/encoder-trial.json", trial)
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream:
        assert stream.status()["encoder"] == "openh264enc"
        check_video(probe(stream.url()), (640, 480))


@pytest.mark.parametrize("audio", ["auto", "no"])
def test_a_proxy_passes_video_and_sound_on(gstreamer: None, tmp_path: Path, audio: str) -> None:
    login = {"RTSP_USER": "u", "RTSP_PASSWORD": "p@"}
    with running_stream(
        tmp_path / "origin", STREAM_SOURCE_MODE="test", VIDEOIN_WIDTH=320, VIDEOIN_HEIGHT=240, **login
    ) as origin:
        url = origin.url(user="u", password="p@")
        keys = {"STREAM_SOURCE_URL": url, "RTSP_PROXY_TRANSPORT": "tcp", "RTSP_PROXY_AUDIO": audio}
        with running_stream(tmp_path / "proxy", STREAM_SOURCE_MODE="rtsp", **keys) as proxy:
            shown = probe(proxy.url())
            check_video(shown, (320, 240))
            assert ("audio" in shown) == (audio == "auto")
            status = proxy.status()
            assert status["passthrough"] is True
            assert (status["width"], status["height"], status["target_fps"]) == (320, 240, 15.0)
            assert "baseline" in status["profile"]
            assert "p%40" not in proxy.log_text()


def test_a_proxy_of_an_origin_without_sound(gstreamer: None, tmp_path: Path) -> None:
    with running_stream(tmp_path / "origin", STREAM_SOURCE_MODE="test", AUDIO_ENABLE="no") as origin:
        with running_stream(tmp_path / "proxy", STREAM_SOURCE_MODE="rtsp", STREAM_SOURCE_URL=origin.url()) as proxy:
            shown = probe(proxy.url())
            check_video(shown, (640, 480))
            assert "audio" not in shown


@contextmanager
def web_camera(folder: Path) -> Iterator[str]:
    """Serve one JPEG picture again and again, as MJPEG cameras do."""
    picture = folder / "one.jpg"
    argv = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=320x240", "-frames:v", "1", str(picture)]
    subprocess.run(argv, check=True, timeout=60)
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
    body = part % (len(picture.read_bytes()), picture.read_bytes())
    stop = threading.Event()

    def serve(peer: socket.socket) -> None:
        with peer:
            peer.settimeout(10)
            try:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=frame\r\n\r\n")
                while not stop.wait(0.1):
                    peer.sendall(body)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/video"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_a_web_camera(gstreamer: None, root: Path) -> None:
    with web_camera(root) as url, running_stream(root, STREAM_SOURCE_MODE="mjpeg", STREAM_SOURCE_URL=url) as stream:
        check_video(probe(stream.url()), (640, 480))


@contextmanager
def x_display(program: str, folder: Path) -> Iterator[str]:
    """Run an X server without a screen, on a display number that it chooses."""
    reader, writer = os.pipe()
    argv = [program, "-displayfd", str(writer), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with (folder / "x.log").open("wb") as log:
        process = subprocess.Popen(argv, pass_fds=(writer,), stdout=log, stderr=log)
    os.close(writer)
    try:
        with os.fdopen(reader) as numbers:
            number = numbers.readline().strip()
        assert number, (folder / "x.log").read_text()
        yield f":{number}"
    finally:
        process.terminate()
        process.wait(20)


def test_a_screen(gstreamer: None, require_program: Callable[..., str], root: Path) -> None:
    program = require_program("Xvfb", package="xvfb")
    with x_display(program, root) as display:
        keys = {"SCREEN_DISPLAY": display, "VIDEOIN_WIDTH": 400, "VIDEOIN_HEIGHT": 300, "VIDEOIN_FPS": 5}
        with running_stream(root, STREAM_SOURCE_MODE="screen", **keys) as stream:
            check_video(probe(stream.url()), (400, 300))


def test_a_stream_that_nobody_watches_opens_no_source(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream:
        assert stream.status()["state"] == "idle"
        assert probe(stream.url())["video"]
        wait_until(lambda: stream.status()["state"] == "idle", "the source closes after its last viewer")
        assert stream.status()["connections"] == 0
