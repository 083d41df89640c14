"""`device update`: packages for this camera, from a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import AcceptRisk, DryRun, need_risk
from meetingctl.cli.output import Column
from meetingctl.cli.tree import Noun

app = Noun()
_POLL_S = 0.5

Package = Annotated[Path, typer.Argument(metavar="FILE|DIR", help="a package, or the folder it unpacks to")]
Force = Annotated[bool, typer.Option("--force", help="also when this version is installed already")]
_STEP_COLUMNS = (Column("do"), Column("on"), Column("why"))
_RELEASE_COLUMNS = (Column("name"), Column("version"), Column("state"), Column("installed_at"), Column("previous"))


@app.command("check")
def check_update(ctx: typer.Context, package: Package, force: Force = False, root: Root = "") -> int:
    """Judge a package for this camera; exit code 1 when it would be refused.

    Every file is compared with the manifest; names, kinds and sizes, the version, and the packages that apt lacks are
    looked at.

    Examples:
      meetingctl device update check rpi-cam-update_1.4.0_20261121_101500.tar.gz
      meetingctl device update check ./unpacked --force --json
    """
    from meetingctl.device.update.check import judge_package

    run = of(ctx)
    record = judge_package(open_system(run, root), package, force=force).as_record()
    run.out.record(record)
    for line in record["warnings"] if not run.out.is_json else ():
        run.out.warn(line)
    return 0 if record["ok"] else 1


@app.command("apply")
def apply_update(
    ctx: typer.Context,
    package: Package,
    force: Force = False,
    no_restart: Annotated[bool, typer.Option("--no-restart", help="restart nothing, and watch nothing")] = False,
    no_reboot: Annotated[bool, typer.Option("--no-reboot", help="never reboot, whatever the package says")] = False,
    reset_settings: Annotated[
        bool, typer.Option("--reset-settings", help="begin with an empty configuration; the former one is kept")
    ] = False,
    risks: AcceptRisk = [],  # noqa: B006 - Typer reads the default and copies it
    dry_run: DryRun = False,
    root: Root = "",
) -> None:
    """Apply a package; the version before it stays on the camera, and comes back when the new one does not work.

    Units that ran must run again within a minute, and a stream that answered must answer. The configuration is not
    touched.

    Examples:
      sudo meetingctl device update apply rpi-cam-update_1.4.0_20261121_101500.tar.gz
      meetingctl device update apply ./unpacked --dry-run
    """
    from meetingctl.core.plan import as_rows
    from meetingctl.device.update.check import judge_package, plan_update
    from meetingctl.device.update.job import Options, apply_package

    run = of(ctx)
    system = open_system(run, root)
    if dry_run:
        verdict = judge_package(system, package, force=force)
        verdict.findings.refuse_errors(package.name)
        reboot = not no_reboot and (verdict.as_record()["requires_reboot"] or reset_settings)
        steps = plan_update(system, verdict, restart=not no_restart, reboot=reboot, reset_settings=reset_settings)
        run.out.rows(as_rows(steps), _STEP_COLUMNS, empty="nothing to do")
        return
    if reset_settings:
        need_risk(risks, "erase-config", "--reset-settings empties the configuration, the address of the fleet too")
    options = Options(force, not no_restart, not no_reboot, reset_settings)
    run.out.record(apply_package(system, package, options, run.out.note))


@app.command("status")
def show_update(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="follow a running update to its end")] = False,
    root: Root = "",
) -> int:
    """Show how the last update went, or goes; exit code 1 when it failed.

    Examples:
      meetingctl device update status
      meetingctl device update status --watch
    """
    from meetingctl.device.update.status import RUNNING_STATES, read_status

    run = of(ctx)
    system = open_system(run, root)
    status = read_status(system)
    shown = 0
    while watch and status["state"] in RUNNING_STATES:
        shown = _tell_new_lines(run, status, shown)
        time.sleep(_POLL_S)
        status = read_status(system)
    if watch:
        _tell_new_lines(run, status, shown)
    if run.out.is_json:
        run.out.value(status)
    else:
        run.out.record({key: status[key] for key in ("state", "progress", "message", "updated_at")})
    return 1 if status["state"] == "error" else 0


@app.command("rollback")
def roll_back_update(ctx: typer.Context, dry_run: DryRun = False, root: Root = "") -> None:
    """Return to the version that ran before, with its programs and units.

    Examples:
      sudo meetingctl device update rollback
      meetingctl device update rollback --dry-run
    """
    from meetingctl.device.update.job import plan_rollback, roll_back

    run = of(ctx)
    system = open_system(run, root)
    if dry_run:
        back = plan_rollback(system)
        run.out.record({"from": back.origin, "to": back.target, "dry_run": True})
        return
    run.out.record(roll_back(system, run.out.note))


@app.command("list")
def list_updates(ctx: typer.Context, root: Root = "") -> None:
    """List the releases on this camera: the current one, and those it can go back to.

    Examples:
      meetingctl device update list
      meetingctl device update list --json
    """
    from meetingctl.device.update.releases import list_releases

    run = of(ctx)
    rows = [release.as_row() for release in list_releases(open_system(run, root))]
    run.out.rows(rows, _RELEASE_COLUMNS, empty="no release is installed")


def _tell_new_lines(run: Invocation, status: dict[str, Any], shown: int) -> int:
    """Write the lines of the log that were not shown yet; the file holds the last 200."""
    for line in status["log"][shown:]:
        run.out.note(line)
    return len(status["log"])
