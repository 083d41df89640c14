"""What is served: the ports, the streams on them, and the way from one configuration to the next."""

from __future__ import annotations

import ipaddress
import logging
import secrets
from typing import Any

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import DeviceConfig, Loaded, read_config
from meetingctl.device.stream.authentication import make_auth
from meetingctl.device.stream.csi import open_feeder
from meetingctl.device.stream.facts import Facts
from meetingctl.device.stream.gstreamer import Gstreamer, check_launch
from meetingctl.device.stream.listener import Listener
from meetingctl.device.stream.mount import Mount, OnError
from meetingctl.device.stream.pipeline import LaunchSpec, build_stream, build_substream
from meetingctl.device.stream.probe import read_facts
from meetingctl.device.stream.reload import ReloadPlan, plan_mount, plan_reload
from meetingctl.device.stream.source import is_csi
from meetingctl.device.system import System

log = logging.getLogger(__name__)


def plan_stream(gst: Gstreamer, system: System) -> tuple[Loaded, DeviceConfig, Facts, LaunchSpec]:
    """Read configuration and machine, build the main stream and parse it.

    Raises: ConfigError when a key is missing, MeetingctlError when GStreamer lacks something.
    """
    loaded = read_config(system)
    config = loaded.require("S")
    facts = read_facts(system, gst, config)
    config = effective_config(loaded, facts)
    spec = build_stream(config, facts)
    check_launch(gst, spec.launch)
    return loaded, config, facts, spec


def effective_config(loaded: Loaded, facts: Facts) -> DeviceConfig:
    """Return the configuration with the defaults of the camera that was found."""
    config = loaded.require("S")
    return loaded.for_csi() if is_csi(config, facts) else config


