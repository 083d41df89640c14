"""What the watchdog looks at: values, and the functions that read them from the device."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from meetingctl.core.errors import AuthError, Busy, InvalidInput, MeetingctlError, NotFound, Unreachable
from meetingctl.device.recorder import progress
from meetingctl.device.rtsp import Endpoint, check_options, describe
from meetingctl.device.stream.control import ask_daemon
from meetingctl.device.system import System
from meetingctl.device.units import Unit

PROBE_TIMEOUT_S = 10.0
_STATUS_TIMEOUT_S = 5.0
_LOG_TAIL_BYTES = 64 * 1024
_LOG_TAIL_LINES = 100
_ALSA_ERROR = b"No such device"

ProbeOutcome = Literal["ok", "unreachable", "refused", "missing", "unavailable", "wrong"]


class StreamStatus(NamedTuple):
    """Figures of the stream daemon. `clients` are viewers and readers on the device, such as the recorder.

    The age is None while no source is open; `source` is the kind of it: usb, csi, libcamera, rtsp, mjpeg, screen, test.
    `host` is the address that viewers connect to, empty for every address.
    """

    clients: int
    last_buffer_age_s: float | None
    source: str = ""
    host: str = ""


class Probe(NamedTuple):
    """How the RTSP server answered."""

    method: str
    outcome: ProbeOutcome
    detail: str = ""


class Progress(NamedTuple):
    """How far the recorder is: its state in its own words, the open segment and the size of it."""

    state: str
    segment: str
    bytes: int


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


def parse_status(value: Mapping[str, Any]) -> StreamStatus | None:
    """Read the state of the stream daemon; None when it is not what the daemon tells."""
    clients = _number(value.get("clients"))
    if clients is None:
        return None
    local_clients = _number(value.get("local_clients")) or 0
    host = str(value.get("host") or "")
    return StreamStatus(
        int(clients + local_clients),
        _number(value.get("last_buffer_age_s")),
        str(value.get("source") or ""),
        "" if host in ("0.0.0.0", "::") else host,  # noqa: S104 - only compared
    )


def parse_progress(value: Mapping[str, Any]) -> Progress | None:
    """Read the recorder's progress file; None when it is not what the recorder writes."""
    size = _number(value.get("bytes"))
    if size is None:
        return None
    return Progress(str(value.get("state") or ""), str(value.get("segment") or ""), int(size))


def count_alsa_errors(tail: bytes) -> int:
    """Count lines about a lost sound device among the last 100 lines of a log."""
    return sum(_ALSA_ERROR in line for line in tail.splitlines()[-_LOG_TAIL_LINES:])


def read_status(system: System) -> StreamStatus | None:
    """Ask the stream daemon for its state; None when it does not answer."""
    try:
        return parse_status(ask_daemon(system, "status", timeout_s=_STATUS_TIMEOUT_S))
    except MeetingctlError:
        return None


def read_progress(system: System) -> Progress | None:
    """Return how far the recorder is, None when it has not written that."""
    found = progress.read_progress(system)
    return None if found is None else parse_progress(found)


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


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return value if is_number else None
