"""Processes that shells leave behind: found below this process, and ended.

A background job outlives its shell, and a daemon leaves its parent. As a child subreaper (prctl(2)) this process
inherits both, so that walking its descendants finds all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Mapping
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02


def adopt_orphans() -> bool:
    """Become the parent of every orphan below this process; False when the kernel does not offer it."""
    return int(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def parents_of_all() -> dict[int, int]:
    """Return the parent of each process of this machine (proc(5), `stat`, field 4)."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in field 2 may hold anything, blanks and brackets too.
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def descendants(parents: Mapping[int, int], root: int) -> list[int]:
    """Return all processes below a process, children before grandchildren."""
    found = [root]
    for parent in found:
        found += [pid for pid, its_parent in parents.items() if its_parent == parent and pid not in found]
    return found[1:]


def end_descendants(keep: Collection[int], *, grace_s: float, kill_s: float) -> list[int]:
    """End everything that runs below this process: SIGHUP and SIGTERM, after `grace_s` SIGKILL. Blocks.

    Processes that were there before (`keep`) stay. Returns those that are left after `kill_s` more, normally none.
    """
    for numbers, wait_s in (((signal.SIGHUP, signal.SIGCONT, signal.SIGTERM), grace_s), ((signal.SIGKILL,), kill_s)):
        deadline_s = time.monotonic() + wait_s
        signalled: set[int] = set()
        while left := _living(keep):
            for pid in left:
                if pid not in signalled:
                    _send(pid, numbers)
            signalled.update(left)
            if time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
    return _living(keep)


def _living(keep: Collection[int]) -> list[int]:
    below = [pid for pid in descendants(parents_of_all(), os.getpid()) if pid not in keep]
    for pid in below:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return [pid for pid in below if _exists(pid)]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _send(pid: int, numbers: Collection[signal.Signals]) -> None:
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
