"""Recordings made by ffmpeg, and a device to keep them on."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core.layout import RECORDINGS_DIR
from meetingctl.device.system import System


def wait_until(condition: Callable[[], Any], *, deadline_s: float = 60.0) -> Any:
    """Poll until the condition is true and return its value; fail the test when the deadline passes."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if value := condition():
            return value
        threading.Event().wait(0.05)
    pytest.fail(f"not true within {deadline_s:.0f} s")


@pytest.fixture
def system(tmp_path: Path) -> System:
    (tmp_path / RECORDINGS_DIR.lstrip("/")).mkdir(parents=True)
    return System(tmp_path)


@pytest.fixture(scope="session")
def clip(require_program: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three seconds of test picture with sound, as the recorder writes it."""
    target = tmp_path_factory.mktemp("clip") / "clip.ts"
    argv = [
        *(require_program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=3"),
        *("-f", "lavfi", "-i", "sine=duration=3", "-c:v", "libx264", "-preset", "ultrafast", "-g", "10"),
        *("-c:a", "aac", "-b:a", "64k", str(target)),
    ]
    subprocess.run(argv, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return target.read_bytes()


@pytest.fixture
def put(system: System) -> Callable[[str, bytes], str]:
    """Return a function that puts a file among the recordings and returns its device path."""

    def put(name: str, content: bytes) -> str:
        device_path = f"{RECORDINGS_DIR}/{name}"
        system.path(device_path).write_bytes(content)
        return device_path

    return put
