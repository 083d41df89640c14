"""An SSH connection to one device, whose host key is the pinned one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from meetingctl.core.errors import AuthError, ConfigError, Unreachable
from meetingctl.core.net import join_endpoint
from meetingctl.core.secret import Secret
from meetingctl.core.sshkey import PublicKey
from meetingctl.core.target import Target
from meetingctl.remote.hosts import HostKeys, describe_change, judge_host_key, name_host
from meetingctl.remote.route import Note
from meetingctl.remote.ways import Route

KEEPALIVE_S = 15
KEEPALIVE_MISSES = 4

# One call of the crypto library for each packet, where the usual first choice takes three; `^`: the others follow.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
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


def order_host_key_algorithms(pinned: Sequence[PublicKey]) -> list[str]:
    """Return the host key algorithms to accept, those of the pinned keys first, so that the host shows these."""
    kinds = {key.kind for key in pinned}
    ordered = sorted(_HOST_KEY_KINDS, key=lambda kind: kind not in kinds)
    return [algorithm for kind in ordered for algorithm in _HOST_KEY_KINDS[kind]]


async def fetch_host_key(route: Route, *, prefer: Sequence[PublicKey] = (), timeout_s: float) -> PublicKey:
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
    return PublicKey(key.public_data)


def check_host_key(target: Target, route: Route, offered: PublicKey, pins: HostKeys, note: Note) -> None:
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

    def __init__(self, pinned: Sequence[PublicKey]) -> None:
        self._pinned = pinned
        self.offered: PublicKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.offered = PublicKey(key.public_data)
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
            hint="name the user with --user NAME or the setting ssh_user, "
            "and a key with --identity FILE or a password with --ask-password",
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
    verifier: _Verifier, pinned: Sequence[PublicKey], route: Route, login: Login
) -> asyncssh.SSHClientConnection:
    if login.identity is not None and not login.identity.is_file():
        raise ConfigError(f"no such key file: {login.identity}", hint="name a private key with --identity FILE")
    public_key = login.identity and login.identity.with_name(f"{login.identity.name}.pub")
    return await asyncssh.connect(
        route.host,
        route.port,
        config=None,
        sock=route.opened,
        client_factory=lambda: verifier,
        # Nothing is trusted by a file, so the verifier is asked about every key.
        known_hosts=([], [], []),
        server_host_key_algs=order_host_key_algorithms(pinned),
        encryption_algs=_CIPHERS,
        username=login.user,
        client_keys=[str(login.identity)] if login.identity else (),
        # A key with a passphrase is the agent's business; of several keys there, only the named one is offered.
        ignore_encrypted=True,
        agent_identities=[str(public_key)] if public_key and public_key.is_file() else (),
        password=login.password.reveal() if login.password else None,
        keepalive_interval=KEEPALIVE_S,
        keepalive_count_max=KEEPALIVE_MISSES,
    )