class Stage:
    """The listeners and mounts of one daemon. Everything here belongs to the main loop."""

    def __init__(self, gst: Gstreamer, system: System, host: str, *, on_error: OnError) -> None:
        """Read configuration and machine, open the ports. Raises: ConfigError, MeetingctlError."""
        self._gst = gst
        self._system = system
        self._host = host
        self._on_error = on_error
        self._media_started_before = 0
        self._draining: list[Mount] = []
        self._old_listeners: list[Listener] = []
        self.sub: Mount | None = None
        self.loaded, self.config, self.facts, spec = plan_stream(gst, system)
        self.mount = self._make_main(spec, self.config)
        self.public = self._open_public(self.config)
        self.local = Listener(gst, "127.0.0.1", 0, transports=("tcp",), auth=None, on_play=self._viewer_joined)
        self.local_path = secrets.token_hex(16)
        self._show_main(self.mount)
        self._show_substream(self._plan_substream(self.config, self.facts))

    def listeners(self) -> list[Listener]:
        return [self.public, self.local, *self._old_listeners]

    def _open_public(self, config: DeviceConfig) -> Listener:
        return Listener(
            self._gst,
            self._host,
            config.rtsp_port,
            transports=config.rtsp_protocols,
            auth=make_auth(self._gst, config),
            on_play=self._viewer_joined,
        )

    def _make_main(self, spec: LaunchSpec, config: DeviceConfig) -> Mount:
        feeder = open_feeder(self._system, self._gst, config, spec) if spec.source.kind == "csi" else None
        pool = _address_pool(self._gst, config)
        return Mount(self._gst, config.rtsp_path, spec, pool=pool, feeder=feeder, on_error=self._on_error)

    def _show_main(self, mount: Mount) -> None:
        self.public.add(mount.path, mount)
        self.local.add(self.local_path, mount)
        for note in mount.spec.notes:
            log.warning("stream", extra={"note": note})

    def _plan_substream(self, config: DeviceConfig, facts: Facts) -> LaunchSpec | None:
        """Return what the second stream should run. Raises: MeetingctlError."""
        if not config.substream_enable:
            return None
        spec = build_substream(config, facts, self.local_url)
        check_launch(self._gst, spec.launch)
        return spec

    def _show_substream(self, wanted: LaunchSpec | None) -> None:
        """Add, change or remove the second stream."""
        path = f"{self.config.rtsp_path}-sub"
        if wanted is not None and self.sub is not None:
            if not plan_mount(self.sub.spec, wanted, moved=self.sub.path != path).swap:
                self.sub.set_live(wanted.properties)
                return
        if self.sub is not None:
            self.public.remove(self.sub.path)
            self._draining.append(self.sub)
            self.sub = None
        if wanted is not None:
            self.sub = Mount(self._gst, path, wanted, on_error=self._on_error)
            self.public.add(path, self.sub)

    @property
    def local_url(self) -> str:
        """Where programs on this device read the stream without a login."""
        return f"rtsp://127.0.0.1:{self.local.port}/{self.local_path}"

    @property
    def media_started(self) -> int:
        """Return how often the source of the main stream was opened."""
        return self._media_started_before + sum(mount.media_started for mount in (self.mount, *self._draining))

    def clients(self) -> int:
        """Return how many viewers from outside play."""
        return sum(listener.clients() for listener in (self.public, *self._old_listeners))

    def drop_clients(self, media: Any) -> int:
        """Disconnect the viewers of one media. Returns how many there were."""
        return sum(listener.drop_clients(media) for listener in self.listeners())

    def describe(self) -> dict[str, Any]:
        """Return what is configured and runs, for the state of the daemon."""
        spec, config = self.mount.spec, self.config
        # What is passed on is as the source sends it, whatever is configured.
        sent, profile = (None if spec.encoder else self.mount.passed) or (spec.sent, "")
        return {
            "mode": config.stream_source_mode,
            "source": spec.source.kind,
            "passthrough": not spec.encoder,
            "encoder": spec.encoder,
            "sound": spec.sound,
            "width": sent.width_px,
            "height": sent.height_px,
            "target_fps": round(float(sent.fps or spec.sent.fps), 3),
            **({"profile": profile} if profile else {}),
            "host": self._host,
            "port": self.public.port,
            "path": config.rtsp_path,
            "substream_path": self.sub.path if self.sub else None,
            "protocols": list(config.rtsp_protocols),
            "login": config.rtsp_auth_method if config.is_auth_on else "none",
            "notes": [*spec.notes, *(problem.text() for problem in self.loaded.faults())],
        }

    def close(self) -> None:
        """Stop listening and disconnect everybody."""
        for listener in self.listeners():
            listener.close()
            listener.drop_clients()

    def _viewer_joined(self, media: Any) -> None:
        for mount in self.mounts():
            if any(flow.media == media for flow in mount.running()):
                mount.request_keyframe()

    def mounts(self) -> list[Mount]:
        return [self.mount, *([self.sub] if self.sub else []), *self._draining]

    def clean_up(self) -> None:
        """End forgotten sessions, and let go of media and ports that nobody uses any more."""
        for listener in self.listeners():
            listener.clean_up()
        for mount in [mount for mount in self._draining if not mount.running()]:
            self._media_started_before += mount.media_started
            self._draining.remove(mount)
        self._old_listeners = [listener for listener in self._old_listeners if listener.connections()]

    def apply(self, config: DeviceConfig, facts: Facts, loaded: Loaded) -> ReloadPlan:
        """Run another configuration or other facts. Raises: MeetingctlError; then nothing has changed."""
        spec = build_stream(config, facts)
        check_launch(self._gst, spec.launch)
        sub_spec = self._plan_substream(config, facts)
        plan = plan_reload(self.config, config, self.mount.spec, spec)
        main = self._make_main(spec, config) if plan.main.swap else None
        # The new port comes last of what can fail.
        public = self._open_public(config) if plan.rebind else self.public
        self.config, self.facts, self.loaded = config, facts, loaded
        if plan.rebind:
            self._rebind(public)
        if plan.login:
            self.public.set_auth(make_auth(self._gst, config))
        self.public.transports = frozenset(config.rtsp_protocols)
        if main is not None:
            self._swap(main, drop_clients=plan.drop_clients)
        elif plan.main.set_live or self.mount.spec != spec:
            self.mount.spec = spec
            self.mount.set_live(spec.properties)
        self._show_substream(sub_spec)
        return plan

    def _rebind(self, public: Listener) -> None:
        """Serve on the new port; viewers of the old one stay until they leave."""
        old, self.public = self.public, public
        old.close()
        self._old_listeners.append(old)
        public.add(self.mount.path, self.mount)
        if self.sub is not None:
            public.add(self.sub.path, self.sub)

    def _swap(self, mount: Mount, *, drop_clients: bool) -> None:
        """Serve new media. Viewers of the old one keep it, unless its camera or sound card opens only once.

        The recorder is always sent to the new media: it would otherwise record the old one for ever.
        """
        old, self.mount = self.mount, mount
        self.public.remove(old.path)
        self.local.remove(self.local_path)
        for listener in self.listeners() if drop_clients else [self.local]:
            listener.drop_clients()
        self._draining.append(old)
        self._show_main(mount)
        log.info("new media", extra={"pipeline": mount.spec.describe(), "old_viewers": len(old.running())})


def _address_pool(gst: Gstreamer, config: DeviceConfig) -> Any:
    """Return the pool for multicast, None when it is not offered. Addresses are a row from the first one, TTL 1."""
    if "udp-mcast" not in config.rtsp_protocols:
        return None
    first = ipaddress.IPv4Address(config.rtsp_multicast_base or "239.255.12.1")
    last = min(first + 15, ipaddress.IPv4Address("239.255.255.255"))
    ports = config.rtsp_multicast_port_min or 50000, config.rtsp_multicast_port_max or 50099
    pool = gst.GstRtspServer.RTSPAddressPool()
    if not pool.add_range(str(first), str(last), *ports, 1):
        raise MeetingctlError(
            f"no multicast pool from {first}", hint="meetingctl device config get RTSP_MULTICAST_BASE"
        )
    return pool
