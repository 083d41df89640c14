"""The one seam between the device side and its operating system: files below a root, programs, the clock.

Nothing else on the device side starts a program. Argument lists only, never a shell, no sudo.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Literal, NamedTuple, Self

from meetingctl.core.errors import Busy, Forbidden, InvalidInput, MeetingctlError, NotFound, StorageFull, TooLarge
from meetingctl.core.layout import SYSTEMD_BOOTED_DIR, below
from meetingctl.core.paths import write_atomic

LARGEST_FILE_BYTES = 1 << 20
LARGEST_OUTPUT_BYTES = 1 << 20
CODE_TIMED_OUT = 124
CODE_NOT_RUNNABLE = 126
CODE_MISSING = 127

# What a program gets when nobody passes an environment: found as a system service finds it.
PLAIN_ENV: Mapping[str, str] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

_TICK_S = 0.05
_TERM_GRACE_S = 2.0
_DRAIN_S = 0.5

DevicePath = str | PurePosixPath
Pipe = Literal["pipe", "null"]


class Clock(NamedTuple):
    """The two clocks in seconds: `wall_s` may jump, `monotonic_s` never does."""

    wall_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Ran:
    """The end of a program. `code` is 128 + N after signal N, 127 when it is missing, 124 when it was timed out.

    `out` and `err` are UTF-8 with undecodable bytes replaced, each cut at 1 MiB.
    """

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0


class Child:
    """A long-running program in its own process group; leaving the `with` block stops it."""

    def __init__(self, process: subprocess.Popen[bytes], argv: tuple[str, ...]) -> None:
        self._process = process
        self.argv = argv
        self.pid = process.pid

    @property
    def stdout(self) -> IO[bytes] | None:
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        return self._process.stderr

    def poll(self) -> int | None:
        """Return the code of the ended program, None while it runs."""
        code = self._process.poll()
        return None if code is None else _shell_code(code)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end; None when it still runs after `timeout_s`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.poll()

    def send(self, number: signal.Signals) -> None:
        """Signal the whole group; nothing happens when the program has ended."""
        if not _has_ended(self._process):
            _signal_group(self.pid, number)

    def stop(
        self,
        *,
        signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
        grace_s: float = 5.0,
    ) -> int:
        """Send each signal and wait `grace_s` after it, then kill what is left of the group. Returns the code."""
        if self._process.returncode is None:
            for number in signals:
                _signal_group(self.pid, number)
                if _wait_ended(self._process, grace_s):
                    break
            _signal_group(self.pid, signal.SIGKILL)
        code = _shell_code(self._process.wait())
        _close_pipes(self._process)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class System:
    """The operating system of one device, seen below `root`.

    `env` is the environment of the programs; `LC_ALL` is always `C.UTF-8`, so that output can be parsed.
    """

    def __init__(self, root: Path, *, env: Mapping[str, str] = PLAIN_ENV, clock: Clock | None = None) -> None:
        self.root = root
        self.clock = clock or Clock()
        self._env = {**env, "LC_ALL": "C.UTF-8"}

    @property
    def is_live(self) -> bool:
        """Say whether programs of this machine act on the device: not while only a folder of it is looked at.

        A container without systemd is live too: packages can be installed, but there are no units, see `is_booted`.
        """
        return str(self.root) == "/" or self.is_booted

    @property
    def is_booted(self) -> bool:
        """Say whether systemd runs the device; without it there is no unit to ask, to restart or to reboot with."""
        return self.path(SYSTEMD_BOOTED_DIR).is_dir()

    def path(self, device_path: DevicePath) -> Path:
        """Return where a device path lies below the root. Raises: InvalidInput for a relative path or `..`."""
        return below(self.root, device_path)

    def read(self, device_path: DevicePath, *, limit_bytes: int = LARGEST_FILE_BYTES) -> str:
        """Return a text file; bytes that are no UTF-8 survive `write` (surrogate escapes).

        Raises: NotFound, Forbidden, TooLarge, MeetingctlError for any other failure.
        """
        try:
            # Without waiting: a pipe in the place of a file would hold a daemon for ever.
            descriptor = os.open(self.path(device_path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise InvalidInput(f"{device_path}: not a regular file", hint=f"ls -l {device_path}")
                content = file.read(limit_bytes + 1)
        except OSError as exc:
            raise _file_error(exc, "read", device_path) from exc
        if len(content) > limit_bytes:
            raise TooLarge(f"{device_path}: larger than {limit_bytes} bytes", hint=f"ls -l {device_path}")
        return content.decode("utf-8", "surrogateescape")

    def write(self, device_path: DevicePath, content: str | bytes, *, mode: int | None = None) -> None:
        """Replace a file in one step that survives a power cut.

        An existing file keeps its owner, and its mode unless `mode` is given; a new one gets the group of its folder
        and 0644. A symbolic link is replaced, not followed. Raises: Forbidden, StorageFull, MeetingctlError.
        """
        path = self.path(device_path)
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept_mode, owner = _kept(path)
            write_atomic(path, data, mode=kept_mode if mode is None else mode, owner=owner)
        except OSError as exc:
            raise _file_error(exc, "write", device_path) from exc

    @contextlib.contextmanager
    def locked(self, device_folder: DevicePath, *, timeout_s: float = 5.0) -> Iterator[None]:
        """Hold the lock of a folder against other processes while files in it are read and then written.

        Raises: Busy when another process holds it for longer than `timeout_s`.
        """
        folder = self.path(device_folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise _file_error(exc, "lock", device_folder) from exc
        try:
            _flock(descriptor, str(device_folder), timeout_s)
            yield
        finally:
            os.close(descriptor)

    def run(self, *argv: str, timeout_s: float = 10.0, stdin: str | bytes = b"") -> Ran:
        """Run a program to its end, in its own process group, which is killed when the deadline passes.

        Never raises for what the program does: look at `code`. A program that ignores SIGTERM costs 2 s more.
        """
        process = self._start(argv, stdin="pipe", stdout="pipe", stderr="pipe")
        if isinstance(process, Ran):
            return process
        given = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            out, err, timed_out = _converse(process, given, timeout_s)
        except BaseException:
            _end_group(process)
            raise
        finally:
            _close_pipes(process)
        code = CODE_TIMED_OUT if timed_out else _shell_code(process.wait())
        return Ran(argv, code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), timed_out)

    def spawn(self, *argv: str, stdout: Pipe = "null", stderr: Pipe = "null") -> Child:
        """Start a long-running program in its own process group, without input.

        A `pipe` must be read by the caller, or the program stops when it is full. Raises: NotFound, Forbidden.
        """
        process = self._start(argv, stdin="null", stdout=stdout, stderr=stderr)
        if isinstance(process, Ran):
            leaf = NotFound if process.code == CODE_MISSING else Forbidden
            raise leaf(process.err, hint="meetingctl device check")
        return Child(process, argv)

    def _start(
        self, argv: tuple[str, ...], *, stdin: Pipe, stdout: Pipe, stderr: Pipe
    ) -> subprocess.Popen[bytes] | Ran:
        ends = {"pipe": subprocess.PIPE, "null": subprocess.DEVNULL}
        try:
            return subprocess.Popen(
                argv,
                stdin=ends[stdin],
                stdout=ends[stdout],
                stderr=ends[stderr],
                env=self._env,
                start_new_session=True,
                bufsize=0,
            )
        except FileNotFoundError:
            return Ran(argv, CODE_MISSING, "", f"{argv[0]}: command not found")
        except OSError as exc:
            return Ran(argv, CODE_NOT_RUNNABLE, "", f"{argv[0]}: {exc.strerror}")


def _converse(process: subprocess.Popen[bytes], given: bytes, timeout_s: float) -> tuple[bytes, bytes, bool]:
    """Feed stdin and collect both outputs until the end or the deadline; says whether the deadline passed."""
    assert process.stdin and process.stdout and process.stderr  # noqa: PT018 - narrows the types, all are pipes
    deadline_s = reading_ends_s = time.monotonic() + timeout_s
    outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    rest = memoryview(given)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as waiting:
        for descriptor in outputs:
            waiting.register(descriptor, selectors.EVENT_READ)
        waiting.register(process.stdin.fileno(), selectors.EVENT_WRITE)
        while waiting.get_map() and (left_s := reading_ends_s - time.monotonic()) > 0:
            for key, _ in waiting.select(min(_TICK_S, left_s)):
                if key.fd in outputs:
                    if not _collect(key.fd, outputs[key.fd]):
                        waiting.unregister(key.fd)
                elif not (rest := _feed(key.fd, rest)):
                    waiting.unregister(key.fd)
                    process.stdin.close()
            # A program left in the background may hold the pipes open for ever: only drain them for a moment.
            if reading_ends_s == deadline_s and _has_ended(process):
                reading_ends_s = min(deadline_s, time.monotonic() + _DRAIN_S)
    timed_out = not _wait_ended(process, deadline_s - time.monotonic())
    if timed_out:
        _end_group(process)
    out, err = outputs.values()
    return bytes(out), bytes(err), timed_out


def _collect(descriptor: int, output: bytearray) -> bool:
    """Read once and keep what fits under the cap; False at the end of the stream."""
    chunk = os.read(descriptor, 65536)
    output += chunk[: max(0, LARGEST_OUTPUT_BYTES - len(output))]
    return bool(chunk)


def _feed(descriptor: int, rest: memoryview) -> memoryview:
    """Write once and return what is left; nothing is left for a program that closed its stdin."""
    try:
        return rest[os.write(descriptor, rest[:65536]) :] if rest else rest
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        return rest[:0]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Say whether the leader has ended, without reaping it: until then its group id cannot belong to others."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait_ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    pause_s = 0.001
    while not _has_ended(process):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, _TICK_S)
    return True


def _end_group(process: subprocess.Popen[bytes], *, grace_s: float = _TERM_GRACE_S) -> None:
    """Stop the program and what it started: SIGTERM, a moment, SIGKILL for what is left of the group."""
    if process.returncode is None:
        _signal_group(process.pid, signal.SIGTERM)
        _wait_ended(process, grace_s)
        _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _shell_code(code: int) -> int:
    return 128 - code if code < 0 else code


def _kept(path: Path) -> tuple[int, tuple[int, int] | None]:
    """Return the mode and owner that a rewritten file keeps, or that a new one gets from its folder."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    if found is not None and stat.S_ISREG(found.st_mode):
        mode, uid, gid = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    else:
        mode, uid, gid = 0o644, os.geteuid(), path.parent.stat().st_gid
    # Only root may give files away; another user in the right group writes as himself.
    return mode, (uid, gid) if os.geteuid() == 0 else None


def _flock(descriptor: int, name: str, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise Busy(
                    f"{name}: locked by another process for more than {timeout_s:g} s", hint="try again"
                ) from None
            time.sleep(_TICK_S)
        else:
            return


def _file_error(exc: OSError, action: str, device_path: DevicePath) -> MeetingctlError:
    text = f"{device_path}: cannot {action}: {exc.strerror or exc}"
    match exc.errno:
        case errno.ENOENT:
            return NotFound(f"{device_path}: no such file")
        case errno.EACCES | errno.EPERM:
            return Forbidden(text, hint="run the command as root")
        case errno.EROFS:
            return Forbidden(text, hint="mount -o remount,rw /")
        case errno.ENOSPC | errno.EDQUOT:
            return StorageFull(text, hint="df -h")
        case errno.EISDIR | errno.ELOOP | errno.ENOTDIR:
            return MeetingctlError(text, hint=f"ls -l {device_path}")
    return MeetingctlError(text)
