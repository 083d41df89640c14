"""What stops the daemon or makes it serve less: one clear line, the next step, the right exit code."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from meetingctl.core.errors import Unreachable

from .support import Stream, fake_tools, free_port, probe, running_stream, try_probe, wait_until

pytestmark = pytest.mark.gst


def failed(stream: Stream, *more: str) -> tuple[int, str]:
    """Start a daemon that must not come up, and return its exit code and log."""
    code = stream.launch(*more).wait(60)
    text = stream.log_text()
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if " error " in line]) == 1, text
    return code, text


def test_a_busy_port(gstreamer: None, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stream = Stream(root)
        stream.configure(RTSP_PORT=port, STREAM_SOURCE_MODE="test")
        code, text = failed(stream)
    assert code == 1
    assert f"port {port} of 127.0.0.1 is in use" in text
    assert "hint=ss -ltnp" in text


def test_a_missing_key(gstreamer: None, root: Path) -> None:
    stream = Stream(root)
    stream.configure(RTSP_PORT=free_port(), STREAM_SOURCE_MODE="mjpeg")
    code, text = failed(stream)
    assert code == 78
    assert "STREAM_SOURCE_URL is missing" in text
    assert "meetingctl device config set STREAM_SOURCE_URL" in text


def test_no_encoder_that_works(gstreamer: None, root: Path) -> None:
    stream = Stream(root, {"PATH": fake_tools(root / "bin", {"gst-launch-1.0": "exit 1"})})
    stream.configure(RTSP_PORT=free_port(), STREAM_SOURCE_MODE="test")
    code, text = failed(stream)
    assert code == 1
    assert "no H.264 encoder works" in text
    assert "gstreamer1.0-plugins-ugly" in text


def test_a_wrong_value_becomes_the_default_and_is_told(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test", VIDEOIN_FPS=500) as stream:
        assert stream.status()["target_fps"] == 15
        assert any("VIDEOIN_FPS is '500'" in note for note in stream.status()["notes"])
        assert "VIDEOIN_FPS" in stream.log_text()


def test_a_busy_loopback_port_costs_only_the_loopback_http(gstreamer: None, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        stream = Stream(root)
        stream.configure(RTSP_PORT=free_port(), STREAM_SOURCE_MODE="test")
        stream.start(f"--http-port={other.getsockname()[1]}")
        try:
            assert stream.status()["http_port"] is None
            assert "no loopback HTTP" in stream.log_text()
            assert probe(stream.url())["video"]
        finally:
            assert stream.stop() == 0


def test_a_camera_that_is_absent_is_waited_for(gstreamer: None, root: Path) -> None:
    path = fake_tools(root / "bin", dict.fromkeys(("v4l2-ctl", "rpicam-hello", "arecord"), "exit 1"))
    with running_stream(root, env={"PATH": path}) as stream:
        assert try_probe(stream.url()) == {}
        assert stream.status()["source"] == "usb"
        assert any("no camera" in note for note in stream.status()["notes"])


def test_a_stop_leaves_no_files_and_ends_with_0(gstreamer: None, root: Path) -> None:
    with running_stream(root, STREAM_SOURCE_MODE="test") as stream:
        local = json.loads(stream.system.read("/run/rpi-cam/stream-local.json"))
        assert probe(f"rtsp://127.0.0.1:{local['port']}/{local['path']}")["video"]
        assert stream.system.path("/run/rpi-cam/stream-local.json").stat().st_mode & 0o777 == 0o600
        assert stream.stop() == 0
        assert not stream.system.path("/run/rpi-cam/stream-local.json").exists()
        assert not stream.system.path("/run/rpi-cam/stream.sock").exists()
        with pytest.raises(Unreachable):
            stream.status()


def test_systemd_hears_of_start_and_end(gstreamer: None, root: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(root / "notify"))
        systemd.settimeout(60)
        stream = Stream(root)
        stream.configure(RTSP_PORT=free_port(), STREAM_SOURCE_MODE="test")
        stream.start(f"--notify-socket={root / 'notify'}")
        heard = [systemd.recv(1000)]
        stream.stop()
        wait_until(lambda: heard.append(systemd.recv(1000)) or b"STOPPING=1" in heard[-1], "the end is told")
    assert heard[0].startswith(b"READY=1")
