"""The one worker that looks at recordings: facts and thumbnail of each, one file at a time, at low priority."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import read_config
from meetingctl.device.media.cache import MediaCache
from meetingctl.device.media.files import media_files
from meetingctl.device.media.probe import probe
from meetingctl.device.media.thumbnail import is_fresh, make_thumbnail
from meetingctl.device.system import System

LARGEST_QUEUE = 100
_STOP_DEADLINE_S = 5.0
_REOPEN_AFTER_S = 60.0

log = logging.getLogger(__name__)
Task = Literal["look", "forget", "refresh"]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with a recording (a device path)."""

    task: Task
    filepath: str = ""


class MediaWorker:
    """Keep the media cache: `add` closed recordings, `forget` deleted ones, `refresh` everything.

    A file that waits or runs already is not queued twice; what does not fit into the queue is dropped and found again
    by the next refresh. The database is opened and used in the worker's thread only.
    """

    def __init__(self, system: System, *, largest_queue: int = LARGEST_QUEUE) -> None:
        self._system = system
        self._largest_queue = largest_queue
        self._jobs: deque[Job] = deque()
        self._backlog: deque[str] = deque()
        self._current: Job | None = None
        self._change = threading.Condition()
        self._needs_refresh = False
        self._is_stopping = False
        self._is_running = False
        self._thumbnails = self._metadata = self._errors = 0

    def add(self, filepath: str) -> bool:
        """Look at a recording soon; False when it is queued already or the queue is full."""
        return self._put(Job("look", filepath))

    def forget(self, filepath: str) -> bool:
        """Drop what is known of a deleted recording; a full queue leaves it to a refresh."""
        is_queued = self._put(Job("forget", filepath))
        if not is_queued:
            self._needs_refresh = True
        return is_queued

    def refresh(self) -> bool:
        """Remove orphans, add files that are new, make thumbnails that are missing."""
        return self._put(Job("refresh"))

    def status(self) -> dict[str, Any]:
        """Return the figures of the worker as the web page shows them."""
        with self._change:
            return {
                "running": self._is_running,
                "queue_size": len(self._jobs) + len(self._backlog),
                "thumbnails_generated": self._thumbnails,
                "metadata_extracted": self._metadata,
                "errors": self._errors,
            }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Work while the block runs, beginning with a refresh; a running ffmpeg is stopped at its end."""
        self.refresh()
        thread = threading.Thread(target=self._work, name="media", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._change:
                self._is_stopping = True
                self._change.notify_all()
            thread.join(_STOP_DEADLINE_S)

    def _put(self, job: Job) -> bool:
        with self._change:
            if job == self._current or job in self._jobs:
                return False
            if len(self._jobs) >= self._largest_queue:
                log.debug("media queue is full", extra={"dropped": job.filepath})
                return False
            self._jobs.append(job)
            self._change.notify_all()
            return True

    def _next(self) -> Job | None:
        """Wait for the next job; None when the worker must stop. What was asked for goes before the backlog."""
        with self._change:
            self._current = None
            while not self._is_stopping:
                if self._jobs:
                    self._current = self._jobs.popleft()
                    return self._current
                if self._needs_refresh:
                    self._needs_refresh = False
                    self._current = Job("refresh")
                    return self._current
                if self._backlog:
                    self._current = Job("look", self._backlog.popleft())
                    return self._current
                self._change.wait()
            return None

    def _work(self) -> None:
        while not self._should_stop():
            try:
                with MediaCache(self._system) as cache:
                    self._is_running = True
                    while (job := self._next()) is not None:
                        self._do(cache, job)
            except MeetingctlError as error:
                log.warning("no media cache", extra={"problem": error.message})
                self._errors += 1
                with self._change:
                    self._change.wait_for(self._should_stop, _REOPEN_AFTER_S)
            finally:
                self._is_running = False

    def _do(self, cache: MediaCache, job: Job) -> None:
        try:
            match job.task:
                case "look":
                    self._look(cache, job.filepath)
                case "forget":
                    cache.forget(job.filepath)
                case "refresh":
                    self._refresh(cache)
        except (OSError, sqlite3.Error, MeetingctlError) as error:
            self._errors += 1
            log.warning("recording not looked at", extra={"recording": job.filepath, "problem": str(error)})

    def _look(self, cache: MediaCache, filepath: str) -> None:
        """Write the facts of one file and make its thumbnail, each only when it is missing or old."""
        path = self._system.path(filepath)
        if not path.is_file():
            cache.forget(filepath)
            return
        if not cache.is_current(filepath):
            metadata = probe(self._system, path, should_stop=self._should_stop)
            cache.note_file(filepath, metadata)
            self._count(metadata is not None, "_metadata")
        if not is_fresh(self._system, filepath):
            made = make_thumbnail(self._system, filepath, should_stop=self._should_stop)
            self._count(made, "_thumbnails")
        cache.note_thumbnail(filepath)

    def _count(self, is_done: bool, figure: str) -> None:
        if self._should_stop() and not is_done:
            return
        name = figure if is_done else "_errors"
        with self._change:
            setattr(self, name, getattr(self, name) + 1)

    def _refresh(self, cache: MediaCache) -> None:
        cache.remove_orphans()
        record_dir = read_config(self._system).config.record_dir
        known = {row["filepath"]: row for row in cache.rows()}
        missing = []
        for filepath in media_files(self._system, record_dir):
            row = known.get(filepath)
            if row is None or not row["thumbnail_generated"] or not cache.is_current(filepath):
                missing.append(filepath)
        with self._change:
            self._backlog = deque(missing)

    def _should_stop(self) -> bool:
        return self._is_stopping
