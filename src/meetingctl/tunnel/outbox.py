"""The sending side of one control connection.

Sources are read when the connection can take their bytes, in turns: what waits unsent is at most one turn and control
frames. Control frames go ahead of data at frame borders; the last DATA of a stream is always out before its end,
because a source's end is found by reading it.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from meetingctl.tunnel import codec

if TYPE_CHECKING:
    from meetingctl.tunnel.link import Link
    from meetingctl.tunnel.stream import Stream

_TURNS_PER_ROUND = 16


class Outbox:
    """What one link has to send, and whose turn it is."""

    __slots__ = ("_control", "_flush_due", "_link", "_partial", "_progress_s", "_ring")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._partial: memoryview | None = None
        self._control: bytearray | None = None
        self._ring: deque[Stream] | None = None
        self._flush_due = False
        self._progress_s = 0.0

    @property
    def is_blocked(self) -> bool:
        """Say whether something waits for the connection to become writable."""
        return self._partial is not None or bool(self._ring)

    def stalled_s(self, now_s: float) -> float:
        """Return how long the connection has taken nothing of what waits."""
        return now_s - self._progress_s if self._partial is not None else 0.0

    def send_control(self, frame: bytes) -> None:
        """Queue a frame that goes ahead of data, sent at the end of this round."""
        link = self._link
        if self._control is None:
            self._control = bytearray()
        self._control += frame
        if len(self._control) > link.rules.control_queue_bytes:
            link.fail("stalled", "the other side does not read")
        elif not self._flush_due:
            self._flush_due = True
            link.reactor.defer(self._flush_deferred)

    def pull(self, stream: Stream) -> None:
        """A source has bytes: send them, or queue up for a turn when others wait already."""
        if self.is_blocked:
            self._join_ring(stream)
            stream.rearm()
            self._link.rearm()
        elif not self._take_turn(stream):
            stream.rearm()

    def forget(self, stream: Stream) -> None:
        """Take a stream that ended out of the ring."""
        if stream.waits_for_turn and self._ring is not None:
            self._ring.remove(stream)

    def clear(self) -> None:
        """Throw away what waits: the connection is gone."""
        self._partial = self._control = self._ring = None

    def flush(self) -> None:
        """Send the rest of a cut write, then control frames, then turns of the waiting sources."""
        if self._partial is not None and not self._send_partial():
            return
        if self._control is not None:
            self._transmit([])
        for _ in range(_TURNS_PER_ROUND):
            if self._partial is not None or not self._ring:
                break
            stream = self._ring.popleft()
            stream.waits_for_turn = False
            if self._take_turn(stream):
                self._join_ring(stream)
            else:
                stream.rearm()
        if not self._ring:
            self._ring = None
        self._link.rearm()

    def _flush_deferred(self) -> None:
        self._flush_due = False
        if not self._link.closed and self._partial is None:
            self.flush()

    def _join_ring(self, stream: Stream) -> None:
        if self._ring is None:
            self._ring = deque()
        stream.waits_for_turn = True
        self._ring.append(stream)

    def _take_turn(self, stream: Stream) -> bool:
        """Read one turn from a source and send it; True when the source may have more at once."""
        link = self._link
        limit = link.rules.turn_bytes if link.terms.is_new else link.rules.base_turn_bytes
        if stream.credit is not None:
            limit = min(limit, stream.credit.left_bytes)
        if limit <= 0:
            return False
        buffer = link.reactor.buffer
        try:
            count = stream.sock.recv_into(buffer[codec.HEADER_BYTES : codec.HEADER_BYTES + limit])
        except BlockingIOError:
            return False
        except OSError:
            stream.fail_locally()
            return False
        if count == 0:
            link.end_by_source(stream)
            return False
        link.note_sent(stream, count)
        self._transmit(_frame_in_place(buffer, stream.stream_id, count, link.terms.send_frame_bytes))
        return count == limit and not stream.closed and (stream.credit is None or stream.credit.left_bytes > 0)

    def _transmit(self, parts: list[codec.Payload]) -> None:
        """Send whole frames, control frames first; keep a copy of what the connection does not take."""
        link = self._link
        if self._control is not None:
            parts.insert(0, bytes(self._control))
            self._control = None
        try:
            sent = link.sock.send(parts[0]) if len(parts) == 1 else link.sock.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._fail(exc)
            return
        self._progress_s = link.now_s
        rest = bytearray()
        for part in parts:
            rest += part[sent:]
            sent = max(0, sent - len(part))
        if rest:
            self._partial = memoryview(rest)
            link.rearm()

    def _send_partial(self) -> bool:
        """Go on with a cut write; True when it is done."""
        if self._partial is None:
            return True
        try:
            sent = self._link.sock.send(self._partial)
        except BlockingIOError:
            return False
        except OSError as exc:
            self._fail(exc)
            return False
        self._progress_s = self._link.now_s
        self._partial = self._partial[sent:] if sent < len(self._partial) else None
        return self._partial is None

    def _fail(self, exc: OSError) -> None:
        # The kernel's own limit for data that is not taken may come a moment before ours.
        link = self._link
        is_stall = exc.errno == errno.ETIMEDOUT and self.stalled_s(link.now_s) >= 0.8 * link.rules.stall_s
        link.fail("stalled" if is_stall else "connection lost", exc.strerror or str(exc))


def _frame_in_place(buffer: memoryview, stream_id: int, count: int, most: int) -> list[codec.Payload]:
    """Frame `count` bytes that stand in the buffer behind the room for one header, at most `most` bytes a frame."""
    start = codec.HEADER_BYTES
    codec.HEADER.pack_into(buffer, 0, codec.DATA, stream_id, min(count, most))
    frames: list[codec.Payload] = [buffer[: start + min(count, most)]]
    for at in range(most, count, most):
        length = min(most, count - at)
        frames.append(codec.HEADER.pack(codec.DATA, stream_id, length))
        frames.append(buffer[start + at : start + at + length])
    return frames
