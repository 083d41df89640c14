"""`python -m meetingctl.device.recorder`: the recorder as a process of its own."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

from meetingctl.device.config import read_config
from meetingctl.device.daemon import Launch, parse_launch, run_daemon, stop_event
from meetingctl.device.media.worker import MediaWorker
from meetingctl.device.recorder.recorder import Recorder


def main(words: Sequence[str]) -> int:
    """Run the recorder until SIGTERM or SIGINT; SIGHUP makes it read config.env again. Returns 0, 1 or 78."""
    launch, _ = parse_launch(words)
    return run_daemon(launch, lambda: _record(launch))


def _record(launch: Launch) -> None:
    stop = stop_event()
    reload = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    system = launch.system()
    worker = MediaWorker(system)
    recorder = Recorder(
        system,
        read_config,
        launch.notifier(),
        stop=stop,
        reload=reload,
        on_closed=worker.add,
        on_deleted=worker.forget,
        media_status=worker.status,
    )
    with worker.running():
        recorder.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
