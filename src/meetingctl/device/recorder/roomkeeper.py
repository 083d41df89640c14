"""The thread that looks after the disk while the recorder records."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import DeviceConfig
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.recorder.housekeeping import apply_cleanup, plan_start, read_litter
from meetingctl.device.recorder.room import Room, make_room
from meetingctl.device.system import System

_STOP_DEADLINE_S = 5.0

log = logging.getLogger(__name__)


class RoomKeeper:
    """Make room at the start, at every interval, and when asked; `on_deleted` gets device paths, in this thread."""

    def __init__(self, system: System, on_deleted: Callable[[str], object]) -> None:
        self._system = system
        self._on_deleted = on_deleted
        self._config = DeviceConfig()
        self._protected = ""
        self._room: Room | None = None
        self._told = ""
        self._wake = threading.Event()
        self._is_stopping = False

    def configure(self, config: DeviceConfig) -> None:
        """Use these limits from the next look on."""
        self._config = config

    def protect(self, name: str) -> None:
        """Keep the recording that was closed last, even if a clock that jumped makes it look old."""
        self._protected = name

    def look_now(self) -> None:
        """Look at the disk now, not at the next interval."""
        self._wake.set()

    def facts(self) -> dict[str, Any]:
        """Return the result of the last look for the published progress."""
        room = self._room
        if room is None:
            return {}
        return {
            "free_bytes": room.space.free_bytes,
            "folder_bytes": room.space.folder_bytes,
            "level": room.level,
            "problem": room.problem,
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep room while the block runs."""
        thread = threading.Thread(target=self._work, name="room", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_stopping = True
            self._wake.set()
            thread.join(_STOP_DEADLINE_S)

    def _work(self) -> None:
        with contextlib.suppress(MeetingctlError):
            litter = read_litter(self._system, self._config.log_dir)
            apply_cleanup(self._system, plan_start(litter))
        while not self._is_stopping:
            self._look()
            self._wake.wait(self._config.prune_check_interval)
            self._wake.clear()

    def _look(self) -> None:
        config, protected = self._config, self._protected
        folder = RecordFolder(self._system, config.record_dir)
        try:
            room = make_room(
                self._system,
                folder,
                config,
                protected={protected},
                on_deleted=lambda name: self._on_deleted(f"{folder.device_path.rstrip('/')}/{name}"),
            )
        except MeetingctlError as error:
            log.debug("no look at the disk", extra={"problem": error.message})
            return
        self._room = room
        if room.deleted or room.freed_bytes:
            log.info("made room", extra={"deleted": len(room.deleted), "freed_bytes": room.freed_bytes})
        if room.problem and room.problem != self._told:
            log.warning("short of space", extra={"problem": room.problem, "free_bytes": room.space.free_bytes})
        self._told = room.problem
