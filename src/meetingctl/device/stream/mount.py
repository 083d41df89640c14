"""One stream at one path: its media factory, the media that run, and what is known of their flow."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, Protocol

from meetingctl.device.stream.authentication import make_permissions
from meetingctl.device.stream.gstreamer import Gstreamer, open_structure
from meetingctl.device.stream.origin import link_origin
from meetingctl.device.stream.pipeline import LaunchSpec, Picture, Properties

log = logging.getLogger(__name__)

# Viewers who join together share a keyframe; one who comes within this time gets his when it is over.
KEYFRAME_PAUSE_MS = 100

_ENDING_TIMEOUT_S = 3.0
_HANGUP_GRACE_S = 0.02

# Called from a thread of GStreamer: the mount, the media that failed, name of the failing element, seconds it had run.
OnError = Callable[["Mount", Any, str, float], None]


class Flow:
    """One running media and what passed its video payloader. Written by a streaming thread, read by any."""

    def __init__(self, media: Any, now_s: float) -> None:
        self.media = media
        self.started_s = now_s
        self.last_buffer_s = now_s
        self.is_prepared = False
        self.has_failed = False
        self.frames = 0
        self.bytes = 0

    def count(self, size_bytes: int, now_s: float) -> None:
        self.last_buffer_s = now_s
        self.frames += 1
        self.bytes += size_bytes


class Feeder(Protocol):
    """What fills the `appsrc` of a CSI camera: Picamera2 (`csi.py`) or rpicam-vid (`rpicam.py`)."""

    def start(self, appsrc: Any) -> None:
        """Begin to push access units into the element."""

    def stop(self, appsrc: Any) -> None:
        """Stop; nothing is pushed afterwards."""

    def request_keyframe(self) -> None:
        """Ask the encoder of the camera for a keyframe soon."""


class Mount:
    """A factory whose media is shared by all viewers of all listeners."""

    def __init__(
        self,
        gst: Gstreamer,
        path: str,
        spec: LaunchSpec,
        *,
        pool: Any = None,
        feeder: Feeder | None = None,
        on_error: OnError | None = None,
    ) -> None:
        """`path` has no leading slash; `pool` is the address pool of multicast."""
        self.path = path
        self.spec = spec
        self.properties: dict[str, dict[str, Any]] = {name: dict(items) for name, items in spec.properties.items()}
        self.flows: dict[int, Flow] = {}
        self.media_started = 0
        self._gst = gst
        self.feeder = feeder
        self._on_error = on_error
        self._ended = threading.Condition()
        self._keyframe_after_s = 0.0
        self._keyframe_timer = 0
        # What really passed last, with the H.264 profile; of a stream that is passed on only the source knows it.
        self.passed: tuple[Picture, str] | None = None
        self.factory = self._make_factory(pool)

    def _make_factory(self, pool: Any) -> Any:
        server = self._gst.GstRtspServer
        transports = self._gst.GstRtsp.RTSPLowerTrans
        factory = _factory_class(self._gst)()
        factory.before_lookup = self._wait_for_endings
        factory.set_launch(self.spec.launch)
        factory.set_shared(True)
        factory.set_suspend_mode(server.RTSPSuspendMode.NONE)
        # All transports here: each listener refuses what its viewers may not use.
        factory.set_protocols(transports.UDP | transports.UDP_MCAST | transports.TCP)
        factory.set_permissions(make_permissions(self._gst))
        factory.set_stop_on_disconnect(True)
        if pool is not None:
            factory.set_address_pool(pool)
        factory.connect("media-configure", self._configure)
        return factory

    # Media, in threads of the server.

    def _configure(self, _factory: Any, media: Any) -> None:
        """Set what the launch line must not hold, and watch what flows."""
        element = media.get_element()
        flow = Flow(media, time.monotonic())
        for name, values in self.properties.items():
            set_properties(element.get_by_name(name), values)
        link_origin(self._gst, element)
        self._watch_flow(element, flow)
        self._watch_bus(element, flow)
        self.flows[id(flow)] = flow
        self.media_started += 1
        media.connect("prepared", self._prepared, id(flow))
        # After the factory's own handler, which forgets the media.
        media.connect_after("unprepared", self._unprepared, id(flow))
        if self.feeder is not None:
            self.feeder.start(element.get_by_name("camera"))
        log.info("media started", extra={"path": self.path, "pipeline": self.spec.describe()})

    def _watch_flow(self, element: Any, flow: Flow) -> None:
        gst = self._gst.Gst
        # The flow holds the media, and the media its pad's probe: a strong reference would never let them go.
        seen, mount = weakref.ref(flow), weakref.ref(self)

        def count(pad: Any, info: Any) -> Any:
            if (flow := seen()) is not None:
                if not flow.frames and (here := mount()) is not None:
                    here.passed = _read_caps(pad.get_current_caps()) or here.passed
                flow.count(info.get_buffer().get_size(), time.monotonic())
            return gst.PadProbeReturn.OK

        element.get_by_name("pay0").get_static_pad("sink").add_probe(gst.PadProbeType.BUFFER, count)

    def _prepared(self, media: Any, key: int) -> None:
        if (flow := self.flows.get(key)) is not None:
            flow.is_prepared = True
        self._guard_tracks(media)

    def _guard_tracks(self, media: Any) -> None:
        """Let viewers take one track only.

        GStreamer 1.22 starts all tracks with the first viewer. The packets of a track that nobody has asked for end
        in nothing, and the whole media fails with "not-linked"; so they are dropped until somebody asks for it.
        """
        gst = self._gst.Gst
        packets = gst.PadProbeType.BUFFER | gst.PadProbeType.BUFFER_LIST

        def drop_unlinked(pad: Any, _info: Any) -> Any:
            return gst.PadProbeReturn.REMOVE if pad.is_linked() else gst.PadProbeReturn.DROP

        for element in media.get_element().get_parent().children:
            if element.get_factory() is not None and element.get_factory().get_name() == "rtpbin":
                for index in range(media.n_streams()):
                    element.get_static_pad(f"send_rtp_src_{index}").add_probe(packets, drop_unlinked)

    def _watch_bus(self, element: Any, flow: Flow) -> None:
        bus = element.get_parent().get_bus()
        bus.enable_sync_message_emission()
        bus.connect("sync-message::error", self._failed, id(flow))

    def _failed(self, _bus: Any, message: Any, key: int) -> None:
        flow = self.flows.get(key)
        if flow is None or flow.has_failed:
            return
        # Elements upstream complain too once one has failed; the first one is the culprit.
        flow.has_failed = True
        error, _ = message.parse_error()
        age_s = time.monotonic() - flow.started_s
        name = message.src.get_name() if message.src is not None else ""
        log.warning("media failed", extra={"path": self.path, "element": name, "error": error.message})
        if self._on_error is not None:
            self._on_error(self, flow.media, name, age_s)

    def _unprepared(self, media: Any, key: int) -> None:
        if self.flows.pop(key, None) is None:
            return
        if self.feeder is not None:
            self.feeder.stop(media.get_element().get_by_name("camera"))
        with self._ended:
            self._ended.notify_all()
        log.info("media stopped", extra={"path": self.path})

    def _wait_for_endings(self) -> None:
        """Hold a viewer who comes while the media of the last one ends: he would get 503, or find the camera busy.

        The last one may have hung up a moment ago, and his thread not have noticed: it gets that moment.
        """
        if self.flows:
            time.sleep(_HANGUP_GRACE_S)
        with self._ended:
            self._ended.wait_for(lambda: not any(map(self._is_ending, self.running())), _ENDING_TIMEOUT_S)

    def _is_ending(self, flow: Flow) -> bool:
        status = self._gst.GstRtspServer.RTSPMediaStatus
        # Before it is prepared, the question would wait for the answer.
        return flow.is_prepared and flow.media.get_status() in {status.UNPREPARING, status.UNPREPARED, status.ERROR}

    # The main loop.

    def running(self) -> list[Flow]:
        """Return the media that run now."""
        return list(self.flows.values())

    def set_live(self, properties: Properties) -> None:
        """Change properties of running media and of those to come."""
        self.properties = {name: dict(items) for name, items in properties.items()}
        for flow in self.running():
            element = flow.media.get_element()
            for name, values in self.properties.items():
                set_properties(element.get_by_name(name), values)

    def request_keyframe(self) -> None:
        """Ask the encoder for a keyframe now, or when the pause after the last one is over."""
        if not self.spec.can_force_keyframe or self._keyframe_timer:
            return
        wait_ms = int((self._keyframe_after_s - time.monotonic()) * 1000)
        if wait_ms > 0:
            self._keyframe_timer = self._gst.GLib.timeout_add(wait_ms, self._send_keyframe)
        else:
            self._send_keyframe()

    def _send_keyframe(self) -> bool:
        self._keyframe_timer = 0
        self._keyframe_after_s = time.monotonic() + KEYFRAME_PAUSE_MS / 1000
        if self.spec.encoder:
            for flow in self.running():
                pad = flow.media.get_element().get_by_name("pay0").get_static_pad("sink")
                pad.push_event(
                    self._gst.GstVideo.video_event_new_upstream_force_key_unit(self._gst.Gst.CLOCK_TIME_NONE, True, 0)
                )
        elif self.feeder is not None:
            self.feeder.request_keyframe()
        return False


def _read_caps(caps: Any) -> tuple[Picture, str] | None:
    if caps is None or not caps.get_size():
        return None
    with open_structure(caps) as found:
        if not found.has_field("width") or not found.has_field("height"):
            return None
        has_rate, above, below = found.get_fraction("framerate")
        fps = Fraction(above, below) if has_rate and above and below else Fraction(0)
        return Picture(found.get_int("width")[1], found.get_int("height")[1], fps), found.get_string("profile") or ""


def set_properties(element: Any, values: dict[str, Any]) -> None:
    """Set what has changed; a property that this version of the element lacks is left out with a warning."""
    for name, value in values.items():
        if element.find_property(name) is None:
            log.warning("property does not exist", extra={"element": element.get_name(), "property": name})
        elif element.get_property(name) != value:
            element.set_property(name, value)


@cache
def _factory_class(gst: Gstreamer) -> Any:
    class SharedFactory(gst.GstRtspServer.RTSPMediaFactory):  # type: ignore[misc, name-defined]  # bindings are Any
        """The usual key of a shared media holds the port: two listeners would open the camera twice."""

        before_lookup: Callable[[], None]

        def do_gen_key(self, _url: Any) -> str:
            self.before_lookup()
            return "shared"

    return SharedFactory
