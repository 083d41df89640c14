"""One session of the demo device's SSH server: a login shell or a command, in a pseudo-terminal or with pipes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import struct
import termios
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple

import asyncssh

from meetingctl.demo.descriptor import Descriptor

CHUNK_BYTES = 64 * 1024
HANGUP_GRACE_S = 2.0
# A shell that has ended may leave jobs that hold its terminal: what they wrote until then still counts.
LAST_OUTPUT_S = 0.2

Process = asyncssh.SSHServerProcess[bytes]
TermSize = tuple[int, int, int, int]


def login_environment(process: Process, path: str) -> dict[str, str]:
    """Return the environment of a fresh login of the invoking user; the visitor chooses the language only."""
    user = pwd.getpwuid(os.geteuid())
    peer, local = process.get_extra_info("peername"), process.get_extra_info("sockname")
    env = {
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": login_shell(),
        "PATH": path,
        "SSH_CONNECTION": f"{peer[0]} {peer[1]} {local[0]} {local[1]}",
    }
    env |= {name: value for name, value in process.env.items() if name == "LANG" or name.startswith("LC_")}
    if process.term_type:
        env["TERM"] = process.term_type
    return env


def prompt_environment(name: str) -> dict[str, str]:
    """Return what makes a shell's prompt show that it runs on the device.

    The start files of a login set `PS1` themselves; bash then runs this once before its first prompt. Other shells take
    the plain `PS1`, unless their start files replace it.
    """
    return {"PS1": f"{name}$ ", "PROMPT_COMMAND": f"PS1='\\u@{name}:\\w\\$ '; unset PROMPT_COMMAND"}


def login_shell() -> str:
    """Return the invoking user's shell; `sh` for accounts without one."""
    shell = pwd.getpwuid(os.geteuid()).pw_shell
    return shell if os.access(shell, os.X_OK) and not shell.endswith(("/nologin", "/false")) else "/bin/sh"


async def serve_session(process: Process, *, name: str, path: str) -> None:
    """Run what the visitor asked for until it ends or the visitor is gone, and report its exit status."""
    shell = login_shell()
    argv = [shell, "-c", process.command] if process.command is not None else [shell, "-l"]
    env = login_environment(process, path)
    if process.command is None:
        env |= prompt_environment(name)
    try:
        await (_run_with_pipes if process.term_type is None else _run_in_terminal)(process, argv, env)
    except (OSError, asyncssh.Error) as exc:
        # The visitor may be gone already; if not, say why nothing runs.
        with contextlib.suppress(OSError, asyncssh.Error):
            process.stderr.write(f"{argv[0]}: {exc}\n".encode())
            process.exit(126)


async def _run_with_pipes(process: Process, argv: list[str], env: Mapping[str, str]) -> None:
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
        to_child, from_child, errors = (
            ours.enter_context(contextlib.closing(Descriptor(number))) for number in (stdin[1], stdout[0], stderr[0])
        )
        for number in (stdin[0], stdout[1], stderr[1]):
            theirs.callback(os.close, number)
        child = await asyncio.create_subprocess_exec(
            *argv,
            env=env,
            cwd=env["HOME"],
            start_new_session=True,
            stdin=stdin[0],
            stdout=stdout[1],
            stderr=stderr[1],
        )
        theirs.close()

        async def end() -> None:
            to_child.close()

        outputs = [_copy(from_child.read, process.stdout), _copy(errors.read, process.stderr)]
        await _relay(process, child, outputs, _Input(to_child.write, end, lambda size: None), last_output_s=None)


async def _run_in_terminal(process: Process, argv: list[str], env: Mapping[str, str]) -> None:
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        number, terminal = os.openpty()
        theirs.callback(os.close, terminal)
        master = ours.enter_context(contextlib.closing(Descriptor(number)))

        async def end() -> None:
            await master.write(b"\x04")

        def resize(size: TermSize) -> None:
            columns, rows, width_px, height_px = size
            fcntl.ioctl(master.number, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width_px, height_px))

        resize(process.term_size)
        # setsid makes the terminal the controlling one without code of ours between fork and exec.
        child = await asyncio.create_subprocess_exec(
            "setsid",
            "--ctty",
            *argv,
            env=env,
            cwd=env["HOME"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        theirs.close()
        outputs = [_copy(master.read, process.stdout)]
        await _relay(process, child, outputs, _Input(master.write, end, resize), last_output_s=LAST_OUTPUT_S)


class _Input(NamedTuple):
    """What a session does with the visitor's input, the end of it, and a new size of the window."""

    write: Callable[[bytes], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    resize: Callable[[TermSize], None]


async def _relay(
    process: Process,
    child: asyncio.subprocess.Process,
    outputs: list[Coroutine[Any, Any, None]],
    visitor: _Input,
    *,
    last_output_s: float | None,
) -> None:
    """Carry bytes until the child has ended and its output is out, or until the visitor is gone."""
    pumps = [asyncio.create_task(output) for output in outputs]
    ended = asyncio.create_task(child.wait())
    gone = asyncio.create_task(process.channel.wait_closed())
    helpers: list[asyncio.Task[Any]] = [*pumps, ended, gone, asyncio.create_task(_feed(process, child, visitor))]
    try:
        await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done() and not gone.done():
            drained = asyncio.create_task(asyncio.wait(pumps))
            helpers.append(drained)
            await asyncio.wait({drained, gone}, timeout=last_output_s, return_when=asyncio.FIRST_COMPLETED)
            _report(process, ended.result())
    finally:
        for task in helpers:
            task.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await _hang_up(child)


async def _copy(read: Callable[[int], Awaitable[bytes]], writer: asyncssh.SSHWriter[bytes]) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while chunk := await read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


async def _feed(process: Process, child: asyncio.subprocess.Process, visitor: _Input) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while True:
            try:
                chunk = await process.stdin.read(CHUNK_BYTES)
            except asyncssh.TerminalSizeChanged as change:
                visitor.resize(change.term_size)
            except asyncssh.SignalReceived as received:
                _signal_group(child, getattr(signal, f"SIG{received.signal}", None))
            except asyncssh.BreakReceived:
                continue
            else:
                if not chunk:
                    break
                await visitor.write(chunk)
        await visitor.end()


def _report(process: Process, returncode: int) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        if returncode < 0:
            process.exit_with_signal(signal.Signals(-returncode).name.removeprefix("SIG"))
        else:
            process.exit(returncode)


async def _hang_up(child: asyncio.subprocess.Process) -> None:
    """End a session whose visitor is gone, as a modem line did: SIGHUP, later SIGKILL."""
    if child.returncode is None:
        _signal_group(child, signal.SIGHUP)
        try:
            async with asyncio.timeout(HANGUP_GRACE_S):
                await child.wait()
        except TimeoutError:
            _signal_group(child, signal.SIGKILL)
            await child.wait()


def _signal_group(child: asyncio.subprocess.Process, number: signal.Signals | None) -> None:
    if number is not None and child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
