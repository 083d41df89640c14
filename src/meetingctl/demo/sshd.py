"""The demo device's SSH server: a real one, on loopback, for one key, as the invoking user."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import asyncssh

from meetingctl.core.paths import write_atomic
from meetingctl.demo.shell import Process, serve_session

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


async def listen(
    host: str, port: int, *, host_key: asyncssh.SSHKey, visitor_key: asyncssh.SSHKey, path: str
) -> asyncssh.SSHAcceptor:
    """Serve shells, commands, SFTP and SCP to whoever holds the visitor's key, under any user name.

    `path` is the search path of the sessions. Raises: OSError when the port is taken.
    """

    async def session(process: Process) -> None:
        await serve_session(process, path=path)

    return await asyncssh.listen(
        host,
        port,
        server_host_keys=[host_key],
        authorized_client_keys=asyncssh.import_authorized_keys(visitor_key.export_public_key().decode()),
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        process_factory=session,
        sftp_factory=HomeFiles,
        allow_scp=True,
        encoding=None,
        line_editor=False,
        login_timeout=LOGIN_TIMEOUT_S,
        keepalive_interval=KEEPALIVE_S,
    )


class HomeFiles(asyncssh.SFTPServer):
    """SFTP whose relative names begin in the user's home, as they do behind OpenSSH."""

    def map_path(self, path: bytes) -> bytes:
        home = os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)
        return os.path.join(home, super().map_path(path))  # noqa: PTH118 - names are bytes here
