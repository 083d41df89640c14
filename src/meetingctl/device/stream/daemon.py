"""The stream daemon: the loop that watches the streams, heals them, reloads them and tells about them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from meetingctl.core.descriptors import raise_descriptor_limit
from meetingctl.core.errors import Busy, Conflict, InvalidInput, MeetingctlError, Unreachable
from meetingctl.core.layout import CSI_CONTROL_HOST, CSI_CONTROL_PORT, STREAM_LOCAL_JSON, STREAM_STATE_SOCKET
from meetingctl.device.config import DeviceConfig, read_config
from meetingctl.device.notify import Notifier
from meetingctl.device.stream import figures
from meetingctl.device.stream.control import ControlSocket
from meetingctl.device.stream.csi import Picamera
from meetingctl.device.stream.encoders import HARDWARE
from meetingctl.device.stream.facts import Facts
from meetingctl.device.stream.gstreamer import load_gstreamer
from meetingctl.device.stream.http import LoopbackHttp, Routes
from meetingctl.device.stream.motion import Motion
from meetingctl.device.stream.mount import Mount
from meetingctl.device.stream.probe import is_incomplete, read_facts
from meetingctl.device.stream.reload import should_step_down
from meetingctl.device.stream.stage import Stage, effective_config
from meetingctl.device.stream.tap import Hls, Snapshot
from meetingctl.device.system import System

STALL_S = 3.0
_TICK_MS = 500
_CLEAN_UP_TICKS = 4
_ALIVE_TICKS = 10
_FACTS_PAUSE_S = 10.0
_LOOP_TIMEOUT_S = 10.0
_RELOAD_TIMEOUT_S = 30.0
_MOST_FAILURES = 20
_SOUND_PAUSE_S = 15.0  # doubled at each loss
_MOST_SOUND_PAUSE_S = 600.0

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides. `host` is where viewers connect; `http_port` 0 takes a free one."""

    host: str = "0.0.0.0"  # noqa: S104 - a camera serves its network; RTSP_USER and RTSP_PASSWORD protect it
    http_port: int = CSI_CONTROL_PORT


