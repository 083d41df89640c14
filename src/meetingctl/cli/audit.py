"""`audit`: who did what, and proof that nobody changed the record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import Fields, Filters
from meetingctl.cli.output import to_json, with_iso_times
from meetingctl.cli.tree import Noun

if TYPE_CHECKING:
    from meetingctl.client import JsonObject

app = Noun()

DEFAULT_ROWS = 100
_COLUMNS = ("id", "time", "principal", "peer", "action", "object", "result")

About = Annotated[
    str | None, typer.Option("--object", metavar="NAME", help="records about this object, for example device:cam-7")
]


@app.command("list")
def list_records(
    ctx: typer.Context,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, max=100_000, help="at most this many; default: 100")
    ] = None,
    about: About = None,
    before: Annotated[int | None, typer.Option("--before", metavar="ID", min=1, help="older than this record")] = None,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show audit records, newest first; `audit export` has them all.

    Examples:
      meetingctl audit list --limit 20
      meetingctl audit list --object device:cam-7 -o ndjson
      meetingctl audit list --filter result=refused
    """
    run = of(ctx)
    most = limit or DEFAULT_ROWS
    with run.open_client() as client:
        records = list(client.list_audit(limit=most + 1, before=before, subject=about))
    shown = records[:most]
    run.out.rows(shown, _COLUMNS, empty="no records", fields=fields, filters=filters)
    if len(records) > most:
        _tell_more(run, shown, is_asked=limit is not None)


def _tell_more(run: Invocation, shown: list[JsonObject], *, is_asked: bool) -> None:
    """Say that there are older records; a program learns it only when it did not choose the limit itself."""
    message = f"only the newest {len(shown)} records are shown; older ones: --before {shown[-1]['id']}"
    if run.out.is_json and not is_asked:
        run.out.warn(message)
    run.out.note(message)


@app.command("export")
def export_records(
    ctx: typer.Context,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="write to this new file, which only you may read")
    ] = None,
    about: About = None,
    after: Annotated[
        int | None, typer.Option("--after", metavar="ID", min=1, help="newer than this record, of an earlier export")
    ] = None,
) -> None:
    """Write every audit record as a JSON object on a line of its own, newest first.

    The lines are the same in every output format; with --out the result says how many there are.

    Examples:
      meetingctl audit export > audit.jsonl
      meetingctl audit export --out audit.jsonl
      meetingctl audit export --after 4711 | gzip > audit-new.jsonl.gz
    """
    run = of(ctx)
    with run.open_client() as client:
        records = _newer_than(after, client.list_audit(limit=None, subject=about))
        if out is None:
            for line in _lines(records):
                run.out.text(line)
            return
        newest_id, count = _write_lines(Path(out), records)
    run.out.record({"file": out, "records": count, "newest_id": newest_id})


def _newer_than(after: int | None, records: Iterable[JsonObject]) -> Iterator[JsonObject]:
    yield from takewhile(lambda record: after is None or int(record["id"]) > after, records)


def _lines(records: Iterable[JsonObject]) -> Iterator[str]:
    return (to_json(with_iso_times(record), indent=None) for record in records)


def _write_lines(path: Path, records: Iterable[JsonObject]) -> tuple[Any, int]:
    """Write a new file that appears when it is whole; return the newest id and the number of records.

    Raises: Conflict when the file is there already.
    """
    from meetingctl.core.errors import Conflict

    if path.exists():
        raise Conflict(f"{path} exists", hint="choose another name with --out")
    partial = path.with_name(f".{path.name}.partial")
    newest_id, count = None, 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            partial.chmod(0o600)
            for record in records:
                newest_id = record["id"] if newest_id is None else newest_id
                count += 1
                file.write(to_json(with_iso_times(record), indent=None) + "\n")
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return newest_id, count


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
