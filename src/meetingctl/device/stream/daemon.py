"""The stream daemon: listeners, streams, the loop that watches them, and the reload of the configuration."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from meetingctl.core.errors import Busy, Conflict, InvalidInput, MeetingctlError, Unreachable
from meetingctl.core.layout import CSI_CONTROL_HOST, CSI_CONTROL_PORT, STREAM_LOCAL_JSON, STREAM_STATE_SOCKET
from meetingctl.device.config import DeviceConfig, Loaded, read_config
from meetingctl.device.notify import Notifier
from meetingctl.device.stream import figures
from meetingctl.device.stream.authentication import make_auth
from meetingctl.device.stream.control import ControlSocket
from meetingctl.device.stream.csi import Picamera, open_feeder
from meetingctl.device.stream.encoders import HARDWARE
from meetingctl.device.stream.facts import Facts
from meetingctl.device.stream.gstreamer import Gstreamer, check_launch, load_gstreamer
from meetingctl.device.stream.http import LoopbackHttp, Routes
from meetingctl.device.stream.listener import Listener
from meetingctl.device.stream.mount import Mount
from meetingctl.device.stream.pipeline import LaunchSpec, build_stream, build_substream
from meetingctl.device.stream.probe import is_incomplete, read_facts
from meetingctl.device.stream.reload import ReloadPlan, plan_mount, plan_reload, should_step_down
from meetingctl.device.stream.source import is_csi
from meetingctl.device.stream.tap import Hls, Snapshot
from meetingctl.device.system import System

STALL_S = 3.0
_TICK_MS = 500
_CLEAN_UP_TICKS = 4
_ALIVE_TICKS = 10
_FACTS_PAUSE_S = 10.0
_LOOP_TIMEOUT_S = 10.0
_MOST_FAILURES = 20

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides. `host` is where viewers connect; `http_port` 0 takes a free one."""

    host: str = "0.0.0.0"  # noqa: S104 - a camera serves its network; RTSP_USER and RTSP_PASSWORD protect it
    http_port: int = CSI_CONTROL_PORT


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