class StreamDaemon:
    """One running stream server. Its methods belong to the main loop unless they say otherwise."""

    def __init__(self, system: System, notifier: Notifier, options: Options) -> None:
        """Build everything and open the ports. Raises: ConfigError, MeetingctlError."""
        self._system = system
        self._notifier = notifier
        self._options = options
        raise_descriptor_limit()
        self._gst = load_gstreamer()
        self._stage = Stage(self._gst, system, options.host, on_error=self._media_failed)
        self._set_debug_level()
        self._started_s = time.monotonic()
        self._loop = self._gst.GLib.MainLoop()
        self._stop = threading.Event()
        self._rates = figures.Rates()
        self._motion = Motion()
        self._failures: list[tuple[str, float]] = []
        self._media_errors = self._stalls = self._ticks = 0
        self._sound_pause_s, self._sound_after_s = _SOUND_PAUSE_S, 0.0
        self._control: ControlSocket | None = None
        self._http: LoopbackHttp | None = None
        self._hls: Hls | None = None

    def _set_debug_level(self) -> None:
        """GStreamer writes to stderr; unasked only its errors, of which every login of a viewer is one."""
        gst = self._gst.Gst
        is_asked = self._stage.loaded.origins["GST_DEBUG_LEVEL"] != "default"
        gst.debug_set_color_mode(gst.DebugColorMode.OFF)
        gst.debug_set_default_threshold(self._stage.config.gst_debug_level if is_asked else 1)
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
        self._notifier.ready(self._stage.mount.spec.describe())
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
        self._stage.close()

    def _tell_start(self) -> None:
        for problem in self._stage.loaded.problems:
            log.warning("config.env", extra={"problem": problem.text()})
        config = self._stage.config
        log.info(
            "stream ready",
            extra={
                "port": self._stage.public.port,
                "path": config.rtsp_path,
                "pipeline": self._stage.mount.spec.describe(),
                "login": config.rtsp_auth_method if config.is_auth_on else "none",
            },
        )

    def _publish_local(self) -> None:
        """Write where the recorder reads; only the daemons may see it, because no login protects it."""
        stage = self._stage
        body = {"host": "127.0.0.1", "port": stage.local.port, "path": stage.local_path, "pid": os.getpid()}
        self._system.write(STREAM_LOCAL_JSON, json.dumps(body), mode=0o600)

    def call(self, action: Callable[[], T], *, timeout_s: float = _LOOP_TIMEOUT_S) -> T:
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
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise Unreachable(f"the stream daemon did not answer within {timeout_s:g} s") from None

    # The tick.

    def _tick(self) -> bool:
        self._ticks += 1
        now_s = time.monotonic()
        self._drop_stalled(now_s)
        flows = self._stage.mount.running()
        if flows:
            newest = max(flows, key=lambda flow: flow.started_s)
            self._rates.sample(now_s, newest.frames, newest.bytes)
        else:
            self._rates.clear()
        if self._ticks % _CLEAN_UP_TICKS == 0:
            self._stage.clean_up()
        if self._ticks % _ALIVE_TICKS == 0:
            self._notifier.alive()
            if self._hls is not None:
                self._hls.stop_when_idle()
        return True

    def _drop_stalled(self, now_s: float) -> None:
        """A source that hangs freezes its viewers for ever: disconnect them, so that they come back to fresh media."""
        for mount in self._stage.mounts():
            for flow in mount.running():
                if now_s - flow.last_buffer_s <= STALL_S:
                    continue
                if dropped := self._stage.drop_clients(flow.media):
                    flow.last_buffer_s = now_s
                    self._stalls += 1
                    log.warning("source is silent: viewers dropped", extra={"path": mount.path, "viewers": dropped})

    # Failures.

    def _media_failed(self, mount: Mount, media: Any, element: str, age_s: float) -> None:
        """Take note of a failure; a streaming thread calls."""
        self._gst.GLib.idle_add(self._judge_failure, mount, media, element, age_s)

    def _judge_failure(self, mount: Mount, media: Any, element: str, age_s: float) -> bool:
        self._media_errors += 1
        # Broken media lives as long as one viewer holds it, and answers 503 to all others.
        self._stage.drop_clients(media)
        if mount is not self._stage.mount:
            return False
        self._failures = [*self._failures, (element, age_s)][-_MOST_FAILURES:]
        encoder = mount.spec.encoder
        if element.startswith("microphone"):
            self._sound_pause_s = min(2 * self._sound_pause_s, _MOST_SOUND_PAUSE_S)
            self._sound_after_s = time.monotonic() + self._sound_pause_s
            log.warning("sound card lost: video goes on without sound", extra={"retry_s": self._sound_pause_s})
            self._adopt_facts(replace(self._stage.facts, sound_device=""))
        elif should_step_down(encoder, is_hardware=encoder in HARDWARE, failures=self._failures):
            self._step_down(encoder)
        return False

    def _step_down(self, encoder: str) -> None:
        remaining = tuple(name for name in self._stage.facts.encoders if name != encoder)
        if not remaining:
            log.error("encoder fails and no other one works", extra={"encoder": encoder})
            return
        log.warning("encoder fails, taking the next one", extra={"encoder": encoder, "next": remaining[0]})
        self._failures.clear()
        self._adopt_facts(replace(self._stage.facts, encoders=remaining))

    # Facts that appear later: a camera, a sound card, an origin.

    def _probe_again(self) -> None:
        """Look again for what is missing, in a thread of its own."""
        while not self._stop.wait(_FACTS_PAUSE_S):
            config, facts = self._stage.config, self._stage.facts
            # A sound card that fails in service again and again must not cost the viewers their link each time.
            if is_incomplete(config, facts) and time.monotonic() >= self._sound_after_s:
                found = replace(read_facts(self._system, self._gst, config), encoders=facts.encoders)
                with contextlib.suppress(MeetingctlError):
                    self.call(lambda found=found, config=config: self._adopt_if_same(found, config))  # type: ignore[misc]

    def _adopt_if_same(self, facts: Facts, config: DeviceConfig) -> None:
        if config is self._stage.config and facts != self._stage.facts:
            self._adopt_facts(facts)

    def _adopt_facts(self, facts: Facts) -> None:
        """Run what fits the new facts, with the same configuration."""
        config = effective_config(self._stage.loaded, facts)
        try:
            self._stage.apply(config, facts, self._stage.loaded)
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
        facts = self._stage.facts if not _needs_probe(self._stage.config, wanted) else self._read_facts_for(wanted)
        plan = self._stage.apply(effective_config(loaded, facts), facts, loaded)
        log.info("configuration read again", extra={"actions": ",".join(plan.actions) or "none"})
        return {"actions": list(plan.actions), "pipeline": self._stage.mount.spec.describe()}

    def _read_facts_for(self, config: DeviceConfig) -> Facts:
        found = read_facts(self._system, self._gst, config)
        # An encoder that failed in service stays out until the next start.
        return replace(found, encoders=tuple(e for e in found.encoders if e in self._stage.facts.encoders))

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
            return {"ok": True, **self.call(self.reload, timeout_s=_RELOAD_TIMEOUT_S)}
        if line == "keyframe":
            return self.call(self._request_keyframes)
        raise InvalidInput("commands are status, reload and keyframe")

    def _request_keyframes(self) -> dict[str, Any]:
        for mount in self._stage.mounts():
            mount.request_keyframe()
        return {"ok": True}

    def _open_http(self) -> None:
        snapshot = Snapshot(self._gst, lambda: self._stage.local_url)
        self._hls = hls = Hls(
            self._gst, self._system, lambda: self._stage.local_url, lambda: self._stage.mount.spec.sound != "none"
        )
        routes = Routes(
            status=lambda: self.call(self.status),
            snapshot=snapshot.take,
            hls_file=hls.read,
            controls=lambda: self._camera().controls(),
            set_controls=lambda wanted: self._camera().set_controls(wanted),
            report_motion=lambda is_moving: self.call(lambda: self._motion.report(is_moving, time.monotonic())),
        )
        try:
            self._http = LoopbackHttp(CSI_CONTROL_HOST, self._options.http_port, routes, on_close=hls.stop)
        except Busy as error:
            log.warning("no loopback HTTP", extra={"error": error.message, "hint": error.hint})

    def _camera(self) -> Picamera:
        """Return the CSI camera. Raises: Conflict for any other source."""
        feeder = self._stage.mount.feeder
        if not isinstance(feeder, Picamera):
            raise Conflict("no CSI camera is streamed", hint="meetingctl device config get CAMERA_TYPE")
        return feeder

    def status(self) -> dict[str, Any]:
        """Return the state as one flat object: what `device stream status` and /status show."""
        now_s = time.monotonic()
        stage, flows = self._stage, self._stage.mount.running()
        clients, local_clients = stage.clients(), stage.local.clients()
        age_s = figures.youngest_age_s((flow.last_buffer_s for flow in flows), now_s)
        players = clients + local_clients
        is_moving = self._motion.state(now_s)
        return {
            "state": figures.flow_state(running=len(flows), players=players, age_s=age_s, stall_s=STALL_S),
            "pid": os.getpid(),
            "uptime_s": round(now_s - self._started_s, 1),
            "clients": clients,
            "local_clients": local_clients,
            "connections": sum(listener.connections() for listener in stage.listeners()),
            "fps": round(self._rates.fps, 2),
            "bitrate_bps": self._rates.bitrate_bps,
            "last_buffer_age_s": age_s,
            "restarts": self._media_errors + self._stalls,
            "media_started": stage.media_started,
            "media_errors": self._media_errors,
            "stalls": self._stalls,
            **stage.describe(),
            "http_port": self._http.port if self._http else None,
            **({} if is_moving is None else {"motion": is_moving}),
        }


_PROBED = (
    "stream_source_mode",
    "stream_source_url",
    "camera_type",
    "csi_enable",
    "csi_overlay_mode",
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
