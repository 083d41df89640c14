"""`audit`: who did what, and proof that nobody changed the record."""

from __future__ import annotations

from typing import Annotated

import typer

from meetingctl.cli.invocation import of
from meetingctl.cli.options import Fields, Filters
from meetingctl.cli.tree import Noun

app = Noun()

_COLUMNS = ("id", "time", "principal", "peer", "action", "object", "result")


@app.command("list")
def list_records(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="at most this many")] = 100,
    about: Annotated[
        str | None, typer.Option("--object", metavar="NAME", help="records about this object, for example device:cam-7")
    ] = None,
    before: Annotated[int | None, typer.Option("--before", metavar="ID", min=1, help="older than this record")] = None,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show audit records, newest first.

    Examples:
      meetingctl audit list --limit 20
      meetingctl audit list --object device:cam-7 -o ndjson
      meetingctl audit list --filter result=refused
    """
    run = of(ctx)
    with run.open_client() as client:
        records = list(client.list_audit(limit=limit, before=before, subject=about))
    run.out.rows(records, _COLUMNS, empty="no records", fields=fields, filters=filters)


@app.command("verify")
def verify_records(ctx: typer.Context) -> int:
    """Check the hash chain of the audit log; exit code 1 when it is broken.

    Examples:
      meetingctl audit verify
      meetingctl audit verify --json
    """
    run = of(ctx)
    with run.open_client() as client:
        report = client.verify_audit()
    is_sound = bool(report.get("ok"))
    good = f"ok: {report.get('records')} records, the chain is whole"
    run.out.value(report, text=good if is_sound else f"broken at record {report.get('first_bad')}")
    return 0 if is_sound else 1
