"""Whether the clock of this device can be trusted: a wrong one looks like a wrong password, as tokens carry a time."""

from __future__ import annotations

from meetingctl.device.system import System

_TIMEOUT_S = 5.0


def is_synchronized(system: System) -> bool | None:
    """Say what the kernel says of the clock; None where nobody can be asked."""
    ran = system.run("timedatectl", "show", "--property=NTPSynchronized", "--value", timeout_s=_TIMEOUT_S)
    return {"yes": True, "no": False}.get(ran.out.strip()) if ran.ok else None
