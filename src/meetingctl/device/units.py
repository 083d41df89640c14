"""Units of systemd on the device: read their state, restart them."""

from __future__ import annotations

from dataclasses import dataclass

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.system import System

_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus", "ActiveEnterTimestampMonotonic")
_ASK_TIMEOUT_S = 10.0
# Stopping may take TimeoutStopSec, starting TimeoutStartSec of our units.
RESTART_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Unit:
    """What systemd says of a unit; the words are systemd's own, all empty when it could not be asked.

    `active_since_s` is on the monotonic clock, None while the unit was never active.
    """

    name: str
    load: str = ""
    active: str = ""
    sub: str = ""
    result: str = ""
    exit_status: int = 0
    active_since_s: float | None = None

    @property
    def is_known(self) -> bool:
        """Say whether systemd answered and has this unit."""
        return self.load == "loaded"

    @property
    def is_stopped(self) -> bool:
        """Say whether somebody stopped it, or never started it: a crash ends in another state."""
        return self.is_known and self.active == "inactive"

    @property
    def is_changing(self) -> bool:
        """Say whether it is starting, stopping or about to be started again."""
        return self.active in {"activating", "deactivating", "reloading", "maintenance"}


def parse_unit(name: str, text: str) -> Unit:
    """Read the output of `systemctl show`."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    since_us = _whole(values.get("ActiveEnterTimestampMonotonic", ""))
    return Unit(
        name,
        values.get("LoadState", ""),
        values.get("ActiveState", ""),
        values.get("SubState", ""),
        values.get("Result", ""),
        _whole(values.get("ExecMainStatus", "")),
        since_us / 1e6 if since_us else None,
    )


def read_unit(system: System, name: str) -> Unit:
    """Ask systemd for a unit (name without `.service`). Never raises: without systemd the state is unknown."""
    ran = system.run(
        "systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", f"{name}.service", timeout_s=_ASK_TIMEOUT_S
    )
    return parse_unit(name, ran.out if ran.ok else "")


def restart_unit(system: System, name: str, *, only_running: bool = False) -> None:
    """Restart a unit in one job of systemd, which also ends what is left of its processes.

    Stop and start are not two calls on purpose: who dies between them leaves the camera off. With `only_running` a
    stopped unit stays stopped. Raises: MeetingctlError.
    """
    unit = f"{name}.service"
    if not only_running:
        # A unit that used up its start limit refuses to start until its counter is reset.
        system.run("systemctl", "reset-failed", "--", unit, timeout_s=_ASK_TIMEOUT_S)
    verb = "try-restart" if only_running else "restart"
    ran = system.run("systemctl", verb, "--", unit, timeout_s=RESTART_TIMEOUT_S)
    if not ran.ok:
        detail = "no answer in time" if ran.timed_out else " ".join(ran.err.split())[:200]
        raise MeetingctlError(
            f"{unit}: systemctl {verb} failed with code {ran.code}: {detail}", hint=f"systemctl status {unit}"
        )


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else 0
