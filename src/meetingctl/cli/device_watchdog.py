"""`device watchdog`: restart what hangs on this camera."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import of
from meetingctl.cli.options import DryRun, Fields
from meetingctl.cli.tree import Noun

app = Noun()

_ORDER = ("running", "stream", "recorder", "failures", "restart_count", "last_restart_at", "last_check_at")


@app.command("run")
def run_watchdog(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="check once, act on it, print the result and end")] = False,
    dry_run: DryRun = False,
    root: Root = "",
) -> int:
    """Watch stream and recorder until SIGTERM, and restart the one that fails MAX_FAILURES checks in a row.

    With --once the exit code is 1 when the stream or the recorder fails. Earlier checks count: run it three times
    and the third restarts what failed three times. --dry-run checks once, restarts nothing and forgets the result.

    Examples:
      meetingctl device watchdog run
      meetingctl device watchdog run --once --json
      meetingctl device watchdog run --dry-run
    """
    run = of(ctx)
    if not once and not dry_run:
        from meetingctl.cli.device_daemon import become_daemon

        become_daemon(run, "meetingctl.device.watchdog", root)

    from meetingctl.device.config import read_config
    from meetingctl.device.notify import Notifier
    from meetingctl.device.watchdog.loop import check_once
    from meetingctl.device.watchdog.rules import rules_of
    from meetingctl.device.watchdog.state import read_kept

    system, out = open_system(run, root), run.out
    rules = rules_of(read_config(system).config)
    check = check_once(system, rules, Notifier(), read_kept(system), dry_run=dry_run)
    out.record({**_shown(check.kept.report, is_json=out.is_json), "dry_run": dry_run}, order=_ORDER)
    states = {check.decision.stream.state, check.decision.recorder.state}
    return 1 if states & {"failing", "urgent"} else 0


@app.command("status")
def show_status(ctx: typer.Context, fields: Fields = "", root: Root = "") -> None:
    """Show what the last check found, and how often something was restarted since the device started.

    Examples:
      meetingctl device watchdog status
      meetingctl device watchdog status --json
    """
    from meetingctl.device.watchdog.state import read_report

    run = of(ctx)
    report = read_report(open_system(run, root))
    run.out.record(_shown(report, is_json=run.out.is_json), fields=fields, order=_ORDER)
    if not report["running"]:
        run.out.note("the watchdog does not run; start it with: systemctl start rtsp-watchdog")


@app.command("recover")
def recover_camera(ctx: typer.Context, dry_run: DryRun = False, root: Root = "") -> None:
    """Restart the stream after a camera was plugged in; the udev rule calls it through rtsp-camera-recovery.

    Nothing happens when the stream does not come from a USB camera, was stopped, or started by itself meanwhile.

    Examples:
      meetingctl device watchdog recover --dry-run
    """
    from meetingctl.cli.signals import stop_on_signals
    from meetingctl.device.config import read_config
    from meetingctl.device.watchdog.recovery import recover
    from meetingctl.device.watchdog.rules import rules_of

    run = of(ctx)
    system, out = open_system(run, root), run.out
    rules = rules_of(read_config(system).config)
    with stop_on_signals() as stop:
        refusal = recover(system, rules, stop, dry_run=dry_run)
    done = f"{'would restart' if dry_run else 'restarted'} {rules.stream_unit}"
    record = {"restarted": refusal is None and not dry_run, "reason": refusal or "camera-plugged", "dry_run": dry_run}
    out.value(record, text=f"nothing to do: {refusal}" if refusal else done)


def _shown(report: dict[str, Any], *, is_json: bool) -> dict[str, Any]:
    """Put a finding into one line for people."""
    if is_json:
        return report
    shown = dict(report)
    for key in ("stream", "recorder"):
        if isinstance(finding := shown.get(key), dict):
            detail = f": {finding['detail']}" if finding.get("detail") else ""
            shown[key] = f"{finding.get('state')} ({finding.get('reason')}){detail}"
    return shown
