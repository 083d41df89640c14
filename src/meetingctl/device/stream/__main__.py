"""`python -m meetingctl.device.stream`: the stream daemon as a process of its own."""

from __future__ import annotations

import argparse
import sys

from meetingctl.core.layout import CSI_CONTROL_PORT
from meetingctl.device.daemon import parse_launch, run_daemon


def main() -> int:
    """Serve until a signal says stop."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - a camera serves its network
    parser.add_argument("--http-port", type=int, default=CSI_CONTROL_PORT)
    launch, given = parse_launch(sys.argv[1:], parser)

    def body() -> None:
        from meetingctl.device.stream.daemon import Options, StreamDaemon

        StreamDaemon(launch.system(), launch.notifier(), Options(given.host, given.http_port)).run()

    return run_daemon(launch, body)


if __name__ == "__main__":
    sys.exit(main())
