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
    file: Annotated[str, typer.Argument(metavar="FILE", help="new archive", show_default=False)],
    data: DataDir = None,
    db: DbUrl = None,
    dry_run: DryRun = False,
) -> int:
    """Write the database, the stored files, the releases and the server's keys into one archive, while it runs.

    The archive holds secrets: it is readable by its owner only, and should stay so. Exit code 1 when files are missing
    or damaged in the server itself; the archive has the rest.

    Examples:
      meetingctl db backup fleet-backup.tar
      meetingctl db backup /mnt/backups/fleet.tar --data /var/lib/meetingctl
    """
    from meetingctl.server.db.backup import backup, check_new_file

    run = _at(ctx, data, db)
    path = Path(file)
    if dry_run:
        check_new_file(path)
        tell_plan(run, "write", str(path))
        return 0
    report = backup(run.settings, run.data_dir, path)
    run.out.record(report)
    return 1 if report["problems"] else 0


@app.command("restore")
def restore_backup(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="archive that `db backup` wrote", show_default=False)],
    data: DataDir = None,
    db: DbUrl = None,
    dry_run: DryRun = False,
) -> None:
    """Bring a backup back into an empty data folder, on SQLite or on an empty PostgreSQL database.

    Every byte is compared with its checksum before anything is put in place; --dry-run does only that.

    Examples:
      meetingctl db restore fleet-backup.tar --data /var/lib/meetingctl
      meetingctl db restore fleet-backup.tar --dry-run
    """
    from meetingctl.server.db.restore import restore

    run = _at(ctx, data, db)
    report = restore(run.settings, run.data_dir, Path(file), dry_run=dry_run)
    if dry_run:
        run.out.note(f"the archive is whole: {report['files']} files, made at {report['made_at']}")
        if report["obstacle"]:
            run.out.note(f"it cannot be restored here: {report['obstacle']}")
        tell_plan(run, "restore", file, would_change=not report["obstacle"], **report)
        return
    run.out.record(report)


@app.command("copy")
def copy_rows(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="database to read", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="empty or new database", show_default=False)],
    dry_run: DryRun = False,
) -> None:
    """Copy every row from one database to another, and compare counts and checksums of each table.

    A database is sqlite:///FILE, a path, or postgresql://USER@HOST/NAME. Files beside the database are not copied. Stop
    the server first: what it writes after the copy began is not in it.

    Examples:
      meetingctl db copy /var/lib/meetingctl/meetingctl.db postgresql://meetingctl@db/meetingctl
      meetingctl db copy postgresql://meetingctl@db/meetingctl sqlite:///fleet.db --dry-run
    """
    from meetingctl.server.db.copy import copy_url

    run = of(ctx)
    done = copy_url(source, target, dry_run=dry_run)
    if dry_run:
        tell_plan(run, "copy", done["source"], target=done["target"], rows=done["rows"])
        return
    if run.out.is_json:
        run.out.value(done)
        return
    run.out.rows(done["tables"], ("table", "rows", "checksum"), empty="no tables")


@app.command("import-mysql")
def import_mysql(
    ctx: typer.Context,
    dump: Annotated[str, typer.Argument(metavar="DUMP", help="file of mysqldump, plain or .gz", show_default=False)],
    data: DataDir = None,
    db: DbUrl = None,
    dry_run: DryRun = False,
) -> None:
    """Take devices, keys, tunnels, logs, types, channels and accounts from a dump of the original's MySQL database.

    Either all of it is taken or nothing. What is here already stays as it is, so a later dump adds only what is new;
    token codes and API tokens go on working. Prints a line per table, and on stderr each row that was left out or
    changed, with the reason. On SQLite the server must not run.

    Examples:
      meetingctl db import-mysql meeting.sql --dry-run
      meetingctl db import-mysql meeting.sql.gz --db postgresql://meetingctl@db/meetingctl
    """
    from meetingctl.server.db.mysql_import import import_dump

    run = _at(ctx, data, db)
    report = import_dump(run.settings, run.data_dir, Path(dump), dry_run=dry_run)
    if dry_run:
        would_change = any(row["taken"] for row in report["tables"])
        tell_plan(run, "import", dump, would_change=would_change, **(report if run.out.is_json else {}))
    if run.out.is_json:
        if not dry_run:
            run.out.value(report)
        return
    for detail in report["details"]:
        run.out.note(f"{detail['table']} {detail['row']}: {detail['what']}")
    if report["more_details"]:
        run.out.note(f"and {report['more_details']} more")
    run.out.rows(report["tables"], ("table", "read", "taken", "there", "skipped"), empty="no tables")


@app.command("check")
def check_database(
    ctx: typer.Context,
    data: DataDir = None,
    db: DbUrl = None,
    checksums: Annotated[bool, typer.Option("--checksums", help="read the files and compare their checksums")] = False,
) -> int:
    """Check the database for damage, and the stored files against it; exit code 1 when something is wrong.

    Without --checksums the files are looked for, but not read.

    Examples:
      meetingctl db check
      meetingctl db check --checksums
    """
    from meetingctl.server.db.admin import check

    run = _at(ctx, data, db)
    report = check(run.settings, run.data_dir, checksums=checksums)
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
