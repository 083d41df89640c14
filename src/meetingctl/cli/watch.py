"""Lists that stay on the screen and renew themselves."""

from __future__ import annotations

import time
from collections.abc import Callable

from meetingctl.cli.invocation import Invocation

INTERVAL_S = 2.0
_CLEAR = "\x1b[H\x1b[2J"


def show_until_stopped(
    run: Invocation, show: Callable[[], object], *, watch: bool, interval_s: float = INTERVAL_S
) -> None:
    """Show once, or with `watch` again and again until Ctrl-C, on a cleared screen when there is one."""
    while True:
        if watch and run.out.style == "table" and run.out.out.isatty():
            run.out.out.write(_CLEAR)
        show()
        if not watch:
            return
        run.out.out.flush()
        try:
            time.sleep(interval_s)
        except KeyboardInterrupt:
            return
