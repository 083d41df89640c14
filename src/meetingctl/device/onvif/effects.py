"""What an operation may do to the device: write its configuration, reload the stream, set controls, switch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from meetingctl.core.errors import MeetingctlError, NotFound, Unreachable
from meetingctl.device.config import Loaded, change_config
from meetingctl.device.onvif import imaging
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.pullpoint import RELAY_TOPIC, Message
from meetingctl.device.onvif.relay import Relay
from meetingctl.device.stream.control import ask_daemon
from meetingctl.device.system import System
from meetingctl.device.units import restart_unit

_MERGE_S = 2.0
_RELOAD_TIMEOUT_S = 30.0
_PICTURE_AGE_S = 1.0
_PICTURE_WAIT_S = 10.0

log = logging.getLogger(__name__)


class Reloader:
    """Reload the stream once for all changes within two seconds, in a thread."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._last_s = -_MERGE_S

    def ask(self, unit: str) -> None:
        """Let the stream read its configuration soon: at once, or at the end of the two seconds."""
        with self._lock:
            if self._timer is not None:
                return
            wait_s = max(0.0, self._last_s + _MERGE_S - time.monotonic())
            self._timer = threading.Timer(wait_s, self._reload, (unit,))
            self._timer.daemon = True
            self._timer.start()

    def _reload(self, unit: str) -> None:
        with self._lock:
            self._timer, self._last_s = None, time.monotonic()
        try:
            done = ask_daemon(self._system, "reload", timeout_s=_RELOAD_TIMEOUT_S)
            log.info("stream reloaded", extra={"actions": ",".join(done.get("actions", ()))})
        except Unreachable:
            self._restart(unit)
        except MeetingctlError as error:
            log.error("stream kept its configuration", extra={"error": error.message})

    def _restart(self, unit: str) -> None:
        try:
            restart_unit(self._system, unit, only_running=True)
        except MeetingctlError as error:
            log.error("stream cannot be restarted", extra={"error": error.message})

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()


class Effects:
    """The ways to act. Everything here may block and belongs into a thread."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._reloader = Reloader(system)
        self._picture_lock = threading.Lock()
        self._picture = (b"", 0.0)
        self._relay_lock = threading.Lock()
        self._relay: Relay | None = None
        self._no_relay: tuple[str, str | None] = ("no relay", None)

    def change_config(self, plan: Callable[[Facts], Mapping[str, str]], facts: Facts) -> None:
        """Write the keys of config.env that `plan` returns and let the stream read them; nothing when there are none.

        The plan is made again under the lock of the file: two clients at once must not get half of each.
        Raises: MeetingctlError and what the plan raises.
        """
        if not plan(facts):
            return
        written: dict[str, str] = {}

        def plan_now(loaded: Loaded) -> Mapping[str, str]:
            config = loaded.for_csi() if facts.is_csi else loaded.config
            written.update(plan(replace(facts, config=config)))
            return written

        change_config(self._system, plan_now)
        if written:
            log.info("configuration changed", extra={"keys": ",".join(sorted(written))})
            self._reloader.ask(facts.config.rtsp_service)

    def read_camera(self, facts: Facts) -> imaging.Camera:
        return imaging.read_camera(self._system, facts)

    def write_controls(self, facts: Facts, camera: imaging.Camera, planned: Mapping[str, float]) -> None:
        """Raises: MeetingctlError."""
        imaging.write_controls(self._system, facts, camera, planned)

    def hold_relay(self, take: Callable[[], Relay]) -> Message:
        """Release the line that is held, take another one and return the event of its state.

        Raises: MeetingctlError with the reason why there is no relay now.
        """
        with self._relay_lock:
            self._release_relay()
            try:
                self._relay = take()
            except MeetingctlError as error:
                self._no_relay = (error.message, error.hint)
                raise
            return _relay_message(self._relay)

    def relay(self) -> Relay:
        """Return the relay. Raises: NotFound with the reason why there is none."""
        if self._relay is None:
            raise NotFound(self._no_relay[0], hint=self._no_relay[1])
        return self._relay

    def set_relay(self, is_on: bool, publish: Callable[[Message], None]) -> None:
        """Switch the relay and tell of it, in this order also when two ask at once. Raises: MeetingctlError."""
        with self._relay_lock:
            relay = self.relay()
            relay.set(is_on)
            publish(_relay_message(relay))

    def _release_relay(self) -> None:
        if self._relay is not None:
            self._relay.close()
        self._relay = None

    def request_keyframe(self) -> None:
        """Ask the encoder for a keyframe; a stream that cannot sends one at its next interval anyway."""
        try:
            ask_daemon(self._system, "keyframe")
        except MeetingctlError as error:
            log.debug("no keyframe", extra={"error": error.message})

    def take_picture(self, facts: Facts) -> bytes:
        """Return a JPEG that is at most one second old; one grab at a time. Raises: MeetingctlError."""
        if not self._picture_lock.acquire(timeout=_PICTURE_WAIT_S):
            raise Unreachable("another picture is being taken")
        try:
            picture, taken_s = self._picture
            if not picture or time.monotonic() - taken_s > _PICTURE_AGE_S:
                picture = imaging.take_picture(facts)
                self._picture = (picture, time.monotonic())
            return picture
        finally:
            self._picture_lock.release()

    def close(self) -> None:
        self._reloader.close()
        with self._relay_lock:
            self._release_relay()


def _relay_message(relay: Relay) -> Message:
    state = "active" if relay.is_on else "inactive"
    return Message(RELAY_TOPIC, ("RelayToken", relay.token), ("LogicalState", state), time.time())
