"""`python -m meetingctl.device.onvif`: the ONVIF daemon as a process of its own."""

from __future__ import annotations

import argparse
import sys

from meetingctl.core.layout import WS_DISCOVERY_PORT
from meetingctl.device.daemon import parse_launch, run_daemon


def main() -> int:
    """Serve until a signal says stop."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - a camera serves its network
    parser.add_argument("--port", type=int)
    parser.add_argument("--discovery-port", type=int, default=WS_DISCOVERY_PORT)
    launch, given = parse_launch(sys.argv[1:], parser)

    def body() -> None:
        from meetingctl.device.onvif.daemon import OnvifDaemon, Options

        options = Options(given.host, given.port, given.discovery_port)
        OnvifDaemon(launch.system(), launch.notifier(), options).run()

    return run_daemon(launch, body)


if __name__ == "__main__":
    sys.exit(main())
