"""One command on a connected device, its output handed on as it comes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import queue
import shlex
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import asyncssh

from meetingctl.core.errors import MeetingctlError, TransportLost

WINDOW_BYTES = 1024 * 1024
PAUSE_BYTES = 1024 * 1024
CAPTURE_BYTES = 1024 * 1024

Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a remote command ended: its exit code (128 + signal when one killed it) and how long it took."""

    exit_code: int
    duration_s: float


class CappedOutput:
    """Keeps the first bytes of an output that goes into one JSON object."""

    def __init__(self, cap_bytes: int = CAPTURE_BYTES) -> None:
        self._kept = bytearray()
        self._cap_bytes = cap_bytes
        self.is_cut = False

    def write(self, chunk: bytes) -> None:
        room_bytes = self._cap_bytes - len(self._kept)
        self._kept += chunk[:room_bytes]
        self.is_cut = self.is_cut or len(chunk) > room_bytes

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


def join_command(words: Sequence[str]) -> str:
    """Make the line for the remote shell: one word is a line already, several are quoted and arrive as given."""
    return words[0] if len(words) == 1 else shlex.join(words)


def script_line(script: str, arguments: Sequence[str]) -> str:
    """Return a line that runs a local script on the device: from a private file there, which is removed afterwards."""
    packed = base64.b64encode(zlib.compress(script.encode(), 9)).decode()
    unpack = "import base64,sys,zlib;sys.stdout.buffer.write(zlib.decompress(base64.b64decode(sys.argv[1])))"
    words = " ".join(shlex.quote(word) for word in arguments)
    return (
        f'f=$(mktemp) || exit; trap \'rm -f "$f"\' EXIT; python3 -c {shlex.quote(unpack)} {packed} >"$f" && '
        f'chmod 700 "$f" && "$f" {words}'
    ).rstrip()


def wrap_sudo(line: str, *, has_password: bool, is_optional: bool = False) -> str:
    """Return the line run by root: plainly for a user who is root already, else by sudo.

    With a password sudo reads it from standard input, which the command never sees. An optional one without a password
    runs as the user where sudo asks for one or is not installed.
    """
    sudo, line = ("sudo -S -p ''", f"exec </dev/null; {line}") if has_password else ("sudo -n", line)
    script = 'if [ "$(id -u)" = 0 ]; then exec sh -c "$1"; fi; '
    if is_optional and not has_password:
        script += 'sudo -n true 2>/dev/null || exec sh -c "$1"; '
    script += f'exec {sudo} -- sh -c "$1"'
    return f"exec sh -c {shlex.quote(script)} sh {shlex.quote(line)}"


async def run_command(
    connection: asyncssh.SSHClientConnection, line: str, *, stdout: Write, stderr: Write, stdin: bytes = b""
) -> Outcome:
    """Run one line in the remote user's shell and hand its output on, byte for byte and in order of arrival.

    A reader that is slower than the device makes the device wait: at most PAUSE_BYTES and two windows are held here.
    The remote command's standard input is `stdin` and then its end. Raises: TransportLost, and OSError when the output
    cannot be written.
    """
    started_s = time.monotonic()
    command = _Command(stdin)
    try:
        channel, _ = await connection.create_session(lambda: command, line, encoding=None, window=WINDOW_BYTES)
    except asyncssh.ChannelOpenError as exc:
        if is_lost(exc):
            raise TransportLost(f"the connection was lost: {exc.reason}") from exc
        raise MeetingctlError(f"the device opens no session: {exc.reason}") from exc
    except asyncssh.Error as exc:
        raise TransportLost(f"the connection was lost: {exc}") from exc
    try:
        async with _writer_thread() as deliver:
            async for is_error, chunk in command.output():
                await deliver(stderr if is_error else stdout, chunk)
    except BaseException:
        # Interrupted, or nobody reads our output any more: tell the command, which else runs on without a terminal.
        with contextlib.suppress(OSError):
            channel.terminate()
        raise
    finally:
        channel.close()
    return Outcome(command.exit_code(), time.monotonic() - started_s)


