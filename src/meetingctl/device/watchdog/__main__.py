"""The process of the watchdog: `python -P -m meetingctl.device.watchdog`."""

from __future__ import annotations

import sys

from meetingctl.device.daemon import parse_launch, run_daemon, stop_event
from meetingctl.device.watchdog.loop import run_watchdog

if __name__ == "__main__":
    launch, _ = parse_launch(sys.argv[1:])
    stop = stop_event()
    sys.exit(run_daemon(launch, lambda: run_watchdog(launch.system(), launch.notifier(), stop)))
