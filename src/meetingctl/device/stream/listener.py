"""One RTSP port: its server, who is allowed which transport, its viewers."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.stream.gstreamer import Gstreamer
from meetingctl.device.stream.mount import Mount

log = logging.getLogger(__name__)

# One slow DESCRIBE (an origin that is down) must not hold up what the other viewers ask.
_THREADS = 4
_MAX_SESSIONS = 200
# Connections that ask for nothing take a descriptor each; without one more, nobody could come in.
MOST_CONNECTIONS = 300
SILENT_S = 30.0

OnPlay = Callable[[Any], None]


class Listener:
    """An RTSP server on one address and port. Everything here belongs to the main loop, except `_check_setup`."""

    def __init__(
        self, gst: Gstreamer, host: str, port: int, *, transports: Collection[str], auth: Any, on_play: OnPlay
    ) -> None:
        """`port` 0 takes a free one. Raises: MeetingctlError when the port is in use."""
        self.transports = frozenset(transports)
        self._gst = gst
        self._on_play = on_play
        self._source = 0
        self.playing: set[str] = set()
        self._is_full = False
        self._since_s: dict[Any, float] = {}  # client -> when it connected
        self.server = gst.GstRtspServer.RTSPServer()
        self.server.set_address(host)
        self.server.set_service(str(port))
        self.server.set_backlog(64)
        self.server.set_auth(auth)
        self.server.get_thread_pool().set_max_threads(_THREADS)
        self.pool = self.server.get_session_pool()
        self.pool.set_max_sessions(_MAX_SESSIONS)
        self.pool.connect("session-removed", self._session_removed)
        self.server.connect("client-connected", self._client_connected)
        self._source = self.server.attach(None)
        self.host = host
        self.port = int(self.server.get_bound_port())
        if not self._source or self.port <= 0:
            raise MeetingctlError(f"port {port} of {host} is in use", hint=f"ss -ltnp 'sport = :{port}'")

    # Mounts.

    def add(self, path: str, mount: Mount) -> None:
        """Serve a mount at a path (no leading slash), in place of an earlier one there."""
        self.server.get_mount_points().add_factory(f"/{path}", mount.factory)

    def remove(self, path: str) -> None:
        self.server.get_mount_points().remove_factory(f"/{path}")

    def set_auth(self, auth: Any) -> None:
        """Ask new viewers for another login; those who are connected stay."""
        self.server.set_auth(auth)

    # Viewers.

    def clients(self) -> int:
        """Return how many viewers play."""
        return len(self.playing)

    def connections(self) -> int:
        """Return how many connections are open, with or without a session."""
        return len(self.server.client_filter(None))

    def clean_up(self) -> None:
        """End the sessions whose viewers have not been heard of for a minute, and connections that never began one."""
        self.pool.cleanup()
        oldest_s = time.monotonic() - SILENT_S
        for client, since_s in list(self._since_s.items()):
            if since_s < oldest_s and not client.session_filter(None):
                _hang_up(client)

    def drop_clients(self, media: Any = None) -> int:
        """Disconnect the viewers of one media, or everybody, and end their sessions. Returns how many there were."""
        dropped = 0
        for client in self.server.client_filter(None):
            sessions = client.session_filter(None)
            if media is not None and not any(_holds(session, media) for session in sessions):
                continue
            for session in sessions:
                dropped += 1
                self._end_session(session.get_sessionid())
            _hang_up(client)
        return dropped

    def close(self) -> None:
        """Stop listening; connected viewers stay."""
        if self._source:
            self._gst.GLib.source_remove(self._source)
            self._source = 0

    # Signals.

    def _client_connected(self, _server: Any, client: Any) -> None:
        if len(self._since_s) >= MOST_CONNECTIONS:
            if not self._is_full:
                log.warning(
                    "too many connections, more are closed", extra={"port": self.port, "most": MOST_CONNECTIONS}
                )
            self._is_full = True
            _hang_up(client)
            return
        self._is_full = False
        self._since_s[client] = time.monotonic()
        client.connect("closed", self._forget_client)
        client.connect("pre-setup-request", self._check_setup)
        client.connect("pre-play-request", self._play_from_now)
        client.connect("play-request", self._played)
        client.connect("pause-request", self._paused)
        client.connect("new-session", self._session_opened)

    def _forget_client(self, client: Any) -> None:
        self._since_s.pop(client, None)

    def _session_opened(self, client: Any, session: Any) -> None:
        """Let a session end with its connection: nobody resumes one, and a dead UDP viewer would get data for long."""
        client.connect("closed", self._client_closed, session.get_sessionid())

    def _client_closed(self, _client: Any, session_id: str) -> None:
        self._gst.GLib.idle_add(self._end_session, session_id)

    def _end_session(self, session_id: str) -> bool:
        session = self.pool.find(session_id)
        if session is not None:
            self.pool.remove(session)
        self.playing.discard(session_id)
        return False

    def _check_setup(self, _client: Any, context: Any) -> Any:
        """Refuse a transport that is not allowed with 461."""
        status = self._gst.GstRtsp.RTSPStatusCode
        code, header = context.request.get_header(self._gst.GstRtsp.RTSPHeaderField.TRANSPORT, 0)
        is_allowed = int(code) == 0 and transports_of(header) <= self.transports
        return status.OK if is_allowed else status.UNSUPPORTED_TRANSPORT

    def _play_from_now(self, _client: Any, context: Any) -> Any:
        """Leave the range aside that most viewers send: it would seek the media that all of them share."""
        _remove_header(context, self._gst.GstRtsp.RTSPHeaderField.RANGE)
        return self._gst.GstRtsp.RTSPStatusCode.OK

    def _played(self, _client: Any, context: Any) -> None:
        # A thread of the server calls; ids travel to the main loop, the context does not survive this call.
        self._gst.GLib.idle_add(self._note_play, context.session.get_sessionid(), context.media)

    def _note_play(self, session_id: str, media: Any) -> bool:
        if self.pool.find(session_id) is not None:
            self.playing.add(session_id)
        self._on_play(media)
        return False

    def _paused(self, _client: Any, context: Any) -> None:
        self._gst.GLib.idle_add(self._forget, context.session.get_sessionid())

    def _session_removed(self, _pool: Any, session: Any) -> None:
        self._gst.GLib.idle_add(self._forget, session.get_sessionid())

    def _forget(self, session_id: str) -> bool:
        self.playing.discard(session_id)
        return False


def _hang_up(client: Any) -> None:
    """End a connection so that the server notices it itself.

    A client that is closed while its request is half read stays with its watch, which then spins for ever.
    """
    sock = client.get_connection().get_read_socket()
    if sock is not None:
        with contextlib.suppress(Exception):  # gone already: the bindings raise GLib.Error, which only gi knows
            sock.shutdown(True, True)


def _holds(session: Any, media: Any) -> bool:
    return any(part.get_media() == media for part in session.filter(None))


class _Context(ctypes.Structure):
    """The beginning of GstRTSPContext."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("server", "connection", "client", "request"))


def _remove_header(context: Any, field: Any) -> None:
    """Remove a header from the request of a viewer.

    The bindings give a copy of the request, so the C function is called directly, with the addresses of both objects.
    """
    found = ctypes.cast(hash(context), ctypes.POINTER(_Context)).contents
    if found.client != hash(context.client):  # another layout than this one: better leave it
        log.warning("the range of a viewer cannot be left aside: PLAY may disturb others")
        return
    remove = ctypes.CDLL("libgstrtsp-1.0.so.0").gst_rtsp_message_remove_header
    remove.argtypes, remove.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int), ctypes.c_int
    remove(found.request, int(field), -1)


def transports_of(header: str) -> frozenset[str]:
    """Return the transports that a viewer asks for, in the words of RTSP_PROTOCOLS.

    Source: RFC 2326 12.39: alternatives stand between commas; without a lower transport UDP is meant, and without
    `unicast` multicast.
    """
    found = set()
    for alternative in header.split(","):
        parts = [part.strip().lower() for part in alternative.split(";")]
        if parts[0].endswith("/tcp"):
            found.add("tcp")
        else:
            found.add("udp" if "unicast" in parts else "udp-mcast")
    return frozenset(found)