def is_lost(error: asyncssh.ChannelOpenError) -> bool:
    """Say whether a channel was not opened because the connection is gone; the library has one error for both."""
    return error.code == asyncssh.OPEN_CONNECT_FAILED and error.reason == "SSH connection closed"


class _Command(asyncssh.SSHClientSession[bytes]):
    """Collects the output of a command, with back-pressure.

    The library's own streams give the device a fresh window for every packet that they take from a backlog, so that a
    slow reader ends up with all of the output in memory. Here a paused channel is resumed only when nothing is left,
    and then takes its whole backlog at once: one fresh window for each.
    """

    def __init__(self, stdin: bytes) -> None:
        self._stdin = stdin
        self._chunks: deque[tuple[bool, bytes]] = deque()
        self._held_bytes = 0
        self._arrived = asyncio.Event()
        self._is_paused = False
        self._is_over = False
        self._lost: Exception | None = None
        self._exit_code: int | None = None
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def session_started(self) -> None:
        assert self._channel is not None
        # A command that has ended already reads nothing; that is no failure, and no broken pipe of our own.
        with contextlib.suppress(BrokenPipeError):
            self._channel.write(self._stdin)
            self._channel.write_eof()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._chunks.append((datatype == asyncssh.EXTENDED_DATA_STDERR, data))
        self._held_bytes += len(data)
        self._arrived.set()
        if not self._is_paused:
            self._pause_when_full()

    def exit_status_received(self, status: int) -> None:
        self._exit_code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._exit_code = 128 + _signal_number(signal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over, self._lost = True, exc
        self._arrived.set()

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        """Yield the chunks, each with whether it is from standard error, until the command is over."""
        while True:
            while self._chunks:
                is_error, chunk = self._chunks.popleft()
                self._held_bytes -= len(chunk)
                yield is_error, chunk
            self._arrived.clear()
            if self._is_paused:
                self._resume()
            elif self._is_over:
                return
            else:
                await self._arrived.wait()

    def exit_code(self) -> int:
        """Return how the command ended. Raises: TransportLost when nobody said so."""
        if self._exit_code is None:
            reason = f": {self._lost}" if self._lost else ""
            raise TransportLost(f"the connection was lost before the command ended{reason}")
        return self._exit_code

    def _resume(self) -> None:
        assert self._channel is not None
        # Delivers the whole backlog before it returns; only then it may be paused again.
        self._channel.resume_reading()
        self._is_paused = False
        self._pause_when_full()

    def _pause_when_full(self) -> None:
        if self._held_bytes >= PAUSE_BYTES and self._channel is not None:
            self._is_paused = True
            self._channel.pause_reading()


def _signal_number(name: str) -> int:
    try:
        return signal.Signals[f"SIG{name}"].value
    except KeyError:
        return 0


@contextlib.asynccontextmanager
async def _writer_thread() -> AsyncIterator[Callable[[Write, bytes], asyncio.Future[None]]]:
    """Offer an awaitable write that may block without stopping the loop, or the end of the program: a daemon thread."""
    loop = asyncio.get_running_loop()
    jobs: queue.SimpleQueue[tuple[Write, bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()

    def settle(done: asyncio.Future[None], error: OSError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def work() -> None:
        while (job := jobs.get()) is not None:
            write, chunk, done = job
            error = None
            try:
                write(chunk)
            except OSError as exc:
                error = exc
            with contextlib.suppress(RuntimeError):  # The loop is gone: nobody waits any more.
                loop.call_soon_threadsafe(settle, done, error)

    def deliver(write: Write, chunk: bytes) -> asyncio.Future[None]:
        done = loop.create_future()
        jobs.put((write, chunk, done))
        return done

    threading.Thread(target=work, name="remote output", daemon=True).start()
    try:
        yield deliver
    finally:
        jobs.put(None)
