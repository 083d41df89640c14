"""The recorder daemon: wait for the stream, record it, start again when it breaks, keep room, tell how it goes."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from meetingctl.core.errors import Conflict, MeetingctlError, NotFound, StorageFull
from meetingctl.core.layout import RECORDER_INPUT
from meetingctl.device.config import DeviceConfig, Loaded, Problem, changed_keys, find_key
from meetingctl.device.notify import Notifier
from meetingctl.device.recorder.command import Source, record_argv, render_input
from meetingctl.device.recorder.folder import RecordFolder
from meetingctl.device.recorder.orphan import end_orphan
from meetingctl.device.recorder.pace import LONGEST_DELAY_S, Growth, failures_after, retry_delay_s
from meetingctl.device.recorder.progress import Progress, read_progress, write_progress
from meetingctl.device.recorder.roomkeeper import RoomKeeper
from meetingctl.device.recorder.source import Return, find_source
from meetingctl.device.recorder.supervision import TICK_S, Run, Supervision
from meetingctl.device.system import System

PUBLISH_EVERY_S = 2.0
# The room keeper reads these at its next look; a change of any other key of the recorder needs a new ffmpeg.
_ROOM_KEYS = frozenset({"MIN_FREE_DISK_MB", "MAX_DISK_MB", "PRUNE_CHECK_INTERVAL", "LOG_MAX_SIZE_MB", "LOG_DIR"})

log = logging.getLogger(__name__)


class MissingProgram(MeetingctlError):
    """A program that the recorder cannot work without is not installed."""


class Recorder:
    """Record until `stop` is set; `reload` makes it read config.env again.

    `on_closed` and `on_deleted` are told the device paths of recordings that are complete or gone, each from its own
    thread; `media_status` is published with the progress.
    """

    def __init__(
        self,
        system: System,
        read_config: Callable[[System], Loaded],
        notifier: Notifier,
        *,
        stop: threading.Event,
        reload: threading.Event,
        on_closed: Callable[[str], object] = lambda path: None,
        on_deleted: Callable[[str], object] = lambda path: None,
        media_status: Callable[[], Mapping[str, Any]] = dict,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._system = system
        self._read_config = read_config
        self._notifier = notifier
        self._stop = stop
        self._reload = reload
        self._on_closed = on_closed
        self._media_status = media_status
        self._chance = chance
        self._config = DeviceConfig()
        self._needs_new_run = False
        self._progress = Progress(pid=os.getpid())
        self._published_s = float("-inf")
        self._told = ""
        self._room = RoomKeeper(system, on_deleted)

    def run(self) -> None:
        """Record until told to stop, or until RECORD_ENABLE is off.

        Raises: ConfigError; Conflict when another recorder holds the folder; MissingProgram without ffmpeg.
        """
        self._take_config(self._read_config(self._system))
        if not self._config.record_enable:
            self._notifier.ready("RECORD_ENABLE=no")
            self._publish(state="off", reason="RECORD_ENABLE=no")
            log.info("recording is off", extra={"key": "RECORD_ENABLE"})
            return
        self._notifier.ready()
        try:
            with self._room.running():
                self._record()
        finally:
            self._notifier.stopping()
            off = not self._config.record_enable
            self._publish(state="off" if off else "stopped", segment=None, bytes=0, reason="", ffmpeg_pid=0)

    def _record(self) -> None:
        while self._should_go_on():
            self._needs_new_run = False
            try:
                folder = RecordFolder(self._system, self._config.record_dir)
                with folder.held():
                    earlier = read_progress(self._system) or {}
                    end_orphan(int(earlier.get("ffmpeg_pid") or 0), folder.live_path)
                    self._record_in(folder)
            except (Conflict, MissingProgram):
                raise
            except MeetingctlError as error:
                state = "disk_full" if isinstance(error, StorageFull) else "folder_error"
                self._tell(error.message, error.hint or "")
                self._publish(state=state, segment=None, bytes=0, reason=error.message, hint=error.hint or "")
                self._room.look_now()
                self._pause(LONGEST_DELAY_S)

    def _record_in(self, folder: RecordFolder) -> None:
        """Record into one folder until the daemon stops or the folder changes."""
        self._take_leftovers(folder)
        self._room.look_now()
        failures = 0
        while self._should_go_on() and self._config.record_dir == folder.device_path and folder.is_still_held():
            source = find_source(self._system, self._config)
            run = self._run_once(folder, source)
            if not run.is_failure:
                self._publish(segment=None, bytes=0)  # at once: its folder may be gone, and another be made
                self._take_leftovers(folder)
                continue
            self._take_leftovers(folder)
            failures = failures_after(failures, run.recorded_s)
            self._explain(run, failures)
            delay_s = retry_delay_s(failures, self._chance())
            self._pause(delay_s, until_back=Return(source))

    def _run_once(self, folder: RecordFolder, source: Source) -> Run:
        self._needs_new_run = False
        self._system.write(RECORDER_INPUT, render_input(source), mode=0o600)
        here = folder.device_path
        self._progress = replace(self._progress, source=source.shown, record_dir=here, segment=None, bytes=0)
        input_path = self._system.path(RECORDER_INPUT)
        supervision = Supervision(
            self._system,
            folder,
            on_segment=lambda name: self._segment_closed(folder, name),
            on_start=lambda pid: self._publish(ffmpeg_pid=pid),
            on_tick=lambda growth: self._look(folder, growth),
            should_stop=lambda: not self._should_go_on() or self._needs_new_run,
        )
        try:
            return supervision.run(record_argv(input_path, folder.live_path, self._config.segment_seconds))
        except NotFound as error:
            raise MissingProgram(error.message, hint="sudo apt-get install -y ffmpeg") from error
        finally:
            with contextlib.suppress(OSError):
                input_path.unlink(missing_ok=True)

    def _look(self, folder: RecordFolder, growth: Growth) -> None:
        """Publish how the run goes: at once when it starts to write, else every two seconds."""
        if not folder.is_still_held() and not self._needs_new_run:
            self._needs_new_run = True
            log.warning("the folder of the recordings is another one now", extra={"folder": folder.device_path})
        if growth.size_bytes and self._progress.state != "recording":
            log.info("recording", extra={"segment": growth.name, "source": self._progress.source})
            self._told = ""
            self._publish(state="recording", reason="", hint="", failures=0)
        now_s = self._system.clock.monotonic_s()
        if now_s - self._published_s >= PUBLISH_EVERY_S:
            grew_s = growth.grew_at_s if growth.size_bytes else self._progress.grew_monotonic_s
            self._publish(segment=growth.name or None, bytes=growth.size_bytes, grew_monotonic_s=grew_s)

    def _explain(self, run: Run, failures: int) -> None:
        """Tell why a run ended: in the log once per reason, in the published facts always."""
        ending = run.ending
        self._tell(ending.reason, ending.hint)
        if ending.is_disk_full:
            self._room.look_now()
        self._publish(
            state="disk_full" if ending.is_disk_full else "waiting",
            segment=None,
            bytes=0,
            failures=failures,
            restarts=self._progress.restarts + 1,
            reason=ending.reason,
            hint=ending.hint,
        )

    def _tell(self, reason: str, hint: str) -> None:
        if reason == self._told:
            log.debug("still waiting", extra={"reason": reason})
            return
        self._told = reason
        log.warning("not recording", extra={"reason": reason, **({"hint": hint} if hint else {})})

    # Segments.

    def _take_leftovers(self, folder: RecordFolder) -> None:
        for name in folder.settle_all():
            self._segment_closed(folder, name)

    def _segment_closed(self, folder: RecordFolder, name: str) -> None:
        log.info("segment closed", extra={"segment": name})
        self._room.protect(name)
        self._progress = replace(self._progress, segments_closed=self._progress.segments_closed + 1)
        self._on_closed(f"{folder.device_path.rstrip('/')}/{name}")

    # Waiting and settings.

    def _should_go_on(self) -> bool:
        """Take a new configuration when one was asked for; say whether to go on recording."""
        if self._reload.is_set():
            self._reload.clear()
            self._take_new_config()
        return not self._stop.is_set() and self._config.record_enable

    def _pause(self, delay_s: float, *, until_back: Return | None = None) -> None:
        """Wait, unless the stream is back before, the settings change or the daemon stops."""
        clock = self._system.clock
        deadline_s = clock.monotonic_s() + delay_s
        while clock.monotonic_s() < deadline_s and self._should_go_on() and not self._needs_new_run:
            self._stop.wait(TICK_S)
            if clock.monotonic_s() - self._published_s >= PUBLISH_EVERY_S:
                self._publish()
            if until_back is not None and until_back.is_back(find_source(self._system, self._config)):
                return

    def _take_config(self, loaded: Loaded) -> None:
        self._config = loaded.require("R")
        self._room.configure(self._config)
        for problem in _own_problems(loaded):
            log.warning("config.env: the default counts", extra={"problem": problem.text()})

    def _take_new_config(self) -> None:
        """Read config.env again; a file with a fault changes nothing."""
        try:
            loaded = self._read_config(self._system)
            loaded.require("R")
        except MeetingctlError as error:
            log.warning("config.env: kept the earlier settings", extra={"problem": error.message})
            return
        if problems := _own_problems(loaded):
            log.warning("config.env: kept the earlier settings", extra={"problem": problems[0].text()})
            return
        changed = [name for name in changed_keys(self._config, loaded.config) if "R" in find_key(name).readers]
        self._take_config(loaded)
        self._needs_new_run = self._needs_new_run or any(name not in _ROOM_KEYS for name in changed)
        log.info("config.env read again", extra={"changed": ",".join(changed) or "nothing"})

    # Telling.

    def _publish(self, **changes: Any) -> None:
        """Write the progress and feed systemd's watchdog; a failure to write is no reason to stop recording."""
        space = self._room.facts()
        self._progress = replace(self._progress, **changes, space=space, media=self._media_status())
        self._published_s = self._system.clock.monotonic_s()
        self._notifier.alive(f"{self._progress.state} {self._progress.reason}".strip())
        try:
            write_progress(self._system, self._progress)
        except MeetingctlError as error:
            log.debug("progress not written", extra={"problem": error.message})


def _own_problems(loaded: Loaded) -> list[Problem]:
    """Return the faults of the file that matter to the recorder."""
    return [problem for problem in loaded.faults() if problem.kind == "broken" or "R" in problem.readers]
