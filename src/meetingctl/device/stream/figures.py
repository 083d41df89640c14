"""What the stream daemon tells about itself: one JSON object for other daemons, and text for Prometheus."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

_WINDOW_S = 3.0


class Rates:
    """Frames and bits per second over the last seconds, from totals that are sampled now and then."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=64)

    def sample(self, now_s: float, frames: int, size_bytes: int) -> None:
        """Add totals; a total that went back means new media, and starts again."""
        if self._samples and frames < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now_s, frames, size_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()

    def clear(self) -> None:
        self._samples.clear()

    @property
    def fps(self) -> float:
        return self._slope(1)

    @property
    def bitrate_bps(self) -> int:
        return round(8 * self._slope(2))

    def _slope(self, index: int) -> float:
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        passed_s = last[0] - first[0]
        return (last[index] - first[index]) / passed_s if passed_s > 0 else 0.0


# Status key, name for Prometheus, type, help.
_METRICS = (
    ("clients", "meetingctl_stream_clients", "gauge", "Viewers that play."),
    ("local_clients", "meetingctl_stream_local_clients", "gauge", "Readers on this device, such as the recorder."),
    ("connections", "meetingctl_stream_connections", "gauge", "Open RTSP connections."),
    ("fps", "meetingctl_stream_fps", "gauge", "Frames per second that leave the encoder."),
    ("bitrate_bps", "meetingctl_stream_bitrate_bps", "gauge", "Bits per second that leave the encoder."),
    ("last_buffer_age_s", "meetingctl_stream_last_buffer_age_seconds", "gauge", "Age of the last frame."),
    ("media_started", "meetingctl_stream_media_started_total", "counter", "Times the source was opened."),
    ("media_errors", "meetingctl_stream_media_errors_total", "counter", "Failures of a running pipeline."),
    ("stalls", "meetingctl_stream_stalls_total", "counter", "Times a silent source cost the viewers their link."),
    ("restarts", "meetingctl_stream_restarts_total", "counter", "Failures and stalls together."),
    ("uptime_s", "meetingctl_stream_uptime_seconds", "gauge", "Time since the daemon started."),
)


def prometheus_text(status: Mapping[str, Any]) -> str:
    """Write the numbers of a status; what is unknown now is left out."""
    lines: list[str] = []
    for key, name, kind, text in _METRICS:
        value = status.get(key)
        if value is not None:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    labels = ",".join(f'{key}="{_label(status.get(key) or "")}"' for key in ("source", "encoder", "sound", "state"))
    lines += [
        "# HELP meetingctl_stream_info What runs.",
        "# TYPE meetingctl_stream_info gauge",
        f"meetingctl_stream_info{{{labels}}} 1",
    ]
    return "\n".join(lines) + "\n"


def flow_state(*, running: int, players: int, age_s: float | None, stall_s: float) -> str:
    """Name the state of a stream: idle without media, stalled when viewers get nothing, else live."""
    if not running:
        return "idle"
    return "stalled" if players and age_s is not None and age_s > stall_s else "live"


def youngest_age_s(last_buffers_s: Iterable[float], now_s: float) -> float | None:
    """Return the age of the newest frame of all media, None without media."""
    newest = max(last_buffers_s, default=None)
    return None if newest is None else round(max(0.0, now_s - newest), 3)


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
