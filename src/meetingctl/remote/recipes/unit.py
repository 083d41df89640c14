"""The transient unit of an installation: started, followed over a link, and forgotten."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meetingctl.core.errors import Busy, MeetingctlError
from meetingctl.core.layout import UPDATE_STATUS_JSON
from meetingctl.remote.recipes.link import Link
from meetingctl.remote.transient import BUSY_CODE, UnitFacts, parse_unit, show_line, start_line
from meetingctl.remote.visit import Privilege, explain_failure

UNIT = "meetingctl-install"
POLL_S = (0.5, 3.0)
JOURNAL_LINES = 1000
_CURSOR = "-- cursor: "
# The file may be that of an earlier update; systemd writes that of the unit when it starts.
_PROGRESS = f"[ {UPDATE_STATUS_JSON} -nt /run/systemd/transient/{UNIT}.service ] && cat {UPDATE_STATUS_JSON}"


@dataclass(frozen=True, slots=True)
class Report:
    """What is new since the last look: lines of the journal, and how far the work says it is."""

    unit: UnitFacts
    lines: Sequence[str]
    progress: Mapping[str, Any]
    cursor: str  # where the journal goes on


def start_unit(link: Link, stage: str, argv: Sequence[str]) -> None:
    """Start the unit. Raises: Busy while one runs already, AuthError, MeetingctlError, TransportLost."""
    answer = link.answer(start_line(UNIT, stage, argv), privilege=Privilege.needed)
    if answer.exit_code == BUSY_CODE:
        raise Busy(
            f"{link.target}: {UNIT}.service runs there already",
            hint=f"meetingctl remote install {link.target} --attach",
        )
    if answer.exit_code:
        raise explain_failure(str(link.target), link.login.user, answer)


def forget_unit(link: Link) -> None:
    """Let systemd forget a unit that ended well."""
    link.ask(f"systemctl stop -- {UNIT}.service", privilege=Privilege.needed)


def follow_unit(link: Link, tell: Callable[[Report], object], *, until_s: float, cursor: str = "") -> UnitFacts:
    """Look at the unit until it is over, and hand on what is new.

    `until_s` is a time of `time.monotonic`. Returns the last state; one that is neither running nor over means that
    the device has restarted. Raises: MeetingctlError at the deadline, TransportLost.
    """
    pause_s = POLL_S[0]
    while True:
        unit, lines, cursor, progress = _look(link, cursor)
        tell(Report(unit, lines, progress, cursor))
        if not unit.is_running:
            return unit
        if time.monotonic() + pause_s > until_s:
            raise MeetingctlError(
                f"{link.target}: {UNIT}.service still runs", hint=f"meetingctl remote install {link.target} --attach"
            )
        time.sleep(pause_s)
        pause_s = POLL_S[0] if lines else min(2 * pause_s, POLL_S[1])


def _look(link: Link, cursor: str) -> tuple[UnitFacts, list[str], str, Mapping[str, Any]]:
    after = f"--after-cursor={shlex.quote(cursor)}" if cursor else ""
    journal = (
        f"id=$(systemctl show --property=InvocationID --value -- {UNIT}.service); "
        f"journalctl --quiet --no-pager --output=cat --lines={JOURNAL_LINES} {after} --show-cursor "
        '_SYSTEMD_INVOCATION_ID="$id"'
    )
    # The state is asked for first: what the unit wrote before it ended is then in the journal.
    commands = {"unit": show_line(UNIT), "journal": journal, "progress": _PROGRESS}
    sections = link.ask_sections(commands, privilege=Privilege.needed)
    lines = sections.get("journal", "").splitlines()
    marks = [line.removeprefix(_CURSOR).strip() for line in lines if line.startswith(_CURSOR)]
    shown = [line for line in lines if line.strip() and not line.startswith(_CURSOR)]
    return parse_unit(UNIT, sections.get("unit", "")), shown, marks[-1] if marks else cursor, _read_progress(sections)


def _read_progress(sections: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        progress = json.loads(sections.get("progress", ""))
    except (ValueError, RecursionError):
        return {}
    return progress if isinstance(progress, Mapping) else {}
