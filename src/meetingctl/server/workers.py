"""Several API processes on one PostgreSQL behind one listening socket.

The parent binds the socket and forks before any thread exists; the kernel gives each connection to one of the children.
The first child comes up alone: it migrates, makes the first key and the pool of ports, and says so; then the others
follow. A child that dies is replaced, later each time it dies young.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meetingctl.core.errors import ConfigError, MeetingctlError
from meetingctl.core.settings import Settings
from meetingctl.server.db.engine import database_url
from meetingctl.server.run import bind_listener, check_mode, serve_all

log = logging.getLogger(__name__)

API_ONLY = frozenset({"api"})
START_S = 120.0  # the first child may have migrations to run
YOUNG_S = 10.0
BACKOFF_MAX_S = 30.0
KILL_AFTER_S = 10.0  # beyond the drain
_POLL_S = 0.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Worker:
    """One place among the workers, and the process that fills it; pid 0 while it waits for its next start."""

    pid: int = 0
    started_s: float = 0.0
    start_at_s: float = 0.0
    young_deaths: int = 0


def check_workers(settings: Settings, data_dir: Path, parts: frozenset[str]) -> None:
    """Raises: ConfigError unless several processes can share the work."""
    if database_url(settings.db_url, data_dir).get_backend_name() == "sqlite":
        raise ConfigError(
            f"{settings.api_workers} workers need PostgreSQL: SQLite has one writer",
            hint="meetingctl serve api --workers 1, or name a database with --db postgresql://USER@HOST/NAME",
        )
    if parts != API_ONLY:
        raise ConfigError(
            "only the API runs in several processes",
            hint="meetingctl serve api --workers N, and meetingctl serve tunnel beside it",
        )


def next_start_delay_s(lived_s: float, young_deaths: int) -> float:
    """Return how long to wait before a dead worker is replaced: at once after a long life, else ever longer. Pure."""
    return 0.0 if lived_s >= YOUNG_S else min(BACKOFF_MAX_S, 0.5 * 2 ** min(young_deaths, 16))


def serve_workers(
    settings: Settings,
    data_dir: Path,
    parts: frozenset[str] = API_ONLY,
    *,
    announce: Callable[[str], object] = sys.stderr.write,
) -> None:
    """Serve with `settings.api_workers` processes until SIGTERM or SIGINT.

    Raises: ConfigError, Busy for a taken port, MeetingctlError when the first worker does not come up.
    """
    check_mode(settings)
    check_workers(settings, data_dir, parts)
    listener = bind_listener(settings.api_listen)
    with contextlib.closing(listener), _stop_pipe() as stop:
        crew = Crew(settings, data_dir, listener, stop)
        try:
            crew.start(announce)
            crew.watch()
        finally:
            crew.stop()


class Crew:
    """The children of one parent."""

    def __init__(self, settings: Settings, data_dir: Path, listener: socket.socket, stop: int) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._listener = listener
        self._stop = stop
        self._workers = [Worker() for _ in range(settings.api_workers)]

    def start(self, announce: Callable[[str], object]) -> None:
        """Bring up the first worker, wait for its word, then the others."""
        ready, word = os.pipe()
        self._fork(self._workers[0], word)
        os.close(word)
        try:
            readable, _, _ = select.select([ready, self._stop], [], [], START_S)
            if self._stop in readable:
                return
            welcome = os.read(ready, select.PIPE_BUF) if readable else b""
        finally:
            os.close(ready)
        if not welcome:  # it wrote its error itself
            raise MeetingctlError("the first worker did not start", hint="meetingctl serve api --workers 1")
        announce(welcome.decode())
        for worker in self._workers[1:]:
            self._fork(worker)

    def watch(self) -> None:
        """Replace the dead until a signal comes."""
        while not select.select([self._stop], [], [], _POLL_S)[0]:
            now_s = time.monotonic()
            for worker in self._workers:
                if worker.pid and _has_ended(worker.pid):
                    self._bury(worker, now_s)
                if not worker.pid and now_s >= worker.start_at_s:
                    self._fork(worker)

    def stop(self) -> None:
        """Let the children drain, kill what does not end, wait for all."""
        for worker in self._workers:
            if worker.pid:
                _send(worker.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + self._settings.drain_s + KILL_AFTER_S
        for worker in self._workers:
            while worker.pid and not _has_ended(worker.pid):
                if time.monotonic() > deadline_s:
                    log.error("worker does not stop, killing it", extra={"pid": worker.pid})
                    _send(worker.pid, signal.SIGKILL)
                    os.waitpid(worker.pid, 0)
                    break
                time.sleep(0.02)
            worker.pid = 0

    def _bury(self, worker: Worker, now_s: float) -> None:
        lived_s = now_s - worker.started_s
        delay_s = next_start_delay_s(lived_s, worker.young_deaths)
        worker.young_deaths = worker.young_deaths + 1 if lived_s < YOUNG_S else 0
        log.warning("worker ended", extra={"pid": worker.pid, "restart_in_s": delay_s})
        worker.pid, worker.start_at_s = 0, now_s + delay_s

    def _fork(self, worker: Worker, word: int | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_worker(word, parent)
        worker.pid, worker.started_s = pid, time.monotonic()

    def _be_worker(self, word: int | None, parent: int) -> None:
        """Never returns: serves, then ends the process without running what the parent has on its stack."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            _die_with(parent)
            serve_all(
                self._settings,
                self._data_dir,
                API_ONLY,
                announce=lambda text: _tell(word, text),
                listener=self._listener.dup(),
            )
            code = 0
        except MeetingctlError as exc:
            print(f"error: {exc.message}", *([f"\nhint: {exc.hint}"] if exc.hint else []), sep="\n", file=sys.stderr)
            code = exc.exit_code
        except KeyboardInterrupt:
            code = 130
        except BaseException:  # a boundary: the process ends here, its log must say why
            log.exception("worker failed")
        finally:
            sys.stderr.flush()
            os._exit(code)


def _tell(word: int | None, text: str) -> None:
    if word is not None:
        os.write(word, text.encode())
        os.close(word)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _die_with(parent: int) -> None:
    """Ask Linux for SIGTERM when the parent is killed, so that no worker outlives it."""
    import ctypes

    set_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


@contextlib.contextmanager
def _stop_pipe() -> Iterator[int]:
    """Give a descriptor that becomes readable at SIGTERM or SIGINT."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before_fd = signal.set_wakeup_fd(writer)
    before = {number: signal.signal(number, lambda *_: None) for number in _STOP_SIGNALS}
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
