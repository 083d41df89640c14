"""One control connection and the streams on it; the same state machine at both ends."""

from __future__ import annotations

import random
import socket
import struct
import time
from typing import Protocol

from meetingctl.tunnel import codec
from meetingctl.tunnel.caps import Agreed
from meetingctl.tunnel.credit import SMALLEST_WINDOW_BYTES, ReceiveWindow, SendCredit, initial_window
from meetingctl.tunnel.directory import PORT_NOT_ALLOWED, Outcome
from meetingctl.tunnel.farewell import Farewell
from meetingctl.tunnel.grace import allowed_bytes, may_resume, must_pause
from meetingctl.tunnel.group import LinkGroup
from meetingctl.tunnel.outbox import Outbox
from meetingctl.tunnel.reactor import BROKEN, IDLE, READ, WRITE, Reactor
from meetingctl.tunnel.rules import LinkRules
from meetingctl.tunnel.sockets import acknowledge_at_once, close_both_ways, close_with_reset, set_link_options
from meetingctl.tunnel.stream import Stream

_LAST_STREAM_ID = (1 << 32) - 1
_CLOCK = struct.Struct("!Q")


class LinkOwner(Protocol):
    """Who is told what happens on a link: the proxy's data plane, or the agent. Called on the loop's thread."""

    def on_link_lost(self, link: Link, reason: str, detail: str) -> None:
        """The connection ended; its streams are closed already. `reason` is one of a few, `detail` says more."""

    def on_open(self, link: Link, stream_id: int, opening: codec.Opening) -> None:
        """The proxy opens a stream (agents only)."""

    def on_stream_end(self, stream: Stream, outcome: Outcome, reason: str) -> None:
        """A stream ended."""


