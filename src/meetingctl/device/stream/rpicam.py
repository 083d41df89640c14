"""A CSI camera through `rpicam-vid`, which draws a text into the picture before its hardware encodes it.

That is CSI_OVERLAY_MODE=libcamera: no second encoding, but no date and time, and no controls while it runs. The drawing
is done by the `annotate_cv` stage of Debian's rpicam-apps-opencv-postprocess.
Source: seed 002 sections 3 and 9.4; rpicam-apps documentation of the post-processing stages.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import RPICAM_OVERLAY_JSON
from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.gstreamer import Gstreamer
from meetingctl.device.system import Child, System

PROGRAM = "rpicam-vid"
_CHUNK_BYTES = 64 * 1024
_GRACE_S = 2.0
_POINTS_PER_SCALE = 24  # a font size of 24 is about OpenCV's scale 1

log = logging.getLogger(__name__)


def rpicam_argv(config: DeviceConfig, camera: int, overlay_file: str) -> list[str]:
    """Return the command that writes the camera's H.264 to its standard output, without end."""
    argv = [PROGRAM, "--camera", str(camera), "--timeout", "0", "--nopreview", "--flush"]
    argv += ["--width", str(config.videoin_width), "--height", str(config.videoin_height)]
    argv += ["--framerate", str(config.videoin_fps), "--codec", "h264", "--inline"]
    argv += ["--bitrate", str(config.h264_bitrate_kbps * 1000), "--intra", str(config.h264_keyint)]
    if config.h264_profile:
        argv += ["--profile", config.h264_profile]
    return [*argv, "--post-process-file", overlay_file, "--output", "-"]


def overlay_stage(text: str, font_size: int) -> dict[str, Any]:
    """Return the post-processing file: `%` would be a token of the stage, so each stands twice."""
    drawn = {"text": text.replace("%", "%%"), "fg": 255, "bg": 0, "alpha": 0.4, "thickness": 2}
    return {"annotate_cv": {**drawn, "scale": round(font_size / _POINTS_PER_SCALE, 2)}}


class RpicamVid:
    """One process while somebody watches."""

    def __init__(
        self, system: System, gst: Gstreamer, config: DeviceConfig, camera: int, text: str, font_size: int
    ) -> None:
        self._system = system
        self._gst = gst
        self._config = config
        self._camera = camera
        self._stage = overlay_stage(text, font_size)
        self._lock = threading.Lock()
        self._running: tuple[Any, Child] | None = None

    def start(self, appsrc: Any) -> None:
        """Start the program and push what it writes. A failure ends the media with its text in the log."""
        file = str(self._system.path(RPICAM_OVERLAY_JSON))
        try:
            self._system.write(RPICAM_OVERLAY_JSON, json.dumps(self._stage), mode=0o644)
            child = self._system.spawn(*rpicam_argv(self._config, self._camera, file), stdout="pipe", stderr="pipe")
        except MeetingctlError as error:
            log.error("rpicam-vid does not start", extra={"error": error.message})
            appsrc.end_of_stream()
            return
        with self._lock:
            self._running = (appsrc, child)
        threading.Thread(target=self._complain, args=(child,), name="rpicam-vid messages", daemon=True).start()
        threading.Thread(target=self._push, args=(appsrc, child), name="rpicam-vid", daemon=True).start()

    def stop(self, appsrc: Any) -> None:
        with self._lock:
            if self._running is None or self._running[0] is not appsrc:
                return
            child, self._running = self._running[1], None
        child.stop(grace_s=_GRACE_S)

    def request_keyframe(self) -> None:
        """The program takes no requests: the next keyframe comes after H264_KEYINT frames."""

    def _push(self, appsrc: Any, child: Child) -> None:
        assert child.stdout is not None
        try:
            while chunk := os.read(child.stdout.fileno(), _CHUNK_BYTES):
                appsrc.push_buffer(self._gst.Gst.Buffer.new_wrapped(chunk))
        except (OSError, ValueError):  # the pipe was closed by `stop`
            return
        with self._lock:
            is_ours = self._running is not None and self._running[1] is child
        if is_ours:
            log.error("rpicam-vid ended", extra={"code": child.wait(_GRACE_S)})
            appsrc.end_of_stream()

    def _complain(self, child: Child) -> None:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                log.debug("rpicam-vid", extra={"line": line.decode("utf-8", "replace").rstrip()[:300]})
        except (OSError, ValueError):
            return
