"""Turn this process into a daemon of the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from meetingctl.cli.device_system import open_system
from meetingctl.cli.invocation import Invocation


def become_daemon(run: Invocation, module: str, root: str = "", more: Sequence[str] = ()) -> NoReturn:
    """Replace this process by `python -m module`: the same process id, and nothing of the command line in memory.

    `more` are options of the daemon itself. Raises: UsageError when the root is no folder, ConfigError for settings.
    """
    from meetingctl.device.daemon import argv_of, launch_of

    settings = run.settings
    style = settings.log_format or ("json" if run.env.get("JOURNAL_STREAM") else "text")
    launch = launch_of(run.env, open_system(run, root).root, log_level=settings.log_level, log_format=style)
    sys.stdout.flush()
    argv = argv_of(module, launch, more)
    os.execv(argv[0], argv)  # noqa: S606 - an argument list of our own, no shell
