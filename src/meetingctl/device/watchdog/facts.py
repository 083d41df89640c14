"""What the watchdog looks at: values, and the functions that read them from the device."""

from __future__ import annotations

import http.client
import json
import os
import random
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from meetingctl.core import layout
from meetingctl.core.errors import AuthError, Busy, InvalidInput, MeetingctlError, NotFound, Unreachable
from meetingctl.device.rtsp import Endpoint, check_options, describe
from meetingctl.device.system import System
from meetingctl.device.units import Unit

PROBE_TIMEOUT_S = 10.0
_STATUS_TIMEOUT_S = 5.0
_LARGEST_STATUS_BYTES = 64 * 1024
_LOG_TAIL_BYTES = 64 * 1024
_LOG_TAIL_LINES = 100
_ALSA_ERROR = b"No such device"

ProbeOutcome = Literal["ok", "unreachable", "refused", "missing", "unavailable", "wrong"]


class StreamStatus(NamedTuple):
    """Figures of the stream daemon; the age is None while there was no buffer yet."""

    clients: int
    fps: float
    last_buffer_age_s: float | None
    restarts: int
    bitrate_bps: int


class Probe(NamedTuple):
    """How the RTSP server answered."""

    method: str
    outcome: ProbeOutcome
    detail: str = ""


class Progress(NamedTuple):
    """How far the recorder is; `updated_at` is its own wall clock, which may jump."""

    segment: str
    bytes: int
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that one decision is made of. `at_s` is on the monotonic clock; `chance` is random in [0, 1).

    `alsa_errors` counts in the newest lines of the stream's log since the last restart, which ends at `log_bytes`.
    """

    at_s: float
    unit: Unit
    status: StreamStatus | None = None
    probe: Probe | None = None
    camera_present: bool = True
    alsa_errors: int = 0
    log_bytes: int = 0
    recorder: Unit | None = None
    progress: Progress | None = None
    chance: float = 0.0


def parse_status(value: Any) -> StreamStatus | None:
    """Read the JSON of the stream's status; None when it is not what the daemon sends."""
    if not isinstance(value, dict):
        return None
    clients = _number(value.get("clients"))
    if clients is None:
        return None
    return StreamStatus(
        int(clients),
        _number(value.get("fps")) or 0.0,
        _number(value.get("last_buffer_age_s")),
        int(_number(value.get("restarts")) or 0),
        int(_number(value.get("bitrate_bps")) or 0),
    )


def parse_progress(text: str) -> Progress | None:
    """Read the recorder's progress file; None when it is not what the recorder writes."""
    value = _json(text)
    if not isinstance(value, dict) or (size := _number(value.get("bytes"))) is None:
        return None
    return Progress(str(value.get("segment") or ""), int(size), str(value.get("updated_at") or ""))


def count_alsa_errors(tail: bytes) -> int:
    """Count lines about a lost sound device among the last 100 lines of a log."""
    return sum(_ALSA_ERROR in line for line in tail.splitlines()[-_LOG_TAIL_LINES:])


def read_status(system: System) -> StreamStatus | None:
    """Ask the stream daemon for its figures; None when it does not answer."""
    connection = http.client.HTTPConnection(layout.CSI_CONTROL_HOST, _status_port(system), timeout=_STATUS_TIMEOUT_S)
    with closing(connection):
        try:
            connection.request("GET", layout.STREAM_STATUS_PATH)
            response = connection.getresponse()
            body = response.read(_LARGEST_STATUS_BYTES)
        except (OSError, http.client.HTTPException):
            return None
    return parse_status(_json(body.decode("utf-8", "replace"))) if response.status == 200 else None


def read_progress(system: System) -> Progress | None:
    """Return how far the recorder is, None when it has not written that."""
    try:
        return parse_progress(system.read(layout.RECORDER_PROGRESS_JSON))
    except MeetingctlError:
        return None


def read_log_tail(system: System, device_path: str, *, mark_bytes: int) -> tuple[bytes, int]:
    """Return the newest part of a log after `mark_bytes`, and where the log ends; a shorter log was cut meanwhile."""
    try:
        with system.path(device_path).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = mark_bytes if mark_bytes <= end else 0
            file.seek(max(start, end - _LOG_TAIL_BYTES))
            return file.read(_LOG_TAIL_BYTES), end
    except (OSError, InvalidInput):
        return b"", 0


def is_device_present(system: System, device_path: str) -> bool:
    """Say whether a video device is there."""
    try:
        return system.path(device_path).exists()
    except (OSError, InvalidInput):
        return False


def probe_stream(endpoint: Endpoint, method: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Ask the RTSP server as a viewer does. Never raises."""
    try:
        if method == "DESCRIBE":
            describe(endpoint, timeout_s=timeout_s)
        else:
            check_options(endpoint, timeout_s=timeout_s)
    except MeetingctlError as error:
        return Probe(method, _outcome(error), error.message)
    return Probe(method, "ok")


def draw_chance() -> float:
    """Return a random number in [0, 1) for the jitter."""
    return random.random()  # noqa: S311 - spreads restarts, guards nothing


def _outcome(error: MeetingctlError) -> ProbeOutcome:
    match error:
        case Unreachable():
            return "unreachable"
        case AuthError():
            return "refused"
        case NotFound():
            return "missing"
        case Busy():
            return "unavailable"
    return "wrong"


def _status_port(system: System) -> int:
    try:
        value = _json(system.read(layout.STREAM_LOCAL_JSON))
    except MeetingctlError:
        value = None
    port = _number(value.get("http_port")) if isinstance(value, dict) else None
    return int(port) if port is not None and 0 < port < 65536 else layout.CSI_CONTROL_PORT


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return value if is_number else None
