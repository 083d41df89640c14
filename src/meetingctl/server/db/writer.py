"""Group commit: one thread owns the writing connection and commits everything that is waiting at once.

An answer leaves after the commit. There is no timer: the next batch forms while this one commits, so one client
alone gets batches of one, and many get one fsync for all of them (36 k/s against 4 k/s with a commit each, both with
`synchronous=FULL`).

Two kinds of work share a transaction:

* an *operation*, any function of a connection, in a savepoint of its own: it may read, decide, write and raise. Those
  of several processes on one PostgreSQL take turns, batch by batch: what one reads stays true until it has written,
  they lock in no order that could deadlock, and the audit chain has one end;
* a *row* of a `RowBatch`, for work that comes thousands of times a second and runs as one statement for all rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from meetingctl.core.errors import Busy, MeetingctlError
from meetingctl.server.db.engine import translated_errors

log = logging.getLogger(__name__)
T = TypeVar("T")
Operation = Callable[[sa.Connection], T]

MAX_BATCH = 1000
MAX_PENDING = 20_000
WAIT_S = 30.0
_TURN = 0x6F706572  # advisory lock of PostgreSQL


class RowBatch(Protocol):
    """A statement that takes many rows at once."""

    def write(self, connection: sa.Connection, rows: Sequence[Any]) -> None:
        """Write the rows. After a row that the database refuses they are tried one by one, so that it fails alone."""


@dataclass(slots=True)
class _Work:
    """One thing to do and where its outcome goes."""

    operation: Operation[Any] | None
    batch: RowBatch | None
    row: Any
    outcome: Future[Any] | asyncio.Future[Any]
    value: Any = None
    error: BaseException | None = None


class GroupWriter:
    """The only writer of a process. `start` it before use; `close` refuses new work, finishes the rest and returns."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._pending: list[_Work] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="db-writer", daemon=True)
        self.commits = 0
        self.committed = 0
        self.observe: Callable[[int, float], None] | None = None  # called with batch size and commit seconds

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse new work, commit what waits, stop the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def pending(self) -> int:
        """How many pieces of work wait for the next batch."""
        return len(self._pending)

    def run(self, operation: Operation[T]) -> T:
        """Run an operation, commit it, return its result. For worker threads. Raises what it raises, or Busy."""
        outcome: Future[T] = Future()
        self._submit(_Work(operation, None, None, outcome))
        try:
            return outcome.result(WAIT_S)
        except TimeoutError as exc:
            raise Busy("Database busy") from exc

    async def run_async(self, operation: Operation[T]) -> T:
        """The same for coroutines."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._submit(_Work(operation, None, None, outcome))
        return await outcome

    def post(self, operation: Operation[Any]) -> None:
        """Queue an operation nobody waits for; a failure is logged. Dropped when the queue is full."""
        outcome: Future[Any] = Future()
        outcome.add_done_callback(_log_failure)
        with contextlib.suppress(Busy):
            self._submit(_Work(operation, None, None, outcome))

    def add_row(self, batch: RowBatch, row: object) -> asyncio.Future[None]:
        """Queue a row from the event loop; the future is done once the row is on disk."""
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(_Work(None, batch, row, outcome))
        return outcome

    def _submit(self, work: _Work) -> None:
        with self._wake:
            if self._closing:
                raise Busy("Server is shutting down", retry_after_s=5)
            if len(self._pending) >= MAX_PENDING:
                raise Busy("Server busy", retry_after_s=1)
            self._pending.append(work)
            if len(self._pending) == 1:
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._pending and not self._closing:
                    self._wake.wait()
                if not self._pending:
                    return
                works, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            self._commit(works)
            _deliver(works)

    def _commit(self, works: list[_Work]) -> None:
        began_s = time.perf_counter()
        try:
            with translated_errors(), self._engine.begin() as connection:
                if any(work.operation for work in works):
                    take_turn(connection)
                for work in works:
                    if work.operation is not None:
                        _run_operation(connection, work)
                for batch in {id(w.batch): w.batch for w in works if w.batch is not None}.values():
                    _write_rows(connection, batch, [w for w in works if w.batch is batch])
            self.commits += 1
            self.committed += len(works)
            if self.observe is not None:
                self.observe(len(works), time.perf_counter() - began_s)
        except MeetingctlError as exc:
            _fail_all(works, exc)
        except Exception as exc:  # a boundary: the thread must outlive a bug, and every caller must hear of it
            log.exception("commit failed")
            _fail_all(works, exc)


def take_turn(connection: sa.Connection) -> None:
    """Wait until no other process writes operations, and keep them out until the end of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN)))


def _run_operation(connection: sa.Connection, work: _Work) -> None:
    try:
        with connection.begin_nested():
            work.value = work.operation(connection) if work.operation else None
    except Exception as exc:  # the boundary of one operation: its savepoint is rolled back, the others go on
        if isinstance(exc, sa.exc.OperationalError):
            raise
        work.error = _named(exc)


def _named(error: Exception) -> Exception:
    """Say `DB error` for what the database cannot do; what a value did wrong stays what it is."""
    if not isinstance(error, sa.exc.DBAPIError) or isinstance(error, sa.exc.IntegrityError | sa.exc.DataError):
        return error
    log.error("the database refuses a statement", exc_info=error)
    try:
        with translated_errors():
            raise error
    except MeetingctlError as named:
        return named


def _write_rows(connection: sa.Connection, batch: RowBatch, works: list[_Work]) -> None:
    try:
        with connection.begin_nested():
            batch.write(connection, [work.row for work in works])
    except (sa.exc.IntegrityError, sa.exc.DataError):
        for work in works:
            try:
                with connection.begin_nested():
                    batch.write(connection, [work.row])
            except (sa.exc.IntegrityError, sa.exc.DataError) as exc:
                work.error = exc


def _fail_all(works: list[_Work], error: BaseException) -> None:
    for work in works:
        work.error = work.error or error


def _deliver(works: list[_Work]) -> None:
    """Hand out the outcomes: thread futures at once, those of an event loop in one wake-up per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Work]] = {}
    for work in works:
        if isinstance(work.outcome, asyncio.Future):
            by_loop.setdefault(work.outcome.get_loop(), []).append(work)
        elif work.error is not None:
            work.outcome.set_exception(work.error)
        else:
            work.outcome.set_result(work.value)
    for loop, mine in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, mine)


def _resolve(works: list[_Work]) -> None:
    for work in works:
        if work.outcome.done():
            continue
        if work.error is not None:
            work.outcome.set_exception(work.error)
        else:
            work.outcome.set_result(work.value)


def _log_failure(outcome: Future[Any]) -> None:
    if error := outcome.exception():
        log.warning("background write failed", extra={"error": str(error)})
