"""`fleet events`: what happened lately, and what happens now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import Fields, Filters
from meetingctl.cli.output import Column, cell_text, parse_filters, select_rows, split_fields, to_json, with_iso_times

if TYPE_CHECKING:
    from meetingctl.client import FleetClient, JsonObject

_COLUMNS = (Column("time"), Column("event"), Column("subject"), Column("by"), Column("result"))
_POLL_S = 2.0
_PAGE_ROWS = 1000


def show_events(
    ctx: typer.Context,
    device: Annotated[
        str | None, typer.Option("--device", metavar="KEY", help="only what is about this device")
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=1000, help="the newest N")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until Ctrl-C")] = False,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show what happened in the fleet, oldest first: connection logs and, for administrators, the audit log.

    With --follow each event is a line of its own, in the JSON formats an object.

    Examples:
      meetingctl fleet events
      meetingctl fleet events -f --filter event=Offline
      meetingctl fleet events --device cam-7 -n 200 -o ndjson
    """
    run = of(ctx)
    with run.open_client() as client:
        events, after = client.events.read(limit=limit, device_key=device)
        if not follow:
            run.out.rows(events, _COLUMNS, empty="no events", fields=fields, filters=filters)
            return
        _write(run, events, fields, filters)
        try:
            _follow(run, client, device, after, fields, filters)
        except KeyboardInterrupt:
            return


def _follow(
    run: Invocation, client: FleetClient, device: str | None, after: str, fields: str, filters: list[str]
) -> None:
    """Write what comes after the cursor, for ever; a server that is away for a while is waited for."""
    from meetingctl.core.errors import Busy, Unreachable

    is_away = False
    while True:
        try:
            events, after = client.events.read(limit=_PAGE_ROWS, after=after, device_key=device)
            is_away = False
        except (Busy, Unreachable) as exc:
            if not is_away:
                run.out.warn(f"{exc.message}; trying again")
            events, is_away = [], True
        _write(run, events, fields, filters)
        if len(events) < _PAGE_ROWS:
            time.sleep(_POLL_S)


def _write(run: Invocation, events: list[JsonObject], fields: str, filters: list[str]) -> None:
    keys = split_fields(fields) or [column.key for column in _COLUMNS]
    for row in select_rows(events, parse_filters(filters)):
        shown = with_iso_times(dict(row))
        if run.out.is_json:
            run.out.text(to_json({key: shown.get(key) for key in keys} if fields else shown, indent=None))
        else:
            run.out.text("\t".join(cell_text(shown.get(key)) for key in keys))
    run.out.out.flush()
