"""The demo device's SSH server: a real one, on loopback, for one key, as the invoking user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from pathlib import Path

import asyncssh

from meetingctl.core.paths import write_atomic
from meetingctl.demo.shell import HANGUP_GRACE_S, Process, serve_session

LOGIN_TIMEOUT_S = 30
KEEPALIVE_S = 30


def load_key(path: Path, comment: str) -> asyncssh.SSHKey:
    """Read an Ed25519 key, made on first use: the private key with mode 0600, the public one beside it with `.pub`."""
    try:
        return asyncssh.read_private_key(path)
    except FileNotFoundError:
        key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
        write_atomic(path.with_name(f"{path.name}.pub"), key.export_public_key())
        write_atomic(path, key.export_private_key(), mode=0o600)
        return key


class DeviceSsh:
    """Serves shells, commands, SFTP and SCP to whoever holds the visitor's key, under any user name."""

    def __init__(self, *, name: str, host_key: asyncssh.SSHKey, visitor_key: asyncssh.SSHKey, path: str) -> None:
        """`name` is what the prompt shows, `path` the search path of the sessions."""
        self._name = name
        self._host_key = host_key
        self._visitors = asyncssh.import_authorized_keys(visitor_key.export_public_key().decode())
        self._path = path
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._sessions: set[asyncio.Task[None]] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, 0 before `start`."""
        return self._acceptor.get_port() if self._acceptor else 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises: OSError when the port is taken."""
        self._acceptor = await asyncssh.listen(
            host,
            port,
            server_factory=lambda: _Visitor(self._connections),
            server_host_keys=[self._host_key],
            authorized_client_keys=self._visitors,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            process_factory=self._serve,
            sftp_factory=HomeFiles,
            allow_scp=True,
            encoding=None,
            line_editor=False,
            login_timeout=LOGIN_TIMEOUT_S,
            keepalive_interval=KEEPALIVE_S,
        )

    async def close(self) -> None:
        """Stop listening, drop the visitors, and wait until their sessions have been hung up."""
        if self._acceptor is None:
            return
        self._acceptor.close()
        for connection in tuple(self._connections):
            connection.abort()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=2 * HANGUP_GRACE_S)
        await self._acceptor.wait_closed()

    async def _serve(self, process: Process) -> None:
        session = asyncio.create_task(serve_session(process, name=self._name, path=self._path))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        await session


class _Visitor(asyncssh.SSHServer):
    """Keeps account of one connection."""

    def __init__(self, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)


class HomeFiles(asyncssh.SFTPServer):
    """SFTP whose relative names begin in the user's home, as they do behind OpenSSH."""

    def map_path(self, path: bytes) -> bytes:
        home = os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)
        return os.path.join(home, super().map_path(path))  # noqa: PTH118 - names are bytes here

    def exit(self) -> None:
        """Report success at the end of an SFTP session, without which `scp` of OpenSSH counts a copy as failed."""
        if self.channel.get_subsystem() == "sftp":
            with contextlib.suppress(OSError):
                self.channel.exit(0)
