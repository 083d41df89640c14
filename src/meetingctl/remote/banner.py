"""Whether an SSH server answers at an address, learned from its greeting."""

from __future__ import annotations

import asyncio

from meetingctl.core.errors import Unreachable
from meetingctl.core.net import join_endpoint

BANNER_CAP_BYTES = 8192


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


async def _read_banner(reader: asyncio.StreamReader, where: str) -> str:
    seen_bytes = 0
    while seen_bytes < BANNER_CAP_BYTES and (line := await reader.readline()):
        if line.startswith(b"SSH-"):
            return line.decode("ascii", "replace").strip()
        seen_bytes += len(line)
    if seen_bytes:
        raise Unreachable(f"no SSH server at {where}")
    raise HungUp(f"no SSH answer from {where}: it hung up")
