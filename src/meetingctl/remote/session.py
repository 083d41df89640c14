"""An SSH connection to one device, and one command on it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import shlex
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from meetingctl.core.errors import AuthError, ConfigError, MeetingctlError, TransportLost, Unreachable
from meetingctl.core.net import join_endpoint
from meetingctl.core.secret import Secret
from meetingctl.core.target import Target
from meetingctl.remote.hosts import HostKey, HostKeys, describe_change, judge_host_key, name_host
from meetingctl.remote.route import Note, Route

KEEPALIVE_S = 15
KEEPALIVE_MISSES = 4
CHUNK_BYTES = 64 * 1024

Write = Callable[[bytes], object]

# Plain keys only: a host certificate has no fingerprint that an operator could compare.
_HOST_KEY_KINDS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, and with what. Without an identity the agent and the usual key files are offered."""

    user: str
    identity: Path | None = None
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a remote command ended: its exit code (128 + signal when one killed it) and how long it took."""

    exit_code: int
    duration_s: float


def order_host_key_algorithms(pinned: Sequence[HostKey]) -> list[str]:
    """Return the host key algorithms to accept, those of the pinned keys first, so that the host shows these."""
    kinds = {key.kind for key in pinned}
    ordered = sorted(_HOST_KEY_KINDS, key=lambda kind: kind not in kinds)
    return [algorithm for kind in ordered for algorithm in _HOST_KEY_KINDS[kind]]


def join_command(words: Sequence[str]) -> str:
    """Make the line for the remote shell: one word is a line already, several are quoted and arrive as given."""
    return words[0] if len(words) == 1 else shlex.join(words)


def wrap_sudo(line: str, *, has_password: bool) -> str:
    """Return the line run by root. With a password sudo reads it from standard input, which the command never sees."""
    if has_password:
        return f"sudo -S -p '' -- sh -c {shlex.quote(f'exec </dev/null; {line}')}"
    return f"sudo -n -- sh -c {shlex.quote(line)}"


async def fetch_host_key(route: Route, *, prefer: Sequence[HostKey] = (), timeout_s: float) -> HostKey:
    """Ask a host for its key. Raises: Unreachable."""
    where = join_endpoint(route.host, route.port)
    try:
        async with asyncio.timeout(timeout_s):
            key = await asyncssh.get_server_host_key(
                route.host, route.port, config=None, server_host_key_algs=order_host_key_algorithms(prefer)
            )
    except TimeoutError as exc:
        raise Unreachable(f"no SSH host key from {where} within {timeout_s:g} s") from exc
    except (OSError, asyncssh.Error) as exc:
        raise Unreachable(f"no SSH host key from {where}: {exc}") from exc
    if key is None:
        raise Unreachable(f"no SSH host key from {where}: the server shows none")
    return HostKey(key.public_data)


def check_host_key(target: Target, route: Route, offered: HostKey, pins: HostKeys, note: Note) -> None:
    """Pin a host's first key; accept a known one. Raises: HostKeyChanged."""
    name = name_host(target)
    pinned = pins.pinned(name)
    match judge_host_key(pinned, offered):
        case "changed":
            raise describe_change(target, str(route), pinned, offered)
        case "new":
            pins.pin(name, offered)
            note(f"{target}: first contact, host key {offered.fingerprint} pinned, seen at {route}")
        case "known":
            pass


class _Verifier(asyncssh.SSHClient):
    """Judges the host key inside the handshake, so that a connection costs one handshake and not two."""

    def __init__(self, pinned: Sequence[HostKey]) -> None:
        self._pinned = pinned
        self.offered: HostKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.offered = HostKey(key.public_data)
        return judge_host_key(self._pinned, self.offered) != "changed"


