"""The local end of one stream: a visitor's socket at the proxy, a service's socket at the agent."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from meetingctl.tunnel import codec
from meetingctl.tunnel.bytequeue import ByteQueue
from meetingctl.tunnel.credit import ReceiveWindow, SendCredit
from meetingctl.tunnel.grace import must_cut
from meetingctl.tunnel.reactor import BROKEN, IDLE, READ, WRITE

if TYPE_CHECKING:
    from meetingctl.tunnel.link import Link

# sendmsg takes 1024 parts on Linux.
_PARTS_PER_SEND = 512


class Stream:
    """One socket, the bytes it has not accepted yet, and how far each direction has come.

    `label` belongs to the owner of the link. Without flow control `credit` and `window` are None.
    """

    __slots__ = (
        "_fd",
        "_is_shut",
        "_mask",
        "_moved_s",
        "_parts",
        "_queue",
        "_waiting_since_s",
        "closed",
        "connecting",
        "credit",
        "heard_s",
        "label",
        "link",
        "opened_s",
        "peer_closed",
        "peer_ended",
        "received_bytes",
        "sent_bytes",
        "sock",
        "source_ended",
        "stream_id",
        "waits_for_turn",
        "window",
    )

    def __init__(
        self,
        link: Link,
        stream_id: int,
        sock: socket.socket,
        *,
        credit: SendCredit | None,
        window: ReceiveWindow | None,
        connecting: bool = False,
        label: object = None,
    ) -> None:
        self.link = link
        self.stream_id = stream_id
        self.sock = sock
        self.credit = credit
        self.window = window
        self.connecting = connecting
        self.label = label
        self.opened_s = self._moved_s = self._waiting_since_s = self.heard_s = link.now_s
        self.sent_bytes = self.received_bytes = 0
        self.closed = self.source_ended = self.peer_ended = self.peer_closed = self.waits_for_turn = False
        self._is_shut = False
        self._queue: ByteQueue | None = None
        self._parts: list[codec.Payload] = []
        self._fd = sock.fileno()
        self._mask = self._wanted_mask()
        link.reactor.register(self._fd, self, self._mask)

    @property
    def queued_bytes(self) -> int:
        """Bytes from the peer that the socket has not accepted."""
        return len(self._queue) if self._queue is not None else 0

    def silent_s(self, now_s: float) -> float:
        """Return for how long no byte has moved in either direction."""
        return now_s - max(self.heard_s, self._moved_s)

    def rearm(self) -> None:
        """Watch the socket for what can be used now."""
        mask = self._wanted_mask()
        if mask != self._mask and not self.closed:
            self._mask = mask
            self.link.reactor.modify(self._fd, mask)

    def _wanted_mask(self) -> int:
        if self.connecting:
            return WRITE
        mask = WRITE if self._queue is not None else 0
        has_credit = self.credit is None or self.credit.left_bytes > 0
        if has_credit and not (self.source_ended or self.peer_closed or self.waits_for_turn):
            mask |= READ
        return mask or IDLE

    def on_ready(self, mask: int) -> None:
        """Move what can be moved in either direction."""
        if self.connecting:
            self._finish_dial()
            return
        if mask & WRITE and self._queue is not None:
            self._drain()
        if self.closed or not mask & (READ | BROKEN):
            return
        if self._mask & READ:
            self.link.pull(self)
        elif mask & select.EPOLLERR:
            self.fail_locally()

    def on_crash(self) -> None:
        """End this stream only."""
        self.link.abort(self, codec.RESET, "failed", "internal error")

    def fail_locally(self) -> None:
        """End the stream after an error of its own socket."""
        self.link.abort(self, codec.RESET, "reset", f"{self.link.rules.local} reset")

    def unregister(self) -> None:
        """Stop watching the socket, for good."""
        self.link.reactor.unregister(self._fd)

    def _finish_dial(self) -> None:
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.link.abort(self, codec.REFUSED, "refused", "service refused")
            return
        self.connecting = False
        if self._queue is not None:
            self._drain()
        elif self.peer_ended:
            self._settle()
        self.rearm()

    def take(self, part: codec.Payload) -> bool:
        """Note DATA from the peer, delivered by the next `deliver`; True for the first part since then."""
        if self.peer_ended or self.peer_closed:
            return False
        self.received_bytes += len(part)
        self.heard_s = self.link.now_s
        if self.window is not None and not self.window.take(len(part)):
            self.link.abort(self, codec.OVERLOAD, "reset", "data beyond the credit")
            return False
        self._parts.append(part)
        if len(self._parts) == _PARTS_PER_SEND:
            self.deliver()
            return False
        return len(self._parts) == 1

    def deliver(self) -> None:
        """Hand what `take` noted to the socket, in one write; keep a copy of the rest."""
        parts, self._parts = self._parts, []
        if self.closed or not parts:
            return
        sent = 0
        if self._queue is None and not self.connecting:
            try:
                sent = self.sock.send(parts[0]) if len(parts) == 1 else self.sock.sendmsg(parts)
            except BlockingIOError:
                pass
            except OSError:
                self.fail_locally()
                return
        rest_bytes = 0
        skip = sent
        for part in parts:
            if skip >= len(part):
                skip -= len(part)
                continue
            if self._queue is None:
                self._queue = ByteQueue()
                self._moved_s = self._waiting_since_s = self.link.now_s
            self._queue.append(part[skip:])
            rest_bytes += len(part) - skip
            skip = 0
        self.link.note_queued(rest_bytes)
        self._note_accepted(sent)
        self.rearm()

    def _drain(self) -> None:
        if self._queue is None:
            return
        try:
            sent = self._queue.send_to(self.sock)
        except OSError:
            self.fail_locally()
            return
        self.link.note_queued(-sent)
        if not self._queue:
            self._queue = None
        self._note_accepted(sent)
        if self._queue is None:
            self._settle()
            self.rearm()

    def _note_accepted(self, count_bytes: int) -> None:
        if not count_bytes:
            return
        if self._queue is None or self.link.now_s - self._waiting_since_s > self.link.rules.grace.settling_s:
            self._moved_s = self.link.now_s
        if self.window is not None:
            self.window.deliver(count_bytes)
            if not (self.peer_ended or self.peer_closed) and (due := self.window.credit_due()):
                self.link.send_control(codec.encode_window(self.stream_id, due))

    def end_by_peer(self) -> None:
        """The peer sends no more DATA: tell the socket once it has everything."""
        self.peer_ended = True
        self._settle()

    def close_by_peer(self) -> None:
        """The peer has forgotten the stream: deliver the rest, then close."""
        self.peer_closed = True
        self._moved_s = self.link.now_s
        self._settle()
        self.rearm()

    def _settle(self) -> None:
        """Pass on the end of the peer's direction when the queue is empty."""
        if self._queue is not None or self.closed or (self.connecting and not self.peer_closed):
            return
        if self.peer_closed or (self.peer_ended and self.source_ended):
            self.link.finish(self)
        elif self.peer_ended and not self._is_shut:
            self._is_shut = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.fail_locally()

    def end_by_source(self) -> None:
        """The socket said its last byte: nothing more will be read from it."""
        self.source_ended = True
        self.heard_s = self.link.now_s
        self._settle()
        self.rearm()

    def check_deadlines(self, now_s: float, allowed_bytes: int) -> None:
        """End the stream when something did not come in time, or when it holds too much for a socket that stands."""
        link, rules = self.link, self.link.rules
        if self.connecting:
            if now_s - self.opened_s >= rules.dial_s:
                link.abort(self, codec.TIMEOUT, "failed", "service did not answer")
            return
        if self._queue is not None:
            # The kernel reports room only when a third of its buffer is free: on a slow path that takes many seconds.
            self._drain()
            if self.closed:
                return
        idle_s = now_s - self._moved_s
        if self.peer_closed:
            if idle_s >= rules.drain_s:
                link.abort(self, codec.TIMEOUT, "reset", f"{rules.local} does not read")
        elif self.credit is None and must_cut(
            self.queued_bytes, idle_s, allowed=allowed_bytes, is_alone=len(link.streams) == 1, rules=rules.grace
        ):
            link.abort(self, codec.OVERLOAD, "reset", f"slow {rules.local}")
        elif self.source_ended and self._queue is None and now_s - self.heard_s >= rules.answer_s(link.terms.eof):
            link.close_quietly(self)
