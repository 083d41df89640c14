"""`meetingctl remote services`, `remote reboot` and `remote shutdown`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_devices import Chosen, Devices, on_devices, rows_of
from meetingctl.cli.tree import Noun

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.fanout import Done, Heard, Report
    from meetingctl.remote.services import Verb
    from meetingctl.remote.visit import Visit

app = Noun()

TargetsAndUnits = Annotated[
    list[str] | None, typer.Argument(metavar="TARGET... [UNIT...]", help="devices, and names of our units")
]

_LIST_COLUMNS = ("target", "unit", "active", "sub", "enabled", "restarts")
_STEP_COLUMNS = ("target", "unit", "step", "reason")


@app.command("list")
@on_devices()
def list_units(ctx: typer.Context, devices: Devices, words: TargetsAndUnits = None) -> int:
    """Show the states of our units, in systemd's words.

    Examples:
      meetingctl remote services list demo-cam
      meetingctl remote services list --all rtsp-recorder --json
    """
    from meetingctl.core.layout import UNITS
    from meetingctl.remote.services import read_states, split_units

    targets, units = split_units(words or ())
    chosen = devices.choose(targets)

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done

        states = await read_states(visit, units or UNITS)
        shown = [state for state in states if units or state.is_installed]
        return Done(details={"units": [state.as_json() for state in shown]})

    def show(reports: Sequence[Report]) -> None:
        devices.run.out.rows(rows_of(reports, "units"), _LIST_COLUMNS, empty="none of our units is installed")

    return chosen.visit(work, show)


def _change(devices: Devices, words: Sequence[str] | None, verb: Verb, *, dry_run: bool) -> int:
    from meetingctl.core.layout import UNITS
    from meetingctl.remote.services import apply_steps, choose_units, plan_units, read_states, split_units

    targets, named = split_units(words or ())
    chosen = devices.choose(targets)

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done

        states = await read_states(visit, UNITS)
        steps = plan_units(verb, choose_units(verb, states, named), states)
        changed = any(step.verb for step in steps) and not dry_run
        details: dict[str, Any] = {"steps": [step.as_json() for step in steps], "changed": changed, "dry_run": dry_run}
        if not dry_run:
            details["units"] = [state.as_json() for state in await apply_steps(visit, steps)]
        return Done(details=details)

    def show(reports: Sequence[Report]) -> None:
        devices.run.out.rows(rows_of(reports, "steps"), _STEP_COLUMNS, empty="no unit to change")

    return chosen.visit(work, show)


@app.command("start")
@on_devices()
def start_units(ctx: typer.Context, devices: Devices, words: TargetsAndUnits = None, dry_run: DryRun = False) -> int:
    """Start units; without a name all that are enabled.

    Examples:
      meetingctl remote services start demo-cam
      meetingctl remote services start cam-1 cam-2 rtsp-recorder
    """
    return _change(devices, words, "start", dry_run=dry_run)


@app.command("stop")
@on_devices()
def stop_units(ctx: typer.Context, devices: Devices, words: TargetsAndUnits = None, dry_run: DryRun = False) -> int:
    """Stop units; without a name all that are installed, the web page first.

    The agent of the tunnel is one of them: a device that is reached only through it is out of reach afterwards.

    Examples:
      meetingctl remote services stop demo-cam rtsp-recorder
      meetingctl remote services stop --all rpi-av-rtsp-recorder --dry-run
    """
    return _change(devices, words, "stop", dry_run=dry_run)


@app.command("restart")
@on_devices()
def restart_units(ctx: typer.Context, devices: Devices, words: TargetsAndUnits = None, dry_run: DryRun = False) -> int:
    """Restart units; without a name all that are installed.

    Examples:
      meetingctl remote services restart demo-cam rpi-av-rtsp-recorder
    """
    return _change(devices, words, "restart", dry_run=dry_run)


@app.command("enable")
@on_devices()
def enable_units(ctx: typer.Context, devices: Devices, words: TargetsAndUnits = None, dry_run: DryRun = False) -> int:
    """Let units start with the device; they are not started now.

    Examples:
      meetingctl remote services enable demo-cam rtsp-watchdog
    """
    return _change(devices, words, "enable", dry_run=dry_run)


@app.command("disable")
@on_devices()
def disable_units(ctx: typer.Context, devices: Devices, words: TargetsAndUnits = None, dry_run: DryRun = False) -> int:
    """Let units no longer start with the device; they are not stopped now.

    Examples:
      meetingctl remote services disable demo-cam rtsp-watchdog
    """
    return _change(devices, words, "disable", dry_run=dry_run)


@on_devices(deadline="1h")
def reboot_devices(
    ctx: typer.Context,
    devices: Devices,
    wait: Annotated[bool, typer.Option("--wait", help="wait until each is back, told by its boot id")] = False,
    within: Annotated[str, typer.Option("--within", metavar="DURATION", help="how long --wait waits")] = "5m",
    dry_run: DryRun = False,
) -> int:
    """Restart devices. Asks before it restarts more than one.

    Examples:
      meetingctl remote reboot demo-cam --wait
      meetingctl remote reboot tag:lobby --wait --parallel 2 --fail-fast --yes
    """
    from meetingctl.core.duration import parse_duration_s

    within_s = parse_duration_s(within)
    chosen = devices.choose()
    if not dry_run and not chosen.is_single:
        devices.run.confirm(f"Restart {len(chosen.targets)} devices?")
    return _change_power(chosen, "reboot", wait_s=within_s if wait else None, dry_run=dry_run)


@on_devices()
def shut_devices_down(ctx: typer.Context, devices: Devices, dry_run: DryRun = False) -> int:
    """Switch devices off. Somebody has to go there to switch them on again, so it asks.

    Examples:
      meetingctl remote shutdown demo-cam --yes
      meetingctl remote shutdown tag:lobby --dry-run
    """
    chosen = devices.choose()
    if not dry_run:
        names = ", ".join(str(target) for target in chosen.targets[:3]) + (", ..." if len(chosen.targets) > 3 else "")
        devices.run.confirm(f"Switch off {len(chosen.targets)} device(s): {names}?")
    return _change_power(chosen, "poweroff", wait_s=None, dry_run=dry_run)


def _change_power(chosen: Chosen, verb: str, *, wait_s: float | None, dry_run: bool) -> int:
    from meetingctl.remote.reboot import begin_power_change, read_boot_id, wait_for_boot

    async def begin(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done

        before = await (read_boot_id(visit) if dry_run else begin_power_change(visit, verb))
        return Done(details={"step": verb, "boot_id_before": before, "boot_id_after": None, "dry_run": dry_run})

    with chosen.open() as access:

        async def act(target: Target, heard: Heard) -> Done:
            from meetingctl.remote.fanout import Done

            done = await chosen.visit_one(access, target, heard, begin)
            if wait_s is None or dry_run:
                return done

            async def ask() -> str:
                return await access.visit(target, read_boot_id, via=chosen.options["via"].value, began=heard)

            back = await wait_for_boot(done.details["boot_id_before"], ask, within_s=wait_s, target=str(target))
            more = {"boot_id_after": back.boot_id_after, "waited_s": round(back.waited_s, 1)}
            return Done(details={**done.details, **more})

        return chosen.act(act, _show_power(chosen.run))


def _show_power(run: Invocation) -> Callable[[Sequence[Report]], None]:
    def show(reports: Sequence[Report]) -> None:
        rows = [{"target": report.target, **report.details} for report in reports if report.details]
        if rows:
            run.out.rows(rows, ("target", "step", "boot_id_before", "boot_id_after"), empty="")

    return show
