"""`db`: the server's database, on the machine of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import Noun

app = Noun()

DataDir = Annotated[str | None, typer.Option("--data", metavar="DIR", help="where the data lives", show_default=False)]
DbUrl = Annotated[str | None, typer.Option("--db", metavar="URL", help="PostgreSQL instead of SQLite in --data")]


def _at(ctx: typer.Context, data: str | None, db: str | None) -> Invocation:
    run = of(ctx)
    run.set_options(data_dir=data, db_url=db)
    return run


@app.command("migrate")
def migrate_database(ctx: typer.Context, data: DataDir = None, db: DbUrl = None, dry_run: DryRun = False) -> None:
    """Bring the database to the schema of this version; `serve` does the same at its start.

    Examples:
      meetingctl db migrate
      meetingctl db migrate --dry-run --json
    """
    from meetingctl.server.db.admin import migrate

    run = _at(ctx, data, db)
    if dry_run:
        _tell_migration(run)
        return
    run.out.record(migrate(run.settings, run.data_dir))


def _tell_migration(run: Invocation) -> None:
    from meetingctl.core.errors import NotFound
    from meetingctl.server.db.admin import status
    from meetingctl.server.db.migrations import HEAD

    try:
        found = status(run.settings, run.data_dir)
    except NotFound:
        found = {"database": str(run.data_dir), "revision": None, "up_to_date": False}
    change = {"before": found["revision"], "after": HEAD}
    tell_plan(run, "migrate", str(found["database"]), would_change=not found["up_to_date"], **change)


@app.command("status")
def show_status(ctx: typer.Context, data: DataDir = None, db: DbUrl = None) -> None:
    """Show the database, its schema version and its size.

    Examples:
      meetingctl db status
      meetingctl db status --db postgresql://meetingctl@db/meetingctl
    """
    from meetingctl.server.db.admin import status

    run = _at(ctx, data, db)
    run.out.record(status(run.settings, run.data_dir))


@app.command("backup")
def back_up(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="new file for the copy", show_default=False)],
    data: DataDir = None,
    db: DbUrl = None,
    dry_run: DryRun = False,
) -> None:
    """Write a consistent copy of the database, while the server runs.

    Examples:
      meetingctl db backup fleet-backup.db
    """
    from meetingctl.server.db.admin import backup

    run = _at(ctx, data, db)
    path = Path(file)
    if dry_run:
        _check_new_file(path)
        tell_plan(run, "write", str(path))
        return
    _check_new_file(path)
    run.out.record(backup(run.settings, run.data_dir, path))


def _check_new_file(path: Path) -> None:
    """Raises: Conflict when the file is there, NotFound when its folder is not."""
    import shlex

    from meetingctl.core.errors import Conflict, NotFound

    if path.exists():
        raise Conflict(f"{path} exists", hint="choose another name, or remove it")
    if not path.parent.is_dir():
        raise NotFound(f"no folder {path.parent}", hint=f"mkdir -p {shlex.quote(str(path.parent))}")


@app.command("check")
def check_database(ctx: typer.Context, data: DataDir = None, db: DbUrl = None) -> int:
    """Check the database for damage, and the stored files against it; exit code 1 when something is wrong.

    Examples:
      meetingctl db check
    """
    from meetingctl.server.db.admin import check

    run = _at(ctx, data, db)
    report = check(run.settings, run.data_dir)
    run.out.record(report)
    return 0 if report.get("ok") else 1


@app.command("query")
def query_database(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="one statement that reads", show_default=False)],
    data: DataDir = None,
    db: DbUrl = None,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Run one reading SQL statement; the database is opened read-only.

    Examples:
      meetingctl db query "select device_key, authorized from devices"
      meetingctl db query "select count(*) as devices from devices" --json
    """
    from meetingctl.server.db.admin import query

    run = _at(ctx, data, db)
    rows = query(run.settings, run.data_dir, sql)
    run.out.rows(rows, list(rows[0]) if rows else (), empty="no rows", fields=fields, filters=filters)