@contextlib.asynccontextmanager
async def connect(
    target: Target, route: Route, *, login: Login, pins: HostKeys, connect_s: float, note: Note
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Log in to the device at the end of a route; the key is pinned only after a login that succeeded.

    Raises: HostKeyChanged, AuthError, Unreachable, ConfigError for an identity that cannot be read.
    """
    pinned = pins.pinned(name_host(target))
    verifier = _Verifier(pinned)
    try:
        async with asyncio.timeout(connect_s):
            connection = await _open(verifier, pinned, route, login)
    except asyncssh.HostKeyNotVerifiable as exc:
        if verifier.offered is None:
            raise Unreachable(f"{target}: {route} shows no usable host key: {exc}") from exc
        raise describe_change(target, str(route), pinned, verifier.offered) from exc
    except asyncssh.PermissionDenied as exc:
        raise AuthError(
            f"{target}: {login.user} may not log in at {route}: {exc.reason}",
            hint="name a key with --identity FILE, or a password with --ask-password",
        ) from exc
    except TimeoutError as exc:
        raise Unreachable(f"{target}: no SSH login at {route} within {connect_s:g} s") from exc
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise ConfigError(f"cannot use the key {login.identity}: {exc}", hint=f"ssh-add {login.identity}") from exc
    except (OSError, asyncssh.Error) as exc:
        raise Unreachable(f"{target}: no SSH login at {route}: {exc}") from exc
    try:
        if verifier.offered is not None:
            check_host_key(target, route, verifier.offered, pins, note)
        yield connection
    finally:
        connection.abort()
        await connection.wait_closed()


async def _open(
    verifier: _Verifier, pinned: Sequence[HostKey], route: Route, login: Login
) -> asyncssh.SSHClientConnection:
    if login.identity is not None and not login.identity.is_file():
        raise ConfigError(f"no such key file: {login.identity}", hint="meetingctl config get ssh_identity")
    public_key = login.identity and login.identity.with_name(f"{login.identity.name}.pub")
    return await asyncssh.connect(
        route.host,
        route.port,
        config=None,
        client_factory=lambda: verifier,
        # Nothing is trusted by a file, so the verifier is asked about every key.
        known_hosts=([], [], []),
        server_host_key_algs=order_host_key_algorithms(pinned),
        username=login.user,
        client_keys=[str(login.identity)] if login.identity else (),
        # A key with a passphrase is the agent's business; of several keys there, only the named one is offered.
        ignore_encrypted=True,
        agent_identities=[str(public_key)] if public_key and public_key.is_file() else (),
        password=login.password.reveal() if login.password else None,
        keepalive_interval=KEEPALIVE_S,
        keepalive_count_max=KEEPALIVE_MISSES,
    )


async def run_command(
    connection: asyncssh.SSHClientConnection, line: str, *, stdout: Write, stderr: Write, stdin: bytes = b""
) -> Outcome:
    """Run one line in the remote user's shell and hand its output on as it comes, byte for byte.

    Memory stays bounded: a reader that is slower than the device makes the device wait. The remote command's standard
    input is `stdin` and then its end. Raises: TransportLost, and OSError when the output cannot be written.
    """
    started_s = time.monotonic()
    try:
        async with connection.create_process(line, encoding=None) as process:
            process.stdin.write(stdin)
            process.stdin.write_eof()
            await _pump_both(process, stdout, stderr)
            await process.wait_closed()
            return Outcome(_exit_code(process), time.monotonic() - started_s)
    except asyncssh.ChannelOpenError as exc:
        raise MeetingctlError(f"the device opens no session: {exc}") from exc
    except asyncssh.Error as exc:
        raise TransportLost(f"the connection was lost: {exc}") from exc


def _exit_code(process: asyncssh.SSHClientProcess[bytes]) -> int:
    if process.exit_signal is not None:
        number = getattr(signal, f"SIG{process.exit_signal[0]}", None)
        return 128 + int(number or 0)
    if process.exit_status is None:
        raise TransportLost("the connection was lost before the command ended")
    return process.exit_status


async def _pump_both(process: asyncssh.SSHClientProcess[bytes], stdout: Write, stderr: Write) -> None:
    pumps = [asyncio.create_task(_pump(process.stdout, stdout)), asyncio.create_task(_pump(process.stderr, stderr))]
    try:
        await asyncio.gather(*pumps)
    except BaseException:
        # Interrupted, or nobody reads our output any more: tell the command, which else runs on without a terminal.
        with contextlib.suppress(OSError):
            process.terminate()
        raise
    finally:
        for pump in pumps:
            pump.cancel()


async def _pump(source: asyncssh.SSHReader[bytes], write: Write) -> None:
    async with _writer_thread(write) as deliver:
        while chunk := await source.read(CHUNK_BYTES):
            await deliver(chunk)


@contextlib.asynccontextmanager
async def _writer_thread(write: Write) -> AsyncIterator[Callable[[bytes], asyncio.Future[None]]]:
    """Offer an awaitable write that may block without stopping the loop, or the end of the program: a daemon thread."""
    loop = asyncio.get_running_loop()
    jobs: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()

    def settle(done: asyncio.Future[None], error: OSError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def work() -> None:
        while (job := jobs.get()) is not None:
            error = None
            try:
                write(job[0])
            except OSError as exc:
                error = exc
            with contextlib.suppress(RuntimeError):  # The loop is gone: nobody waits any more.
                loop.call_soon_threadsafe(settle, job[1], error)

    def deliver(chunk: bytes) -> asyncio.Future[None]:
        done = loop.create_future()
        jobs.put((chunk, done))
        return done

    threading.Thread(target=work, name="remote output", daemon=True).start()
    try:
        yield deliver
    finally:
        jobs.put(None)
