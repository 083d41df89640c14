"""Readers inside the daemon: one JPEG picture, and HLS while somebody watches it.

Both read the listener without a password like any other reader, so they work for every source, and cost nothing when
nobody asks.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meetingctl.core.errors import Busy, NotFound
from meetingctl.core.layout import RUN_DIR
from meetingctl.device.stream.encoders import H264_DECODERS, first_present
from meetingctl.device.stream.gstreamer import Gstreamer, missing_element_error, present_elements
from meetingctl.device.stream.origin import AUDIO_PLACE, VIDEO_PLACE, link_origin
from meetingctl.device.system import System

HLS_DIR = f"{RUN_DIR}/hls"
_SNAPSHOT_TIMEOUT_S = 8.0
_SNAPSHOT_FRESH_S = 1.0
_HLS_START_TIMEOUT_S = 15.0
_HLS_IDLE_S = 30.0
_HLS_FILE = re.compile(r"live\.m3u8|segment\d{5}\.ts")
# A reader comes in the middle of the video: without a keyframe first, the decoder shows grey pictures.
_READ = "rtspsrc name=origin protocols=tcp latency=0 tcp-timeout=5000000 timeout=5000000"
_VIDEO = f"{VIDEO_PLACE} wait-for-keyframe=true ! h264parse"

log = logging.getLogger(__name__)


class Snapshot:
    """One picture a second at most; callers that come together share it. Safe in any thread."""

    def __init__(self, gst: Gstreamer, url: Callable[[], str]) -> None:
        self._gst = gst
        self._url = url
        self._lock = threading.Lock()
        self._taken_s = -_SNAPSHOT_FRESH_S
        self._picture = b""

    def take(self) -> bytes:
        """Return a JPEG. Raises: Busy when the source delivers nothing in time."""
        if not self._lock.acquire(timeout=_SNAPSHOT_TIMEOUT_S):
            raise Busy("another picture is being taken")
        try:
            if time.monotonic() - self._taken_s >= _SNAPSHOT_FRESH_S:
                self._picture = self._read_picture()
                self._taken_s = time.monotonic()
            return self._picture
        finally:
            self._lock.release()

    def _read_picture(self) -> bytes:
        decoder = first_present(H264_DECODERS, present_elements(self._gst, H264_DECODERS))
        if decoder is None:
            raise missing_element_error("avdec_h264")
        gst = self._gst.Gst
        pipeline = gst.parse_launch(
            f"{_READ} {_VIDEO} ! {decoder}"
            " ! videoconvert ! jpegenc quality=85 ! appsink name=picture max-buffers=1 drop=true sync=false"
        )
        pipeline.get_by_name("origin").set_property("location", self._url())
        link_origin(self._gst, pipeline)
        sink = pipeline.get_by_name("picture")
        pipeline.set_state(gst.State.PLAYING)
        try:
            sample = sink.try_pull_sample(int(_SNAPSHOT_TIMEOUT_S * gst.SECOND))
            if sample is None:
                raise Busy("no picture: the source delivers nothing", hint="meetingctl device stream status")
            buffer = sample.get_buffer()
            return bytes(buffer.extract_dup(0, buffer.get_size()))
        finally:
            pipeline.set_state(gst.State.NULL)


class Hls:
    """Segments of two seconds and more, each from keyframe to keyframe; started by the first reader."""

    def __init__(self, gst: Gstreamer, system: System, url: Callable[[], str], has_sound: Callable[[], bool]) -> None:
        self._gst = gst
        self._folder = system.path(HLS_DIR)
        self._url = url
        self._has_sound = has_sound
        self._lock = threading.Lock()
        self._pipeline: Any = None
        self._asked_s = 0.0

    def read(self, name: str) -> bytes:
        """Return the playlist or a segment. Raises: NotFound, Busy while the first segment is not there."""
        if not _HLS_FILE.fullmatch(name):
            raise NotFound(f"no HLS file {name[:60]!r}", hint="GET /hls/live.m3u8")
        with self._lock:
            self._asked_s = time.monotonic()
            if self._pipeline is None or self._has_failed():
                self._start()
        path = self._folder / name
        if name.endswith(".m3u8"):
            _wait_for(path)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"HLS file {name} is gone", hint="GET /hls/live.m3u8") from None

    def stop_when_idle(self) -> bool:
        """Stop when nobody has asked for a while; the daemon calls it now and then."""
        with self._lock:
            if self._pipeline is not None and time.monotonic() - self._asked_s > _HLS_IDLE_S:
                self._stop()
        return True

    def stop(self) -> None:
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._stop()
        if not present_elements(self._gst, ("hlssink2",)):
            raise missing_element_error("hlssink2")
        self._folder.mkdir(parents=True, exist_ok=True)
        launch = (
            f"{_READ} {_VIDEO} ! queue ! hls.video hlssink2 name=hls target-duration=2 playlist-length=4 max-files=8"
        )
        if self._has_sound():
            launch += f" {AUDIO_PLACE} ! aacparse ! queue ! hls.audio"
        pipeline = self._gst.Gst.parse_launch(launch)
        pipeline.get_by_name("origin").set_property("location", self._url())
        link_origin(self._gst, pipeline)
        sink = pipeline.get_by_name("hls")
        sink.set_property("location", str(self._folder / "segment%05d.ts"))
        sink.set_property("playlist-location", str(self._folder / "live.m3u8"))
        pipeline.set_state(self._gst.Gst.State.PLAYING)
        self._pipeline = pipeline
        log.info("HLS started")

    def _stop(self) -> None:
        if self._pipeline is None:
            return
        self._pipeline.set_state(self._gst.Gst.State.NULL)
        self._pipeline = None
        shutil.rmtree(self._folder, ignore_errors=True)
        log.info("HLS stopped")

    def _has_failed(self) -> bool:
        kinds = self._gst.Gst.MessageType
        return self._pipeline.get_bus().pop_filtered(kinds.ERROR | kinds.EOS) is not None


def _wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + _HLS_START_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise Busy("no HLS segment yet", hint="try again")
        time.sleep(0.1)
