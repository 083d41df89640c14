"""A fabric connection to one device, whose host key is the pinned one."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import fabric
import paramiko
from paramiko.ssh_exception import NoValidConnectionsError

from meetingctl.core.errors import AuthError, ConfigError, MeetingctlError, TransportLost, Unreachable
from meetingctl.core.sshkey import PublicKey
from meetingctl.core.target import Target
from meetingctl.remote.hosts import HostKeys, describe_change, judge_host_key, name_host
from meetingctl.remote.route import Note
from meetingctl.remote.session import Login, check_host_key, order_host_key_algorithms
from meetingctl.remote.ways import Route

KEEPALIVE_S = 5
# What is sent and not acknowledged for so long means that the link is gone. The library only sends keepalives.
SILENCE_S = 20


class _PinnedOnly(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # the library has no types
    """Judges every host key against the pins; the library itself is told of none, so it always asks here."""

    def __init__(self, pinned: Sequence[PublicKey]) -> None:
        self._pinned = pinned
        self.offered: PublicKey | None = None

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        self.offered = PublicKey(key.asbytes())
        if judge_host_key(self._pinned, self.offered) == "changed":
            raise _Changed


class _Changed(Exception):
    """The host shows a key that is not the pinned one."""


def open_connection(
    target: Target, route: Route, *, login: Login, pins: HostKeys, connect_s: float, note: Note
) -> fabric.Connection:
    """Log in to the device at the end of a route; the key is pinned only after a login that succeeded.

    Nothing is read from files of the user but keys: no ssh_config, no known_hosts, no fabric.yml.
    Raises: HostKeyChanged, AuthError, Unreachable, ConfigError for an identity that cannot be read.
    """
    if login.identity is not None and not login.identity.is_file():
        raise ConfigError(f"no such key file: {login.identity}", hint="name a private key with --identity FILE")
    # The library reports a lost connection as an error with a traceback; what it means is said by our errors.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    pinned = pins.pinned(name_host(target))
    policy = _PinnedOnly(pinned)
    connection = _prepare(route, login, connect_s, order_host_key_algorithms(pinned))
    connection.client.set_missing_host_key_policy(policy)
    try:
        _log_in(connection, target, route, login, connect_s)
        if policy.offered is None:
            raise Unreachable(f"{target}: {route} shows no host key")
        check_host_key(target, route, policy.offered, pins, note)
        _watch(connection, target)
    except _Changed:
        connection.close()
        assert policy.offered is not None
        raise describe_change(target, str(route), pinned, policy.offered) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(route: Route, login: Login, connect_s: float, algorithms: Sequence[str]) -> fabric.Connection:
    def make_transport(sock: socket.socket, **options: object) -> paramiko.Transport:
        transport = paramiko.Transport(sock, **options)
        known = transport.get_security_options()
        known.key_types = [name for name in algorithms if name in known.key_types]
        return transport

    return fabric.Connection(
        route.host,
        user=login.user,
        port=route.port,
        config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
        connect_timeout=connect_s,
        connect_kwargs={
            "banner_timeout": connect_s,
            "auth_timeout": connect_s,
            "channel_timeout": connect_s,
            "key_filename": [str(login.identity)] if login.identity else [],
            "look_for_keys": login.identity is None,
            "password": login.password.reveal() if login.password else None,
            "transport_factory": make_transport,
        },
    )


def _log_in(connection: fabric.Connection, target: Target, route: Route, login: Login, connect_s: float) -> None:
    try:
        connection.open()
    except paramiko.PasswordRequiredException as exc:
        raise ConfigError(f"cannot use the key {login.identity}: {exc}", hint=f"ssh-add {login.identity}") from exc
    except paramiko.AuthenticationException as exc:
        raise AuthError(
            f"{target}: {login.user} may not log in at {route}: {exc}",
            hint="name the user with --user NAME or the setting ssh_user, "
            "and a key with --identity FILE or a password with --ask-password",
        ) from exc
    except TimeoutError as exc:
        raise Unreachable(f"{target}: no SSH login at {route} within {connect_s:g} s") from exc
    except (OSError, EOFError, paramiko.SSHException) as exc:
        raise Unreachable(f"{target}: no SSH login at {route}: {_reason(exc)}") from exc


def _reason(error: BaseException) -> str:
    if isinstance(error, NoValidConnectionsError):
        error = next(iter(error.errors.values()), error)
    return str(getattr(error, "strerror", None) or error or type(error).__name__).lower()


def _watch(connection: fabric.Connection, target: Target) -> None:
    """Let a link that is gone without a word be noticed, and never be opened again behind our back.

    The library would do that at the next command, with the pins of the moment at which it was opened first.
    """

    def stay_open() -> None:
        if not connection.is_connected:
            raise TransportLost(f"{target}: the connection was lost")

    connection.open = stay_open
    transport = connection.transport
    if transport is None:
        raise MeetingctlError("the connection was lost at once")
    transport.set_keepalive(KEEPALIVE_S)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)
