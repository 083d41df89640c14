"""GStreamer and ffmpeg for the tests that need them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support import Stream, running_stream


@pytest.fixture(scope="session")
def gstreamer(require_program: Callable[..., str]) -> None:
    """Skip without GStreamer and ffmpeg; fail instead under CI=true."""
    require_program("ffmpeg")
    require_program("gst-launch-1.0", package="gstreamer1.0-tools")
    code = "from meetingctl.device.stream.gstreamer import load_gstreamer; load_gstreamer()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if ran.returncode:
        reason = f"needs GStreamer's Python bindings: {ran.stderr.strip().splitlines()[-1]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def plain_stream(gstreamer: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    """A test picture with sound and without login, shared by the tests of a module that change nothing."""
    with running_stream(tmp_path_factory.mktemp("plain"), STREAM_SOURCE_MODE="test", SUBSTREAM_ENABLE="yes") as stream:
        yield stream


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path
