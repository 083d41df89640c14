"""Send one POST to an address that somebody else named, and reach no machine that it should not reach.

The name is resolved once, each address is checked, and the connection goes to a checked address: a second look-up could
give another one. Redirections are not followed and proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import httpx

from meetingctl import __version__
from meetingctl.core.errors import Forbidden, InvalidInput, MeetingctlError, Unreachable
from meetingctl.core.net import IpAddress, IpNetwork, parse_address

URL_CAP = 2048
MOST_ADDRESSES = 3
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_HINT = "list its network in setting webhook_networks"


def parse_hook_url(text: str) -> httpx.URL:
    """Read the address of a webhook. Raises: InvalidInput unless it is http(s) with a host and without a password."""
    hint = "use for example https://hooks.example.org/meetingctl"
    if len(text) > URL_CAP or any(character <= " " or character == "\x7f" for character in text):
        raise InvalidInput("Invalid url", hint=hint)
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise InvalidInput("Invalid url", hint=hint) from None
    port = 80 if url.port is None else url.port
    if url.scheme not in ("http", "https") or not url.host or not 0 < port < 65536:
        raise InvalidInput("Invalid url", hint=hint)
    if url.userinfo:
        raise InvalidInput("Invalid url", hint="leave the password out: deliveries are signed")
    return url


def may_reach(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
    """Say whether a webhook may go to an address: a public one, or one of a listed network. Pure."""
    if any(address.version == network.version and address in network for network in networks):
        return True
    if isinstance(address, ipaddress.IPv6Address) and (inner := _inner_address(address)) is not None:
        return address.is_global and may_reach(inner, networks)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner_address(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a translated IPv6 address leads to."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo[1] if address.teredo else None)


async def post_hook(
    text: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, networks: Sequence[IpNetwork] = ()
) -> int:
    """Send the body and return the status of the answer, whatever it is; the answer's body is not read.

    Raises: InvalidInput, Forbidden for an address out of bounds, Unreachable when no answer comes within `timeout_s`.
    """
    url = parse_hook_url(text)
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await _resolve(url, networks)
            return await _post_to_one(url, addresses, body, headers, timeout_s)
    except TimeoutError:
        raise Unreachable(f"no answer within {timeout_s:g} s") from None


class _Target(NamedTuple):
    address: str
    url: httpx.URL


async def _resolve(url: httpx.URL, networks: Sequence[IpNetwork]) -> list[_Target]:
    host, port = url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise Unreachable(f"cannot resolve {host[:128]}") from exc
    texts = dict.fromkeys(str(entry[4][0]) for entry in found)
    allowed = [text for text in texts if may_reach(parse_address(text), networks)]
    if not allowed:
        raise Forbidden(f"{host[:128]} is no public address", hint=_HINT)
    return [_Target(text, url.copy_with(host=text)) for text in allowed[:MOST_ADDRESSES]]


async def _post_to_one(
    url: httpx.URL, targets: Sequence[_Target], body: bytes, headers: Mapping[str, str], timeout_s: float
) -> int:
    """Try the addresses one after the other until one accepts the connection."""
    sent = {**headers, "Host": url.netloc.decode("ascii"), "User-Agent": f"meetingctl/{__version__}"}
    extensions = {"sni_hostname": url.raw_host.decode("ascii")}
    timeout = httpx.Timeout(timeout_s)
    last: httpx.RequestError | None = None
    async with httpx.AsyncClient(
        verify=url.scheme == "https", trust_env=False, follow_redirects=False, timeout=timeout
    ) as client:
        for target in targets:
            try:
                async with client.stream(
                    "POST", target.url, content=body, headers=sent, extensions=extensions
                ) as answer:
                    return answer.status_code
            except httpx.ConnectError as exc:
                last = exc
            except httpx.TimeoutException:
                raise Unreachable(f"no answer within {timeout_s:g} s") from None
            except httpx.RequestError as exc:
                raise Unreachable(_reason(exc)) from exc
    raise Unreachable(f"no connection: {_reason(last)}") from last if last else MeetingctlError("no address")


def _reason(error: Exception | None) -> str:
    return " ".join(str(error or "").split())[:200] or type(error).__name__
