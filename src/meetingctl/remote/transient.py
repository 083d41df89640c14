"""A transient unit of systemd on a device: work that goes on when the connection is lost, and that anybody may follow.

Everything here is pure: the lines to send, and what their answers mean.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from meetingctl.remote.parsers import parse_units, parse_whole

BUSY_CODE = 75
_PROPERTIES = "Id,ActiveState,SubState,Result,ExecMainStatus,InvocationID,Description"


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """What systemd says of the unit; `job` is what it was started for, `exit_code` counts when it is over."""

    active: str = ""
    sub: str = ""
    result: str = ""
    exit_code: int = 0
    invocation: str = ""
    job: str = ""

    @property
    def is_running(self) -> bool:
        return self.active in {"activating", "deactivating", "reloading"} or self.sub in {"running", "start"}

    @property
    def is_over(self) -> bool:
        return not self.is_running and (self.active == "failed" or self.sub == "exited")

    @property
    def is_good(self) -> bool:
        return self.is_over and self.result == "success" and self.exit_code == 0


def show_line(unit: str) -> str:
    """Write the line that asks systemd for the unit."""
    return f"systemctl show --no-pager --property={_PROPERTIES} -- {unit}.service"


def parse_unit(unit: str, text: str) -> UnitFacts:
    """Read the answer."""
    values = parse_units(text).get(unit, {})
    return UnitFacts(
        values.get("ActiveState", ""),
        values.get("SubState", ""),
        values.get("Result", ""),
        parse_whole(values.get("ExecMainStatus", "")) or 0,
        values.get("InvocationID", ""),
        values.get("Description", "").partition(f"{unit}: ")[2],
    )


def start_line(unit: str, job: str, argv: Sequence[str]) -> str:
    """Write the line that starts the unit, and refuses with BUSY_CODE while another one runs.

    It stays loaded when it is over, so that its exit status can be read later.
    """
    show = f"systemctl show --property=SubState --value -- {unit}.service"
    words = ["systemd-run", "--quiet", f"--unit={unit}", f"--description={unit}: {job}"]
    words += ["--property=RemainAfterExit=yes", "--property=KillMode=mixed", "--", *argv]
    return "\n".join(
        [
            f'case "$({show})" in running|start*|stop*) exit {BUSY_CODE};; esac',
            f"systemctl stop -- {unit}.service 2>/dev/null",
            f"systemctl reset-failed -- {unit}.service 2>/dev/null",
            shlex.join(words),
        ]
    )
