"""Where agents arrive: the handshake with raw sockets, under limits of size, time and number."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Hashable

from meetingctl.core.ids import is_device_key
from meetingctl.core.limits import TokenBucket
from meetingctl.tunnel.caps import BASE, PROXY_WINDOW_BYTES, Agreed, agreed_caps, negotiate, offer_caps
from meetingctl.tunnel.codec import WireError
from meetingctl.tunnel.directory import DENIED, TOO_OFTEN, Admission, Directory, Refused
from meetingctl.tunnel.gate import Gate
from meetingctl.tunnel.handshake import MAX_LINE_BYTES, Hello, encode_refusal, encode_welcome, parse_hello
from meetingctl.tunnel.listening import Listening
from meetingctl.tunnel.rules import ProxyLimits
from meetingctl.tunnel.sockets import close_with_reset

log = logging.getLogger(__name__)

_BACKLOG = 4096
_ADDRESSES_TOLD = 10_000
_UNAVAILABLE = "the server cannot check devices right now"

OnAgent = Callable[[Admission, int, socket.socket, str, Agreed, bytes], None]
OnRefused = Callable[[str, str], None]


class Reception:
    """Greet agents and hand the accepted ones over.

    `on_agent` gets the admission, the order in which admissions were granted, the socket, the peer's address, the terms
    and the bytes that came behind the handshake line; the socket is its own from then on. `on_refused` gets the device
    key, empty when it was none, and the peer's address of refused credentials, at a bounded rate.
    """

    def __init__(self, directory: Directory, limits: ProxyLimits, *, on_agent: OnAgent, on_refused: OnRefused) -> None:
        self._directory = directory
        self._limits = limits
        self._on_agent = on_agent
        self._on_refused = on_refused
        self._told = TokenBucket(interval_s=limits.refusal_interval_s, burst=1, capacity=_ADDRESSES_TOLD)
        self._told_in_all = TokenBucket(interval_s=1 / limits.refusals_per_s, burst=20)
        self._paces = TokenBucket(
            interval_s=60 / limits.handshakes_per_device_per_min, burst=limits.handshakes_per_device_per_min
        )
        self._gate = Gate(limits)
        self._visitors = itertools.count(1)
        self._greetings: dict[Hashable, asyncio.Task[bool]] = {}
        self._listening: Listening | None = None
        self._admissions = 0
        self.outcomes: Counter[str] = Counter()

    def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen for agents and return the bound address. Raises: OSError."""
        self._listening = Listening(host, port, backlog=_BACKLOG, on_accept=self._accept)
        return self._listening.address

    async def close(self) -> None:
        """Stop listening and end the handshakes in progress."""
        if self._listening is not None:
            self._listening.close()
        tasks = list(self._greetings.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def pending(self) -> int:
        """Handshakes in progress."""
        return self._gate.pending

    def _accept(self, sock: socket.socket, address: str) -> None:
        visitor = next(self._visitors)
        evicted = self._gate.enter(visitor, address)
        if evicted is not None and (greeting := self._greetings.get(evicted)):
            self.outcomes["too many pending"] += 1
            greeting.cancel()
        task = asyncio.ensure_future(self._greet(sock, address))
        self._greetings[visitor] = task
        task.add_done_callback(functools.partial(self._part, visitor, sock))

    def _part(self, visitor: int, sock: socket.socket, task: asyncio.Task[bool]) -> None:
        """Let go of a connection after its greeting, also of one that was cancelled before it began."""
        self._gate.leave(visitor)
        del self._greetings[visitor]
        if task.cancelled():
            close_with_reset(sock)
        elif task.exception() is not None:
            sock.close()
            log.error("handshake failed", exc_info=task.exception())
        elif not task.result():
            sock.close()

    async def _greet(self, sock: socket.socket, address: str) -> bool:
        """Run one handshake within its time; True when the socket has a new owner."""
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                return await self._shake_hands(sock, address)
        except TimeoutError:
            self.outcomes["timeout"] += 1
            with contextlib.suppress(OSError):
                sock.send(encode_refusal(f"no handshake within {self._limits.handshake_s:g} s"))
        except OSError:
            self.outcomes["connection lost"] += 1
        return False

    async def _shake_hands(self, sock: socket.socket, address: str) -> bool:
        """Run one handshake; True when the socket has a new owner."""
        try:
            line, early = await self._read_line(sock)
            hello = parse_hello(line)
        except WireError as exc:
            self._gate.note_noise(str(exc), address, time.monotonic())
            self.outcomes["malformed"] += 1
            await self._refuse(sock, str(exc))
            return False
        admission = await self._admit(sock, hello, address)
        if admission is None:
            return False
        self._admissions += 1
        order = self._admissions
        caps, terms = None, BASE
        if hello.caps is not None:
            ours = offer_caps(PROXY_WINDOW_BYTES, sid=secrets.token_hex(16))
            caps, terms = agreed_caps(ours, hello.caps), negotiate(ours, hello.caps)
        await asyncio.get_running_loop().sock_sendall(sock, encode_welcome(hello.device_key, caps))
        self.outcomes["accepted"] += 1
        self._on_agent(admission, order, sock, address, terms, early)
        return True

    async def _read_line(self, sock: socket.socket) -> tuple[bytes, bytes]:
        """Return the first line and what came behind it. Raises: WireError, OSError."""
        loop = asyncio.get_running_loop()
        received = b""
        while (at := received.find(b"\n")) < 0:
            if len(received) >= MAX_LINE_BYTES:
                raise WireError(f"the handshake line is longer than {MAX_LINE_BYTES} bytes")
            if received.lstrip()[:1] not in (b"", b"{"):
                raise WireError("the handshake line is no JSON")
            chunk = await loop.sock_recv(sock, MAX_LINE_BYTES - len(received))
            if not chunk:
                raise ConnectionResetError("closed before the handshake")
            received += chunk
        return received[:at], received[at + 1 :]

    async def _admit(self, sock: socket.socket, hello: Hello, address: str) -> Admission | None:
        """Check a credential; on refusal tell the agent and return None."""
        key, now_s = hello.device_key, time.monotonic()
        if not is_device_key(key):
            # Neither counted nor logged by its name: that is any text of 4 KiB.
            self._gate.note_noise(f"{key}\n{hello.token}", address, now_s)
            self.outcomes["refused"] += 1
            self._tell_refusal("", address, now_s)
            await self._refuse(sock, DENIED)
            return None
        if not self._gate.may_try(key, address, now_s):
            self.outcomes["limited"] += 1
            self._tell_refusal(key, address, now_s)
            await self._refuse(sock, DENIED)
            return None
        try:
            admission = await self._directory.admit(key, hello.token, address)
        except Refused as refused:
            if refused.reason == DENIED:
                self._gate.note_wrong_token(key, hello.token, address, now_s)
            else:
                # Another reason means that the credential was right: a device that waits for its operator guesses not.
                self._gate.note_right_token(key, address)
            self.outcomes["refused"] += 1
            self._tell_refusal(key, address, now_s)
            log.info("agent refused", extra={"device": key, "peer": address, "reason": refused.reason})
            await self._refuse(sock, refused.reason)
            return None
        except Exception:  # boundary: a registry that is down for a moment must not end the proxy
            self.outcomes["unavailable"] += 1
            log.exception("device check failed", extra={"device": key, "peer": address})
            await self._refuse(sock, _UNAVAILABLE)
            return None
        self._gate.note_right_token(key, address)
        # Only now, or anybody could use up what the device may do.
        if not self._paces.allow(key, now_s):
            self.outcomes["too often"] += 1
            await self._refuse(sock, TOO_OFTEN)
            return None
        return admission

    def _tell_refusal(self, device_key: str, address: str, now_s: float) -> None:
        if self._told.allow(address, now_s) and self._told_in_all.allow("", now_s):
            self._on_refused(device_key, address)

    async def _refuse(self, sock: socket.socket, reason: str) -> None:
        """Send the refusal so that it arrives: closing with unread bytes could destroy it on the way."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, encode_refusal(reason))
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.refusal_drain_s):
                while await loop.sock_recv(sock, MAX_LINE_BYTES):
                    pass