class Link:
    """A control connection after its handshake."""

    __slots__ = (
        "_decoder",
        "_group",
        "_keepalive_s",
        "_mask",
        "_next_id",
        "_outbox",
        "_paused_s",
        "_pinged_s",
        "_rest",
        "closed",
        "heard_s",
        "label",
        "owner",
        "queued_bytes",
        "received_bytes",
        "rtt_ms",
        "sent_bytes",
        "sock",
        "streams",
        "terms",
    )

    def __init__(
        self,
        group: LinkGroup,
        sock: socket.socket,
        terms: Agreed,
        *,
        kinds: frozenset[int],
        owner: LinkOwner,
        label: object = None,
    ) -> None:
        self._group = group
        self.sock = sock
        self.terms = terms
        self.owner = owner
        self.label = label
        self.streams: dict[int, Stream] = {}
        self.queued_bytes = self.received_bytes = self.sent_bytes = 0
        self.rtt_ms: float | None = None
        self.closed = False
        self._decoder = codec.FrameDecoder(kinds, max_frame_bytes=terms.receive_frame_bytes)
        self._outbox = Outbox(self)
        self._next_id = 1
        self._paused_s: float | None = None
        self._rest: memoryview | None = None
        self.heard_s = self._pinged_s = self.now_s
        self._keepalive_s = self._next_keepalive_s()
        self._mask = READ
        set_link_options(sock, unsent_bytes=group.rules.unsent_bytes)
        group.links.add(self)
        group.reactor.register(sock.fileno(), self, READ)

    @property
    def reactor(self) -> Reactor:
        return self._group.reactor

    @property
    def rules(self) -> LinkRules:
        return self._group.rules

    @property
    def now_s(self) -> float:
        return self._group.reactor.now_s

    # Streams begin and end.

    def open_stream(self, sock: socket.socket, port: int, *, label: object) -> Stream:
        """Give a visitor's socket a stream (proxy side) and ask the agent for the service at its local port."""
        stream_id, self._next_id = self._next_id, self._next_id + 1
        credit, window, announced = None, None, None
        if self.terms.flow:
            announced = initial_window(self.terms.receive_window_bytes, len(self.streams))
            window = ReceiveWindow(announced)
            credit = SendCredit(initial_window(self.terms.send_window_bytes, len(self.streams)))
        elif self.terms.is_new:
            announced = 0
        stream = Stream(self, stream_id, sock, credit=credit, window=window, label=label)
        self._add_stream(stream)
        self.send_control(codec.encode_open(stream_id, port, credit_bytes=announced))
        if stream_id == _LAST_STREAM_ID:
            self.fail("stream ids used up")
        return stream

    def accept_stream(self, stream_id: int, sock: socket.socket, *, credit_bytes: int | None) -> None:
        """Give a dialling socket the stream that the proxy opened (agent side)."""
        credit, window = None, None
        if self.terms.flow:
            credit = SendCredit(credit_bytes or self.terms.send_window_bytes)
            window = ReceiveWindow(self.terms.receive_window_bytes, smallest_window_bytes=SMALLEST_WINDOW_BYTES)
        self._add_stream(Stream(self, stream_id, sock, credit=credit, window=window, connecting=True))

    def refuse_stream(self, stream_id: int, code: int) -> None:
        """Answer an opening that leads nowhere."""
        self.send_control(self._encode_close(stream_id, code))

    def _add_stream(self, stream: Stream) -> None:
        self.streams[stream.stream_id] = stream
        self._group.note_busy(self)

    def abort(self, stream: Stream, code: int, outcome: Outcome, reason: str) -> None:
        """End a stream at once: tell the peer, reset the socket, throw away what is queued."""
        if not stream.closed and not stream.peer_closed:
            self.send_control(self._encode_close(stream.stream_id, code))
        # The frame too many ends the whole link, and with it this stream.
        if not stream.closed:
            self._forget(stream, outcome, reason)
            close_with_reset(stream.sock)

    def make_room(self) -> None:
        """End the half-closed stream that has been silent for longest, when there is one.

        Without half-close on the wire a departed visitor looks like one that waits for an answer: many short visits
        would otherwise use up an old agent's streams within the linger.
        """
        if not self.terms.eof:
            waiting = [s for s in self.streams.values() if s.source_ended and not s.queued_bytes]
            if waiting:
                self.close_quietly(min(waiting, key=lambda stream: stream.heard_s))

    def close_quietly(self, stream: Stream) -> None:
        """End a stream in order from this side."""
        self.send_control(self._encode_close(stream.stream_id, codec.NORMAL))
        self.finish(stream)

    def finish(self, stream: Stream) -> None:
        """End a stream in order, after its last byte."""
        if stream.closed:
            return
        # An old agent has no other word for a service that refused.
        unanswered = not (self.terms.is_new or stream.received_bytes or stream.source_ended)
        self._forget(stream, *(("failed", "no answer from the service") if unanswered else ("ok", "")))
        if self.rules.farewell_s is None or stream.source_ended:
            close_both_ways(stream.sock)
        else:
            Farewell(self.reactor, stream.sock, self.rules.farewell_s)

    def _forget(self, stream: Stream, outcome: Outcome, reason: str) -> None:
        stream.closed = True
        stream.unregister()
        del self.streams[stream.stream_id]
        self._outbox.forget(stream)
        self.note_queued(-stream.queued_bytes)
        if not self.streams:
            self._group.note_idle(self)
        self.owner.on_stream_end(stream, outcome, reason)

    def _encode_close(self, stream_id: int, code: int) -> bytes:
        return codec.encode_frame(codec.CLOSE, stream_id, bytes([code]) if code and self.terms.is_new else b"")

    # From the peer to the sockets.

    def on_ready(self, mask: int) -> None:
        """Send what waits, receive what came."""
        if mask & WRITE:
            self._outbox.flush()
        if not self.closed and self._rest is None and mask & (READ | BROKEN):
            if self._paused_s is None:
                self._receive()
            elif mask & BROKEN:
                self.fail("connection lost")

    def on_crash(self) -> None:
        """End this link only."""
        self.fail("internal error")

    def _receive(self) -> None:
        buffer = self.reactor.buffer[: self.rules.receive_turn_bytes]
        try:
            count = self.sock.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as exc:
            self.fail("connection lost", exc.strerror or str(exc))
            return
        if count == 0:
            self.fail("connection lost", "closed by the other side")
            return
        if not self.terms.is_new and count < len(buffer):
            acknowledge_at_once(self.sock)
        self.feed(buffer[:count])

    def feed(self, chunk: memoryview) -> None:
        """Act on bytes from the peer, on as many frames as one turn has; on the rest in the next rounds."""
        if rest := self._take_frames(chunk):
            self._keep_rest(memoryview(bytes(rest)))

    def _keep_rest(self, rest: memoryview) -> None:
        """Put off frames: many tiny ones in one chunk would hold up every other connection."""
        self._rest = rest
        self.reactor.defer(self._take_rest)

    def _take_rest(self) -> None:
        chunk, self._rest = self._rest, None
        if chunk is None or self.closed:
            return
        is_done = False
        try:
            rest = self._take_frames(chunk)
            is_done = True
        finally:
            if not is_done:
                self.on_crash()
        if rest:
            self._keep_rest(rest)

    def _take_frames(self, chunk: memoryview) -> memoryview:
        """Act on one turn of frames and return what is left of the chunk, nothing when the connection is closed."""
        self.heard_s = self.now_s
        nothing = chunk[:0]
        touched: list[Stream] = []
        try:
            for kind, stream_id, payload in self._decoder.feed(chunk, self.rules.receive_turn_frames):
                stream = self.streams.get(stream_id)
                if kind == codec.DATA:
                    self.received_bytes += len(payload)
                    self._group.received_bytes += len(payload)
                    if stream is not None and stream.take(payload):
                        touched.append(stream)
                else:
                    if stream is not None:
                        stream.deliver()
                    self._act_on(kind, stream_id, stream, payload)
                if self.closed:
                    return nothing
        except codec.WireError as exc:
            self.fail("protocol error", str(exc))
            return nothing
        for stream in touched:
            stream.deliver()
        self._judge_pause()
        return nothing if self.closed else chunk[self._decoder.consumed_bytes :]

    def _act_on(self, kind: int, stream_id: int, stream: Stream | None, payload: codec.Payload) -> None:
        if kind == codec.OPEN:
            if stream is not None or stream_id == 0:
                raise codec.WireError(f"stream {stream_id} opened twice")
            self.owner.on_open(self, stream_id, codec.parse_open(payload))
        elif kind == codec.PING:
            self.send_control(codec.encode_frame(codec.PONG, 0, payload))
        elif kind == codec.PONG:
            self.rtt_ms = max(0.0, (time.monotonic_ns() - _CLOCK.unpack(payload)[0]) / 1e6)
        elif stream is None or stream.closed:
            return
        elif kind == codec.CLOSE:
            self._close_by_peer(stream, payload[0] if payload else codec.NORMAL)
        elif kind == codec.END:
            stream.end_by_peer()
        elif kind == codec.WINDOW and stream.credit is not None:
            if stream.credit.refill(codec.parse_window(payload)):
                stream.rearm()
            else:
                self.abort(stream, codec.OVERLOAD, "failed", "credit above 2^31")

    def _close_by_peer(self, stream: Stream, code: int) -> None:
        if code == codec.NORMAL:
            stream.close_by_peer()
            return
        stream.peer_closed = True
        outcome, reason = _CLOSE_TEXTS.get(code, _CLOSE_TEXTS[codec.RESET])
        self.abort(stream, code, outcome, reason.format(remote=self.rules.remote))

    def note_queued(self, count_bytes: int) -> None:
        """Keep count of what sockets have not accepted; less of it may end a pause."""
        self.queued_bytes += count_bytes
        self._group.queued_bytes += count_bytes
        if count_bytes < 0 and self._paused_s is not None:
            self._judge_pause()

    def _judge_pause(self) -> None:
        if self.terms.flow or self.closed:
            return
        queues = [stream.queued_bytes for stream in self.streams.values()]
        amounts = self.queued_bytes, self._group.queued_bytes, queues, self.rules.grace
        if self._paused_s is None and must_pause(*amounts):
            self._paused_s = self.now_s
        elif self._paused_s is not None and may_resume(*amounts):
            self._paused_s = None
            self.heard_s = self.now_s
        self.rearm()

    # From the sockets to the peer.

    def send_control(self, frame: bytes) -> None:
        """Send a frame ahead of data, at the end of this round."""
        if not self.closed:
            self._outbox.send_control(frame)

    def pull(self, stream: Stream) -> None:
        """A source has bytes for the peer."""
        self._outbox.pull(stream)

    def note_sent(self, stream: Stream, count_bytes: int) -> None:
        """Count what goes to the peer."""
        stream.heard_s = self.now_s
        stream.sent_bytes += count_bytes
        self.sent_bytes += count_bytes
        self._group.sent_bytes += count_bytes
        if stream.credit is not None:
            stream.credit.spend(count_bytes)

    def end_by_source(self, stream: Stream) -> None:
        """A source said its last byte: tell the peer as far as the terms have a word for it."""
        if self.terms.eof:
            self.send_control(codec.encode_frame(codec.END, stream.stream_id))
        elif self.rules.linger_s is None:
            self.send_control(codec.encode_frame(codec.CLOSE, stream.stream_id))
            stream.peer_closed = True
        stream.end_by_source()

    def rearm(self) -> None:
        """Watch the connection for what can be used now."""
        if self.closed:
            return
        mask = READ if self._paused_s is None else 0
        if self._outbox.is_blocked:
            mask |= WRITE
        mask = mask or IDLE
        if mask != self._mask:
            self._mask = mask
            self.reactor.modify(self.sock.fileno(), mask)

    # Life of the connection.

    def ping(self) -> None:
        """Ask the peer for a sign of life; the answer gives the round-trip time."""
        self._pinged_s = self.now_s
        self.send_control(codec.encode_frame(codec.PING, 0, _CLOCK.pack(time.monotonic_ns())))

    def check_streams(self, now_s: float) -> None:
        """Enforce the deadlines of the streams and the rules for slow sockets."""
        streams = list(self.streams.values())
        queues = [stream.queued_bytes for stream in streams]
        allowed = allowed_bytes(queues, is_paused=self._paused_s is not None, rules=self.rules.grace)
        for stream in streams:
            if not stream.closed:
                stream.check_deadlines(now_s, allowed)
        if self._paused_s is not None and now_s - self._paused_s >= self.rules.grace.longest_pause_s and self.streams:
            largest = max(self.streams.values(), key=lambda stream: stream.queued_bytes)
            self.abort(largest, codec.OVERLOAD, "reset", f"slow {self.rules.local}")
        self._judge_pause()
        self._check_stall(now_s)

    def check_life(self, now_s: float) -> None:
        """Keep the path open and notice a silent loss of it."""
        if self.terms.ping:
            silent_s = now_s - self.heard_s
            if silent_s >= 2 * self.rules.ping_s:
                self.fail("silent", f"no sign of life for {silent_s:.0f} s")
            elif silent_s >= self.rules.ping_s and now_s - self._pinged_s >= self.rules.ping_s / 2:
                self.ping()
        elif self._keepalive_s and now_s >= self._keepalive_s:
            self._keepalive_s = self._next_keepalive_s()
            self.send_control(codec.encode_frame(codec.DATA, 0))
        self._check_stall(now_s)

    def _next_keepalive_s(self) -> float:
        if self.rules.keepalive_s is None or self.terms.ping:
            return 0.0
        return self.now_s + random.uniform(*self.rules.keepalive_s)  # noqa: S311 - spreads load, hides nothing

    def _check_stall(self, now_s: float) -> None:
        if self._outbox.stalled_s(now_s) >= self.rules.stall_s:
            self.fail("stalled")

    def fail(self, reason: str, detail: str = "") -> None:
        """End the connection: reset all its streams and tell the owner. Does nothing the second time."""
        if self.closed:
            return
        self.closed = True
        for stream in list(self.streams.values()):
            stream.peer_closed = True
            self.abort(stream, codec.RESET, "reset", reason)
        self._group.links.discard(self)
        self.reactor.unregister(self.sock.fileno())
        self._outbox.clear()
        self._rest = None
        close_both_ways(self.sock)
        self.owner.on_link_lost(self, reason, detail)


_CLOSE_TEXTS: dict[int, tuple[Outcome, str]] = {
    codec.REFUSED: ("refused", "service refused"),
    codec.TIMEOUT: ("failed", "service did not answer"),
    codec.NOT_ALLOWED: ("refused", PORT_NOT_ALLOWED),
    codec.OVERLOAD: ("refused", "too many streams"),
    codec.RESET: ("reset", "{remote} reset"),
}
