"""A running camera and a recorder to point at it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core.layout import RECORDER_STATE_JSON
from meetingctl.core.secret import Secret
from meetingctl.device.config import DeviceConfig, Loaded
from meetingctl.device.notify import Notifier
from meetingctl.device.recorder.recorder import Recorder
from meetingctl.device.system import Clock, System

SYSTEM_PYTHON = "/usr/bin/python3"
USER, PASSWORD = "viewer", "p:@/w 'x"
PROBE = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def wait_until(condition: Callable[[], Any], *, deadline_s: float = 60.0, poll_s: float = 0.05) -> Any:
    """Poll until the condition is true and return its value; fail the test when the deadline passes."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if value := condition():
            return value
        threading.Event().wait(poll_s)
    pytest.fail(f"not true within {deadline_s:.0f} s: {condition}")


def free_port() -> int:
    """Return a port that nothing uses and that no outgoing connection gets while the camera is away."""
    for port in random.sample(range(20_000, 30_000), 50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.fail("no free port")


class Camera:
    """The test source on one port; it can die, hang and come back."""

    def __init__(self, user: str = USER, password: str = PASSWORD, sound: str = "silent") -> None:
        self.port = 0
        self._words = (user, password, sound)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port = self.port or free_port()
        script = Path(__file__).with_name("rtsp_source.py")
        argv = [SYSTEM_PYTHON, str(script), str(self.port), *self._words]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the test source did not start: {self._process.wait(10)}"
        self.port = int(line)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


@pytest.fixture(scope="session")
def bindings(require_program: Callable[..., str]) -> None:
    """Skip without GStreamer and ffmpeg; under CI=true they must be there."""
    require_program("ffmpeg")
    require_program("ffprobe", package="ffmpeg")
    probe = [SYSTEM_PYTHON, "-c", PROBE]
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run(probe, capture_output=True, timeout=60).returncode:
        reason = "needs GStreamer: apt install gir1.2-gst-rtsp-server-1.0 python3-gst-1.0 gstreamer1.0-plugins-ugly"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def camera(bindings: None) -> Iterator[Camera]:
    camera = Camera()
    camera.start()
    yield camera
    camera.kill()


class Bench:
    """A recorder in this process, its folder and what it published."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.clock_offset_s = 0.0
        clock = Clock(wall_s=lambda: time.time() + self.clock_offset_s)
        self.system = System(root, clock=clock)
        self.config = replace(
            DeviceConfig(rtsp_user=USER, rtsp_password=Secret(PASSWORD)),
            **{"record_enable": True, "record_dir": "/rec", "segment_seconds": 2, "min_free_disk_mb": 0, **config},
        )
        self.folder = root / self.config.record_dir.lstrip("/")
        self.closed: list[str] = []
        self.stop = threading.Event()
        self.reload = threading.Event()
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def recorder(self) -> Recorder:
        return Recorder(
            self.system,
            lambda system: Loaded(self.config, {}, ()),
            Notifier(),
            stop=self.stop,
            reload=self.reload,
            on_closed=self.closed.append,
        )

    @contextmanager
    def running(self) -> Iterator[Bench]:
        """Record while the block runs; the recorder has stopped when it is left."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            thread.join(60)
            assert not thread.is_alive()

    def _run(self) -> None:
        try:
            self.recorder().run()
        except BaseException as error:
            self.error = error

    def progress(self) -> dict[str, Any]:
        path = self.system.path(RECORDER_STATE_JSON)
        return json.loads(path.read_text()) if path.exists() else {}

    def state(self) -> str:
        return str(self.progress().get("state", ""))

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.ts"))


def packets(path: Path) -> dict[str, list[float]]:
    """Return the time stamps of the packets of each codec in a file, with ffprobe."""
    entries = "packet=pts_time,codec_type"
    argv = ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", str(path)]
    result = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    times: dict[str, list[float]] = {}
    for packet in json.loads(result.stdout)["packets"]:
        times.setdefault(packet["codec_type"], []).append(float(packet.get("pts_time", "nan")))
    return times


def first_is_keyframe(path: Path) -> bool:
    argv = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        "v",
        "-show_entries",
        "packet=flags",
        "-of",
        "json",
        "-read_intervals",
        "%+#1",
        str(path),
    ]
    result = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    return "K" in json.loads(result.stdout)["packets"][0]["flags"]
