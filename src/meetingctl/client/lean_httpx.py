"""httpx without its command line, which would load rich and pygments at every start of ours: half of its own time."""

from __future__ import annotations

import sys

_COMMAND_LINE = "httpx._main"

# The library does without it where it cannot be imported, as after an installation without its extra `cli`.
sys.modules.setdefault(_COMMAND_LINE, None)  # type: ignore[arg-type]  # None stands for what cannot be imported
import httpx  # noqa: E402

if sys.modules[_COMMAND_LINE] is None:
    del sys.modules[_COMMAND_LINE]

__all__ = ["httpx"]
