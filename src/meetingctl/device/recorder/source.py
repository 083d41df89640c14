"""Where the stream is right now, and the wait for it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import STREAM_LOCAL_JSON
from meetingctl.device.config import DeviceConfig
from meetingctl.device.recorder.command import Source, choose_source
from meetingctl.device.system import System

_PROBE_S = 0.3


def find_source(system: System, config: DeviceConfig) -> Source:
    """Return the address of the stream; our stream daemon has a new local listener after each start."""
    try:
        local_listener = system.read(STREAM_LOCAL_JSON, limit_bytes=65536)
    except MeetingctlError:
        local_listener = None
    return choose_source(config, local_listener)


def is_listening(source: Source) -> bool:
    """Say whether something accepts connections at the address of a source."""
    try:
        with socket.create_connection((source.host, source.port), _PROBE_S) as probe:
            # On loopback a connection to a closed port can meet itself: TCP calls that a simultaneous open.
            return bool(probe.getsockname() != probe.getpeername())
    except OSError:
        return False


class Return:
    """Notice that a stream is back: its address changed, or its port was closed and is open again."""

    def __init__(self, source: Source, probe: Callable[[Source], bool] = is_listening) -> None:
        self._source = source
        self._probe = probe
        self._was_away = False

    def is_back(self, source: Source) -> bool:
        """Look once. A stream that was there all the time is not back: only the full delay helps then."""
        self._was_away = self._was_away or source != self._source
        if not self._probe(source):
            self._was_away = True
            return False
        return self._was_away
