"""Whether an SSH server answers at an address, learned from its greeting."""

from __future__ import annotations

import asyncio
import socket

from meetingctl.core.errors import Unreachable
from meetingctl.core.net import join_endpoint

BANNER_CAP_BYTES = 8192
_PEEK_AGAIN_S = 0.01


class HungUp(Unreachable):
    """The connection was accepted and then closed or reset without a word."""


async def read_banner(host: str, port: int, *, timeout_s: float) -> str:
    """Connect, and return the server's identification line (RFC 4253, section 4.2).

    Raises: Unreachable when nothing answers in time, when what answers is no SSH server, or when it is this machine.
    """
    where = join_endpoint(host, port)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=BANNER_CAP_BYTES)
            try:
                return await _read_banner(reader, where)
            finally:
                writer.transport.abort()
    except TimeoutError as exc:
        raise Unreachable(f"no SSH answer from {where} within {timeout_s:g} s") from exc
    except ConnectionResetError as exc:
        raise HungUp(f"no SSH answer from {where}: it hung up") from exc
    except (OSError, ValueError) as exc:
        raise Unreachable(f"no SSH answer from {where}: {exc}") from exc


async def open_greeted(host: str, port: int, *, timeout_s: float) -> tuple[str, socket.socket]:
    """Connect, and return the identification line with the socket, from which nothing has been read yet.

    So the SSH session goes on where it was looked whether it can begin. Raises: as `read_banner`.
    """
    where = join_endpoint(host, port)
    connection: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await _connect(host, port)
            return await _peek_banner(connection, where), connection
    except BaseException as exc:
        if connection is not None:
            connection.close()
        match exc:
            case TimeoutError():
                raise Unreachable(f"no SSH answer from {where} within {timeout_s:g} s") from exc
            case ConnectionResetError():
                raise HungUp(f"no SSH answer from {where}: it hung up") from exc
            case OSError() | ValueError():
                raise Unreachable(f"no SSH answer from {where}: {exc}") from exc
        raise


async def _connect(host: str, port: int) -> socket.socket:
    """Connect to the first address that answers."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, address)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure or OSError(f"{host} has no address")


async def _peek_banner(connection: socket.socket, where: str) -> str:
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    while True:
        arrived.clear()
        loop.add_reader(connection, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(connection)
        seen = connection.recv(BANNER_CAP_BYTES, socket.MSG_PEEK)
        if not seen:
            raise HungUp(f"no SSH answer from {where}: it hung up")
        *lines, _ = seen.split(b"\n")
        if line := next((line for line in lines if line.startswith(b"SSH-")), None):
            return line.decode("ascii", "replace").strip()
        if len(seen) >= BANNER_CAP_BYTES:
            raise Unreachable(f"no SSH server at {where}")
        await asyncio.sleep(_PEEK_AGAIN_S)


async def _read_banner(reader: asyncio.StreamReader, where: str) -> str:
    seen_bytes = 0
    while seen_bytes < BANNER_CAP_BYTES and (line := await reader.readline()):
        if line.startswith(b"SSH-"):
            return line.decode("ascii", "replace").strip()
        seen_bytes += len(line)
    if seen_bytes:
        raise Unreachable(f"no SSH server at {where}")
    raise HungUp(f"no SSH answer from {where}: it hung up")
