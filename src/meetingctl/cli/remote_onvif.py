"""`remote discover`: find cameras on the networks of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from meetingctl.cli.invocation import of

_COLUMNS = ("address", "name", "hardware", "endpoint")


def discover_cameras(
    ctx: typer.Context,
    onvif: Annotated[bool, typer.Option("--onvif", help="probe for ONVIF cameras with WS-Discovery")] = False,
    wait_s: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0.1, max=60, help="wait for answers")] = 3.0,
) -> None:
    """Find cameras on the networks of this machine.

    Examples:
      meetingctl remote discover --onvif
      meetingctl remote discover --onvif --wait 5 --json
    """
    from meetingctl.core.errors import UsageError
    from meetingctl.remote.discovery import find_cameras

    run = of(ctx)
    if not onvif:
        raise UsageError("say how to look for cameras", hint="meetingctl remote discover --onvif")
    rows = [found.as_json() for found in find_cameras(timeout_s=wait_s)]
    run.out.rows(rows, _COLUMNS, empty="no camera answered")
