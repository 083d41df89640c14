"""The recorder on a disk that is full or read-only, and killed in the middle of its work."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core.layout import CONFIG_ENV, RECORDER_STATE_JSON, RECORDINGS_DIR, THUMBNAILS_DIR

from .conftest import PASSWORD, USER, Bench, Camera, packets, wait_until

TmpDisk = Callable[[str], Path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[TmpDisk]:
    """Return a function that mounts a small disk on a folder of the device."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / "rec"
        folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(argv, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


class TestDisk:
    @pytest.mark.gst
    def test_a_full_disk_is_told_and_recording_goes_on_when_there_is_room(
        self, camera: Camera, tmp_path: Path, small_disk: TmpDisk
    ) -> None:
        folder = small_disk("1m")
        ballast = folder / "not-ours.bin"
        ballast.write_bytes(b"x" * (900 << 10))
        with Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600).running() as bench:
            wait_until(lambda: bench.state() == "disk_full")
            assert bench.progress()["hint"] == "meetingctl device record prune --min-free-mb 500"
            assert ballast.exists()
            kept = wait_until(bench.segments)
            ballast.unlink()
            wait_until(lambda: bench.state() == "recording")
        assert kept[0].exists()
        assert len(packets(kept[0])["video"]) > 5
        assert bench.error is None

    @pytest.mark.gst
    def test_a_full_disk_makes_room_by_itself_when_something_may_go(
        self, camera: Camera, tmp_path: Path, small_disk: TmpDisk
    ) -> None:
        folder = small_disk("4m")
        for number in range(3):
            old = folder / f"rec_2020010{number + 1}_000000.ts"
            old.write_bytes(b"x" * (1 << 20))
            os.utime(old, (number, number))
        bench = Bench(tmp_path, rtsp_port=camera.port, segment_seconds=3600, min_free_disk_mb=2)
        with bench.running():
            wait_until(lambda: bench.state() == "recording")
            wait_until(lambda: bench.progress()["space"].get("level") == "ok")
        assert not (folder / "rec_20200101_000000.ts").exists()
        assert (folder / "rec_20200103_000000.ts").exists()

    @pytest.mark.gst
    def test_a_read_only_folder_is_told_and_found_writable_again(
        self, bindings: None, tmp_path: Path, small_disk: TmpDisk
    ) -> None:
        folder = small_disk("1m")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, timeout=20)
        with Bench(tmp_path, rtsp_port=1).running() as bench:
            wait_until(lambda: bench.state() == "folder_error")
            assert bench.progress()["reason"] == "/rec: read-only file system"
            assert bench.progress()["hint"] == "mount -o remount,rw /rec"
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True, timeout=20)
            wait_until(lambda: bench.state() == "waiting")
        assert bench.error is None


class Daemon:
    """`meetingctl device record run` in a process of its own."""

    def __init__(self, root: Path, notify_socket: str = "") -> None:
        self.root = root
        env = {"PATH": os.environ["PATH"], "HOME": str(root), "NOTIFY_SOCKET": notify_socket}
        argv = [sys.executable, "-m", "meetingctl", "device", "record", "run", "--root", str(root)]
        self.process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def progress(self) -> dict[str, Any]:
        path = self.root / RECORDER_STATE_JSON.lstrip("/")
        return json.loads(path.read_text()) if path.exists() else {}

    def is_recording(self) -> bool:
        facts = self.progress()
        return facts.get("pid") == self.process.pid and facts["state"] == "recording" and facts["bytes"] > 20_000

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and return exit code and standard error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert out == ""
        return self.process.returncode, err


@contextmanager
def daemon(root: Path, notify_socket: str = "") -> Iterator[Daemon]:
    one = Daemon(root, notify_socket)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate(timeout=20)


def configure(root: Path, **keys: object) -> None:
    path = root / CONFIG_ENV.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"RECORD_ENABLE": "yes", "RTSP_USER": USER, "RTSP_PASSWORD": PASSWORD, "MIN_FREE_DISK_MB": 0, **keys}
    path.write_text("".join(f'{key}="{value}"\n' for key, value in given.items()))


def recordings(root: Path) -> list[Path]:
    return sorted((root / RECORDINGS_DIR.lstrip("/")).glob("*.ts"))


