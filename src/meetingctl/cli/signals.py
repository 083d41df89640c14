"""Signals that end a daemon, or the work of a command, in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

# So soon after the first one another SIGINT is the same wish: `timeout` sends it to the process and to its group.
_SAME_WISH_S = 1.0
_INTERRUPTED_CODE = 130


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set; the earlier handlers come back at the end."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; the first SIGINT cancels it, and what it has to tidy up is still done.

    A later one ends the program at once. Raises: KeyboardInterrupt when it was cancelled so.
    """
    interrupted_s: float | None = None

    async def work() -> tuple[T] | None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def interrupt() -> None:
            nonlocal interrupted_s
            now_s = time.monotonic()
            if interrupted_s is None:
                interrupted_s = now_s
                task.cancel()
            elif now_s - interrupted_s > _SAME_WISH_S:
                os._exit(_INTERRUPTED_CODE)

        with suppress(ValueError, RuntimeError):  # not the main thread: signals are somebody else's
            loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            return (await coroutine,)
        except asyncio.CancelledError:
            if interrupted_s is None:
                raise
            return None

    if (result := asyncio.run(work())) is None:
        raise KeyboardInterrupt
    return result[0]
