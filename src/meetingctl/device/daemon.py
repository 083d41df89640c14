"""What the daemons of a device share at their start: words, logging, stop signals and exit codes.

A daemon is a module of its own, `python -P -m meetingctl.device.NAME`, so that its process holds nothing of the command
line. `meetingctl device NAME run` replaces itself by it and hands over what it needs of the environment as words.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meetingctl.core.errors import ConfigError, MeetingctlError
from meetingctl.core.log import set_up_logging
from meetingctl.device.notify import Notifier
from meetingctl.device.system import System

# mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX.
_MALLOC = {-1: 128 * 1024, -3: 64 * 1024, -8: 1}
EXIT_FAILED = 1
EXIT_CONFIG = 78

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """What a daemon is started with."""

    root: Path
    notify_socket: str = ""
    log_level: str = "info"
    log_format: str = "text"
    path: str = ""

    def system(self) -> System:
        """Open the device."""
        return System(self.root, env={"PATH": self.path}) if self.path else System(self.root)

    def notifier(self) -> Notifier:
        return Notifier(self.notify_socket)

    def words(self) -> list[str]:
        """Write it as command-line words that `parse_launch` reads back."""
        pairs = {
            "root": str(self.root),
            "notify-socket": self.notify_socket,
            "log-level": self.log_level,
            "log-format": self.log_format,
            "path": self.path,
        }
        return [f"--{name}={value}" for name, value in pairs.items() if value]


def launch_of(env: Mapping[str, str], root: Path, *, log_level: str, log_format: str) -> Launch:
    """Take from an environment what a daemon needs of it."""
    return Launch(root, env.get("NOTIFY_SOCKET", ""), log_level, log_format, env.get("PATH", ""))


def argv_of(module: str, launch: Launch, more: Sequence[str] = ()) -> list[str]:
    """Return the program and words that start a daemon; `-P` keeps the current folder out of the imports."""
    return [sys.executable, "-P", "-m", module, *launch.words(), *more]


def parse_launch(
    words: Sequence[str], parser: argparse.ArgumentParser | None = None
) -> tuple[Launch, argparse.Namespace]:
    """Read the words of a daemon; `parser` may bring options of its own."""
    parser = parser or argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--root", type=Path, default=Path("/"))
    parser.add_argument("--notify-socket", default="")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--log-format", default="text", choices=("text", "json"))
    parser.add_argument("--path", default="")
    given = parser.parse_args(words)
    launch = Launch(given.root, given.notify_socket, given.log_level, given.log_format, given.path)
    return launch, given


def run_daemon(launch: Launch, body: Callable[[], None]) -> int:
    """Run a daemon to its end and return its exit code: 0, 1, or 78 for a configuration that must be corrected.

    An expected error is one line in the log with its next step; anything else is a fault, with its traceback.
    """
    set_up_logging(level=launch.log_level, style=launch.log_format)
    spare_memory()
    try:
        body()
    except MeetingctlError as error:
        hint = {"hint": error.hint} if error.hint else {}
        log.error(error.message, extra=hint)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    except Exception:
        log.exception("unexpected: this is a fault of meetingctl")
        return EXIT_FAILED
    return 0


def spare_memory() -> None:
    """Tell the C library to keep few pools of memory and to give back what is free; where it cannot, go on.

    Media libraries allocate in many threads, each of which would get a pool of its own: a stream with snapshots, HLS
    and a second stream took 100 MiB instead of 70.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in _MALLOC.items():
        mallopt(parameter, value)


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set from now on. Call it in the main thread of a daemon."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