@pytest.mark.gst
class TestProcess:
    def test_it_tells_systemd_and_closes_the_last_segment(self, camera: Camera, tmp_path: Path) -> None:
        configure(tmp_path, RTSP_PORT=camera.port)
        address = str(tmp_path / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(address)
            listener.settimeout(30)
            with daemon(tmp_path, address) as one:
                wait_until(one.is_recording)
                code, err = one.end()
            messages = receive_all(listener)
        assert code == 0, err
        assert "p%3A" not in err + json.dumps(one.progress())
        assert len(recordings(tmp_path)) == 1
        assert len(packets(recordings(tmp_path)[0])["video"]) > 10
        assert one.progress()["state"] == "stopped"
        states = [re.split(r"[\n]", text)[0] for text in messages]
        assert states[0] == "READY=1"
        assert "WATCHDOG=1" in states
        assert "STOPPING=1" in states

    def test_a_killed_recorder_loses_nothing_and_leaves_no_second_ffmpeg(self, camera: Camera, tmp_path: Path) -> None:
        configure(tmp_path, RTSP_PORT=camera.port)
        with daemon(tmp_path) as one:
            wait_until(one.is_recording)
            orphan = one.progress()["ffmpeg_pid"]
            one.end(signal.SIGKILL)
        assert Path(f"/proc/{orphan}/cmdline").read_bytes()
        with daemon(tmp_path) as one:
            wait_until(one.is_recording)
            assert not is_running_ffmpeg(orphan)
            wait_until(lambda: recordings(tmp_path))
            wait_until(lambda: list((tmp_path / THUMBNAILS_DIR.lstrip("/")).glob("*.jpg")))
            code, err = one.end()
        assert code == 0, err
        assert "ended the ffmpeg of an earlier recorder" in err
        assert len(recordings(tmp_path)) == 2
        assert all(packets(path)["video"] for path in recordings(tmp_path))

    def test_a_second_recorder_refuses(self, camera: Camera, tmp_path: Path) -> None:
        configure(tmp_path, RTSP_PORT=camera.port)
        with daemon(tmp_path) as one:
            wait_until(one.is_recording)
            with daemon(tmp_path) as two:
                out, err = two.process.communicate(timeout=60)
            assert (two.process.returncode, out) == (1, "")
            assert "another recorder writes here" in err
            wait_until(one.is_recording)

    def test_reload_takes_a_new_configuration(self, camera: Camera, tmp_path: Path) -> None:
        configure(tmp_path, RTSP_PORT=camera.port)
        with daemon(tmp_path) as one:
            wait_until(one.is_recording)
            configure(tmp_path, RTSP_PORT=camera.port, SEGMENT_SECONDS=7)
            one.process.send_signal(signal.SIGHUP)
            configure(tmp_path, RTSP_PORT=camera.port, RECORD_ENABLE="no")
            one.process.send_signal(signal.SIGHUP)
            out, _ = one.process.communicate(timeout=60)
        assert (one.process.returncode, out) == (0, "")
        assert len(recordings(tmp_path)) == 1
        assert one.progress()["state"] == "off"


def test_switched_off_it_ends_at_once(tmp_path: Path) -> None:
    configure(tmp_path, RECORD_ENABLE="no")
    with daemon(tmp_path) as one:
        _, err = one.process.communicate(timeout=60)
    assert one.process.returncode == 0, err
    assert "recording is off" in err
    assert one.progress()["state"] == "off"


@pytest.mark.real
def test_without_ffmpeg_it_ends_with_the_package_to_install(tmp_path: Path) -> None:
    configure(tmp_path)
    env = {"PATH": "/nonexistent", "HOME": str(tmp_path)}
    argv = [sys.executable, "-m", "meetingctl", "device", "record", "run", "--root", str(tmp_path)]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "ffmpeg: command not found" in ended.stderr
    assert "sudo apt-get install -y ffmpeg" in ended.stderr


def is_running_ffmpeg(pid: int) -> bool:
    try:
        return b"ffmpeg" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def receive_all(listener: socket.socket) -> list[str]:
    """Return the datagrams that have arrived."""
    messages = []
    listener.setblocking(False)
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages
