"""`device services`: the units of this camera, and who holds the camera."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import of
from meetingctl.cli.options import DryRun
from meetingctl.cli.tree import Noun
from meetingctl.core.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meetingctl.core.unitstate import Verb

app = Noun()

Units = Annotated[list[str] | None, typer.Argument(metavar="UNIT...", help="names of our units", show_default=False)]
_COLUMNS = ("unit", "active", "sub", "enabled", "restarts")


@app.command("status")
def show_units(ctx: typer.Context, units: Units = None, root: Root = "") -> None:
    """Show the states of our units, and which programs have a video device open.

    Examples:
      meetingctl device services status
      sudo meetingctl device services status rpi-av-rtsp-recorder --json
    """
    from meetingctl.core.layout import UNITS
    from meetingctl.device.services import find_camera_holders, read_states

    run = of(ctx)
    system, named = open_system(run, root), _names(units or ())
    states = [state for state in read_states(system, named or UNITS) if named or state.is_installed]
    holders = find_camera_holders(system)
    rows = [state.as_json() for state in states]
    if run.out.is_json:
        run.out.value({"units": rows, "camera": holders})
        return
    run.out.rows(rows, _COLUMNS, empty="none of our units is installed")
    for holder in holders:
        run.out.note(f"{holder['device']} is open in {holder['command']} (pid {holder['pid']})")


@app.command("start")
def start_units(ctx: typer.Context, units: Units = None, dry_run: DryRun = False, root: Root = "") -> None:
    """Start units; without a name all that are enabled, the web page last.

    Examples:
      sudo meetingctl device services start
      sudo meetingctl device services start rtsp-recorder
    """
    _change(ctx, "start", units, dry_run=dry_run, root=root)


@app.command("stop")
def stop_units(ctx: typer.Context, units: Units = None, dry_run: DryRun = False, root: Root = "") -> None:
    """Stop units and so free the camera; without a name all but the agent of the tunnel, the web page first.

    What was stopped stays stopped until the next boot: the watchdog leaves it alone.

    Examples:
      sudo meetingctl device services stop
      meetingctl device services stop rtsp-recorder --dry-run
    """
    _change(ctx, "stop", units, dry_run=dry_run, root=root)


@app.command("restart")
def restart_units(ctx: typer.Context, units: Units = None, dry_run: DryRun = False, root: Root = "") -> None:
    """Restart units; without a name all that are installed but the agent of the tunnel.

    Examples:
      sudo meetingctl device services restart rpi-av-rtsp-recorder
    """
    _change(ctx, "restart", units, dry_run=dry_run, root=root)


def _change(ctx: typer.Context, verb: Verb, units: list[str] | None, *, dry_run: bool, root: str) -> None:
    from meetingctl.device.services import apply_services, find_camera_holders, plan_services, read_states

    run = of(ctx)
    system = open_system(run, root)
    steps = plan_services(verb, read_states(system), _names(units or ()))
    changes = any(step.verb for step in steps)
    if changes and not dry_run:
        if os.geteuid() and str(system.root) == "/":
            raise Forbidden(f"only root may {verb} units", hint=f"sudo {run.line('device', 'services', verb)}")
        apply_services(system, steps, on_step=lambda step: run.out.note(f"{step.verb} {step.unit}: {step.reason}"))
    holders = find_camera_holders(system) if verb == "stop" else []
    rows = [step.as_json() for step in steps]
    if run.out.is_json:
        answer = {"steps": rows, "changed": changes and not dry_run, "dry_run": dry_run}
        run.out.value({**answer, "camera": holders} if verb == "stop" else answer)
        return
    run.out.rows(rows, ("unit", "step", "reason"), empty="no unit to change")
    if verb == "stop" and not dry_run:
        for holder in holders:
            run.out.warn(f"{holder['device']} is still open in {holder['command']} (pid {holder['pid']})")


def _names(words: Iterable[str]) -> list[str]:
    """Return names of our units without `.service`. Raises: NotFound."""
    from meetingctl.core.layout import UNITS

    names = [word.removesuffix(".service") for word in words]
    if unknown := next((name for name in names if name not in UNITS), None):
        raise NotFound(f"no unit {unknown[:80]!r} of ours", hint=f"units: {', '.join(UNITS)}")
    return list(dict.fromkeys(names))
