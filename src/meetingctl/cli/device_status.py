"""`device status`: the whole camera in one look."""

from __future__ import annotations

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import of


def show_status(ctx: typer.Context, root: Root = "") -> None:
    """Show stream, recorder, watchdog and disk of this camera.

    Examples:
      meetingctl device status
      meetingctl device status --json
    """
    from meetingctl.device.overview import read_overview

    run = of(ctx)
    overview = read_overview(open_system(run, root))
    if run.out.is_json:
        run.out.value(overview)
        return
    rows = [{"part": name, "state": part["state"], "detail": part["detail"]} for name, part in overview.items()]
    run.out.rows(rows, ("part", "state", "detail"), empty="nothing to show")