class StreamDaemon:
    """One running stream server. Its methods belong to the main loop unless they say otherwise."""

    def __init__(self, system: System, notifier: Notifier, options: Options) -> None:
        """Build everything and open the ports. Raises: ConfigError, MeetingctlError."""
        self._system = system
        self._notifier = notifier
        self._options = options
        self._gst = load_gstreamer()
        self._loaded, self._config, self._facts, spec = plan_stream(self._gst, system)
        self._set_debug_level()
        self._started_s = time.monotonic()
        self._loop = self._gst.GLib.MainLoop()
        self._stop = threading.Event()
        self._rates = figures.Rates()
        self._failures: list[tuple[str, float]] = []
        self._media_errors = self._stalls = self._ticks = 0
        self._media_started_before = 0
        self._draining: list[Mount] = []
        self._old_listeners: list[Listener] = []
        self._public = self._open_public(self._config)
        self._local = Listener(self._gst, "127.0.0.1", 0, transports=("tcp",), auth=None, on_play=self._viewer_joined)
        self._local_path = secrets.token_hex(16)
        self._mount = self._add_main(spec)
        self._sub: Mount | None = None
        self._replace_substream()
        self._control: ControlSocket | None = None
        self._http: LoopbackHttp | None = None
        self._hls: Hls | None = None

    def _set_debug_level(self) -> None:
        """GStreamer writes to stderr; unasked only its errors, of which every login of a viewer is one."""
        gst = self._gst.Gst
        is_asked = self._loaded.origins["GST_DEBUG_LEVEL"] != "default"
        gst.debug_set_color_mode(gst.DebugColorMode.OFF)
        gst.debug_set_default_threshold(self._config.gst_debug_level if is_asked else 1)
        if not is_asked:
            for category in ("rtspclient", "rtspmedia"):
                gst.debug_set_threshold_for_name(category, gst.DebugLevel.NONE)

    # Life.

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises: Busy when another daemon answers for this device."""
        self._tell_start()
        self._publish_local()
        self._open_control()
        self._open_http()
        prober = threading.Thread(target=self._probe_again, name="prober", daemon=True)
        prober.start()
        self._add_signals()
        self._gst.GLib.timeout_add(_TICK_MS, self._tick)
        self._notifier.ready(self._mount.spec.describe())
        try:
            self._loop.run()
        finally:
            self._notifier.stopping()
            self._stop.set()
            self._shut_down()

    def _add_signals(self) -> None:
        glib = self._gst.GLib
        for number in (signal.SIGTERM, signal.SIGINT):
            glib.unix_signal_add(glib.PRIORITY_HIGH, number, self._loop.quit)
        glib.unix_signal_add(glib.PRIORITY_DEFAULT, signal.SIGHUP, self._hang_up)

    def _shut_down(self) -> None:
        if self._http is not None:
            self._http.close()
        if self._control is not None:
            self._control.close()
        self._system.path(STREAM_LOCAL_JSON).unlink(missing_ok=True)
        for listener in self._listeners():
            listener.close()
            listener.drop_clients()

    def _tell_start(self) -> None:
        for problem in self._loaded.problems:
            log.warning("config.env", extra={"problem": problem.text()})
        spec = self._mount.spec
        for note in spec.notes:
            log.warning("stream", extra={"note": note})
        log.info(
            "stream ready",
            extra={
                "port": self._public.port,
                "path": self._config.rtsp_path,
                "pipeline": spec.describe(),
                "login": self._config.rtsp_auth_method if self._config.is_auth_on else "none",
            },
        )

    def call(self, action: Callable[[], T]) -> T:
        """Run something in the main loop and wait for it; for the other threads.

        Raises: Unreachable when the loop does not come to it in time, or what the action raises.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def act() -> bool:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(action())
                except MeetingctlError as error:
                    future.set_exception(error)
            return False

        self._gst.GLib.idle_add(act)
        try:
            return future.result(_LOOP_TIMEOUT_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise Unreachable(f"the stream daemon did not answer within {_LOOP_TIMEOUT_S:g} s") from None

    # Listeners and mounts.

    def _listeners(self) -> list[Listener]:
        return [self._public, self._local, *self._old_listeners]

    def _open_public(self, config: DeviceConfig) -> Listener:
        return Listener(
            self._gst,
            self._options.host,
            config.rtsp_port,
            transports=config.rtsp_protocols,
            auth=make_auth(self._gst, config),
            on_play=self._viewer_joined,
        )

    def _add_main(self, spec: LaunchSpec) -> Mount:
        path = self._config.rtsp_path
        pool = _address_pool(self._gst, self._config)
        mount = Mount(self._gst, path, spec, pool=pool, feeder=self._make_feeder(spec), on_error=self._media_failed)
        self._public.add(path, mount)
        self._local.add(self._local_path, mount)
        return mount

    def _make_feeder(self, spec: LaunchSpec) -> Picamera | None:
        return open_feeder(self._system, self._gst, self._config, spec) if spec.source.kind == "csi" else None

    def _replace_substream(self) -> None:
        """Add, change or remove the second stream as the configuration says."""
        wanted = build_substream(self._config, self._facts, self.local_url) if self._config.substream_enable else None
        if wanted is not None and self._sub is not None:
            plan = plan_mount(self._sub.spec, wanted, moved=self._sub.path != f"{self._config.rtsp_path}-sub")
            if not plan.swap:
                self._sub.set_live(wanted.properties)
                return
        if self._sub is not None:
            self._public.remove(self._sub.path)
            self._draining.append(self._sub)
            self._sub = None
        if wanted is not None:
            check_launch(self._gst, wanted.launch)
            self._sub = Mount(self._gst, f"{self._config.rtsp_path}-sub", wanted, on_error=self._media_failed)
            self._public.add(self._sub.path, self._sub)

    @property
    def local_url(self) -> str:
        """Where programs on this device read the stream without a login."""
        return f"rtsp://127.0.0.1:{self._local.port}/{self._local_path}"

    @property
    def has_sound(self) -> bool:
        return self._mount.spec.sound != "none"

    def _publish_local(self) -> None:
        """Write where the recorder reads; only the daemons may see it, because no login protects it."""
        body = {"host": "127.0.0.1", "port": self._local.port, "path": self._local_path, "pid": os.getpid()}
        self._system.write(STREAM_LOCAL_JSON, json.dumps(body), mode=0o600)

    def _viewer_joined(self, media: Any) -> None:
        for mount in self._mounts():
            if any(flow.media == media for flow in mount.running()):
                mount.request_keyframe()

    def _mounts(self) -> list[Mount]:
        return [self._mount, *([self._sub] if self._sub else []), *self._draining]

    # The tick.

    def _tick(self) -> bool:
        self._ticks += 1
        now_s = time.monotonic()
        self._drop_stalled(now_s)
        flows = self._mount.running()
        if flows:
            newest = max(flows, key=lambda flow: flow.started_s)
            self._rates.sample(now_s, newest.frames, newest.bytes)
        else:
            self._rates.clear()
        if self._ticks % _CLEAN_UP_TICKS == 0:
            for listener in self._listeners():
                listener.clean_up()
            self._forget_drained()
        if self._ticks % _ALIVE_TICKS == 0:
            self._notifier.alive()
            if self._hls is not None:
                self._hls.stop_when_idle()
        return True

    def _drop_stalled(self, now_s: float) -> None:
        """A source that hangs freezes its viewers for ever: disconnect them, so that they come back to fresh media."""
        for mount in self._mounts():
            for flow in mount.running():
                if now_s - flow.last_buffer_s <= STALL_S:
                    continue
                dropped = sum(listener.drop_clients(flow.media) for listener in self._listeners())
                if dropped:
                    flow.last_buffer_s = now_s
                    self._stalls += 1
                    log.warning("source is silent: viewers dropped", extra={"path": mount.path, "viewers": dropped})

    def _forget_drained(self) -> None:
        for mount in [mount for mount in self._draining if not mount.running()]:
            self._media_started_before += mount.media_started
            self._draining.remove(mount)
        self._old_listeners = [listener for listener in self._old_listeners if listener.connections()]

    # Failures.

    def _media_failed(self, mount: Mount, media: Any, element: str, age_s: float) -> None:
        """Take note of a failure; a streaming thread calls."""
        self._gst.GLib.idle_add(self._judge_failure, mount, media, element, age_s)

    def _judge_failure(self, mount: Mount, media: Any, element: str, age_s: float) -> bool:
        self._media_errors += 1
        # Broken media lives as long as one viewer holds it, and answers 503 to all others.
        for listener in self._listeners():
            listener.drop_clients(media)
        if mount is not self._mount:
            return False
        self._failures = [*self._failures, (element, age_s)][-_MOST_FAILURES:]
        encoder = mount.spec.encoder
        if element.startswith("microphone"):
            log.warning("sound card lost: video goes on without sound")
            self._adopt_facts(replace(self._facts, sound_device=""))
        elif should_step_down(encoder, is_hardware=encoder in HARDWARE, failures=self._failures):
            self._step_down(encoder)
        return False

    def _step_down(self, encoder: str) -> None:
        remaining = tuple(name for name in self._facts.encoders if name != encoder)
        if not remaining:
            log.error("encoder fails and no other one works", extra={"encoder": encoder})
            return
        log.warning("encoder fails, taking the next one", extra={"encoder": encoder, "next": remaining[0]})
        self._failures.clear()
        self._adopt_facts(replace(self._facts, encoders=remaining))

    # Facts that appear later: a camera, a sound card, an origin.

    def _probe_again(self) -> None:
        """Look again for what is missing, in a thread of its own."""
        while not self._stop.wait(_FACTS_PAUSE_S):
            config, facts = self._config, self._facts
            if is_incomplete(config, facts):
                found = read_facts(self._system, self._gst, config)
                found = replace(found, encoders=facts.encoders)
                with contextlib.suppress(MeetingctlError):
                    self.call(lambda found=found, config=config: self._adopt_if_same(found, config))  # type: ignore[misc]

    def _adopt_if_same(self, facts: Facts, config: DeviceConfig) -> None:
        if config is self._config and facts != self._facts:
            self._adopt_facts(facts)

    def _adopt_facts(self, facts: Facts) -> None:
        """Run what fits the new facts, with the same configuration."""
        config = effective_config(self._loaded, facts)
        try:
            self._apply(config, facts, self._loaded)
        except MeetingctlError as error:
            log.error("stream cannot change", extra={"error": error.message, "hint": error.hint})

    # Reload.

    def _hang_up(self) -> bool:
        try:
            self.reload()
        except MeetingctlError as error:
            log.error("configuration kept", extra={"error": error.message, "hint": error.hint})
        return True

    def reload(self) -> dict[str, Any]:
        """Read config.env again and do what it asks for. Raises: ConfigError, MeetingctlError; nothing changes then."""
        loaded = read_config(self._system)
        if faults := [fault for fault in loaded.faults() if fault.kind != "missing" and "S" in (fault.readers or "S")]:
            raise InvalidInput(f"config.env: {faults[0].text()}", hint="meetingctl device config check")
        wanted = loaded.require("S")
        facts = self._facts if not _needs_probe(self._config, wanted) else self._read_facts_for(wanted)
        plan = self._apply(effective_config(loaded, facts), facts, loaded)
        log.info("configuration read again", extra={"actions": ",".join(plan.actions) or "none"})
        return {"actions": list(plan.actions), "pipeline": self._mount.spec.describe()}

    def _read_facts_for(self, config: DeviceConfig) -> Facts:
        found = read_facts(self._system, self._gst, config)
        # An encoder that failed in service stays out until the next start.
        return replace(found, encoders=tuple(e for e in found.encoders if e in self._facts.encoders))

    def _apply(self, config: DeviceConfig, facts: Facts, loaded: Loaded) -> ReloadPlan:
        spec = build_stream(config, facts)
        check_launch(self._gst, spec.launch)
        plan = plan_reload(self._config, config, self._mount.spec, spec)
        # The new port first: when it is taken, nothing has changed.
        public = self._open_public(config) if plan.rebind else self._public
        self._config, self._facts, self._loaded = config, facts, loaded
        if plan.rebind:
            self._rebind(public)
        if plan.login:
            self._public.set_auth(make_auth(self._gst, config))
        self._public.transports = frozenset(config.rtsp_protocols)
        if plan.main.swap:
            self._swap(spec, drop_clients=plan.drop_clients)
        elif plan.main.set_live or self._mount.spec != spec:
            self._mount.spec = spec
            self._mount.set_live(spec.properties)
        self._replace_substream()
        return plan

    def _rebind(self, public: Listener) -> None:
        """Serve on the new port; viewers of the old one stay until they leave."""
        old, self._public = self._public, public
        old.close()
        self._old_listeners.append(old)
        public.add(self._mount.path, self._mount)
        if self._sub is not None:
            public.add(self._sub.path, self._sub)

    def _swap(self, spec: LaunchSpec, *, drop_clients: bool) -> None:
        """Serve new media. Viewers of the old one keep it, unless its camera or sound card opens only once.

        The recorder is always sent to the new media: it would otherwise record the old one for ever.
        """
        old = self._mount
        self._public.remove(old.path)
        self._local.remove(self._local_path)
        for listener in self._listeners() if drop_clients else [self._local]:
            listener.drop_clients()
        self._draining.append(old)
        self._mount = self._add_main(spec)
        for note in spec.notes:
            log.warning("stream", extra={"note": note})
        log.info("new media", extra={"pipeline": spec.describe(), "old_viewers": len(old.running())})

    # What others ask for.

    def _open_control(self) -> None:
        path = self._system.path(STREAM_STATE_SOCKET)
        try:
            self._control = ControlSocket(path, self._answer)
        except OSError as exc:
            log.warning("no state socket", extra={"path": str(path), "error": exc.strerror or str(exc)})

    def _answer(self, line: str) -> dict[str, Any]:
        """Answer one line of the control socket; its thread calls."""
        if line in {"", "status"}:
            return self.call(self.status)
        if line == "reload":
            return {"ok": True, **self.call(self.reload)}
        raise InvalidInput("commands are status and reload")

    def _open_http(self) -> None:
        snapshot = Snapshot(self._gst, lambda: self.local_url)
        self._hls = hls = Hls(self._gst, self._system, lambda: self.local_url, lambda: self.has_sound)
        routes = Routes(
            status=lambda: self.call(self.status),
            snapshot=snapshot.take,
            hls_file=hls.read,
            controls=lambda: self._camera().controls(),
            set_controls=lambda wanted: self._camera().set_controls(wanted),
        )
        try:
            self._http = LoopbackHttp(CSI_CONTROL_HOST, self._options.http_port, routes, on_close=hls.stop)
        except Busy as error:
            log.warning("no loopback HTTP", extra={"error": error.message, "hint": error.hint})

    def _camera(self) -> Picamera:
        """Return the CSI camera. Raises: Conflict for any other source."""
        feeder = self._mount.feeder
        if not isinstance(feeder, Picamera):
            raise Conflict("no CSI camera is streamed", hint="meetingctl device config get CAMERA_TYPE")
        return feeder

    def status(self) -> dict[str, Any]:
        """Return the state as one flat object; docs/operations.md names the fields."""
        now_s = time.monotonic()
        flows = self._mount.running()
        spec, config = self._mount.spec, self._config
        clients = sum(listener.clients() for listener in (self._public, *self._old_listeners))
        local_clients = self._local.clients()
        age_s = figures.youngest_age_s((flow.last_buffer_s for flow in flows), now_s)
        started = sum(mount.media_started for mount in (self._mount, *self._draining)) + self._media_started_before
        return {
            "state": figures.flow_state(
                running=len(flows), players=clients + local_clients, age_s=age_s, stall_s=STALL_S
            ),
            "pid": os.getpid(),
            "uptime_s": round(now_s - self._started_s, 1),
            "clients": clients,
            "local_clients": local_clients,
            "connections": sum(listener.connections() for listener in self._listeners()),
            "fps": round(self._rates.fps, 2),
            "bitrate_bps": self._rates.bitrate_bps,
            "last_buffer_age_s": age_s,
            "restarts": self._media_errors + self._stalls,
            "media_started": started,
            "media_errors": self._media_errors,
            "stalls": self._stalls,
            "mode": config.stream_source_mode,
            "source": spec.source.kind,
            "passthrough": not spec.encoder,
            "encoder": spec.encoder,
            "sound": spec.sound,
            "width": spec.sent.width_px,
            "height": spec.sent.height_px,
            "target_fps": round(float(spec.sent.fps), 3),
            "port": self._public.port,
            "path": config.rtsp_path,
            "substream_path": self._sub.path if self._sub else None,
            "protocols": list(config.rtsp_protocols),
            "login": config.rtsp_auth_method if config.is_auth_on else "none",
            "http_port": self._http.port if self._http else None,
            "notes": [*spec.notes, *(problem.text() for problem in self._loaded.faults())],
        }


def _address_pool(gst: Gstreamer, config: DeviceConfig) -> Any:
    """Return the pool for multicast, None when it is not offered. Addresses are a row from the first one, TTL 1."""
    if "udp-mcast" not in config.rtsp_protocols:
        return None
    import ipaddress

    first = ipaddress.IPv4Address(config.rtsp_multicast_base or "239.255.12.1")
    last = min(first + 15, ipaddress.IPv4Address("239.255.255.255"))
    ports = config.rtsp_multicast_port_min or 50000, config.rtsp_multicast_port_max or 50099
    pool = gst.GstRtspServer.RTSPAddressPool()
    if not pool.add_range(str(first), str(last), *ports, 1):
        raise MeetingctlError(
            f"no multicast pool from {first}", hint="meetingctl device config get RTSP_MULTICAST_BASE"
        )
    return pool


_PROBED = (
    "stream_source_mode",
    "stream_source_url",
    "camera_type",
    "csi_enable",
    "usb_enable",
    "videoin_device",
    "audio_enable",
    "audio_device",
    "audio_device_name",
    "audio_rate",
    "audio_channels",
)


def _needs_probe(old: DeviceConfig, new: DeviceConfig) -> bool:
    return any(getattr(old, name) != getattr(new, name) for name in _PROBED)
