"""Change a configuration file on devices: read, edit, check, write, restart what reads it, show what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli import remote_config_edit as editing
from meetingctl.cli.invocation import Invocation
from meetingctl.cli.remote_devices import Devices, rows_of

if TYPE_CHECKING:
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit

AUTO = "auto"
DIFF_COLUMNS = ("target", "key", "old", "new")

FileOption = Annotated[
    str, typer.Option("--file", metavar="NAME", help="file below /etc/rpi-cam, or its absolute path; *.env or *.json")
]
RestartOption = Annotated[
    list[str] | None,
    typer.Option("--restart", metavar="UNIT", help="restart it when something changed; auto: what reads the keys"),
]


def write_change(
    devices: Devices,
    targets: Sequence[str],
    path: str,
    change: Callable[[str], str],
    *,
    restart: Sequence[str] | None,
    dry_run: bool,
) -> int:
    """Change a file on each device, restart what was asked for, and show what differs."""
    from meetingctl.cli.remote_logs import known_units
    from meetingctl.remote.config import diff_values, read_file, write_file
    from meetingctl.remote.staging import open_staging

    units = known_units([unit for unit in restart or () if unit != AUTO])
    is_auto = AUTO in (restart or ())

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done

        async with open_staging(visit) as staging:
            found = await read_file(staging, path)
            new = change(found.text)
            before, after = (editing.read_values(path, text, reveal=True) for text in (found.text, new))
            rows = diff_values(before, after)
            is_changed = new != found.text and not dry_run
            backup = await write_file(staging, found, new) if is_changed else None
        chosen = [*units, *(editing.units_for(path, [row["key"] for row in rows]) if is_auto else ())]
        restarted = await _restart(visit, chosen, only_running=is_auto) if is_changed else []
        details = {"file": path, "changes": rows, "changed": is_changed, "backup": backup}
        return Done(details={**details, "restarted": restarted, "dry_run": dry_run})

    chosen = devices.choose(targets)
    return chosen.visit(work, lambda reports: _show_changes(devices.run, reports))


async def _restart(visit: Visit, units: Sequence[str], *, only_running: bool) -> list[str]:
    from meetingctl.remote.services import Step, apply_steps, read_states

    if not units:
        return []
    names = list(dict.fromkeys(units))
    if only_running:
        names = [state.unit for state in await read_states(visit, names) if state.is_active]
    await apply_steps(visit, [Step(unit, "restart", "configuration changed") for unit in names])
    return names


def _show_changes(run: Invocation, reports: Sequence[Report]) -> None:
    run.out.rows(rows_of(reports, "changes"), DIFF_COLUMNS, empty="nothing to change")
    for report in reports:
        if backup := report.details.get("backup"):
            run.out.detail(f"{report.target}: the old file is {backup}")
