"""`meetingctl remote logs` and `remote collect`: what devices have logged."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.remote_devices import Chosen, Devices, on_devices
from meetingctl.cli.remote_many import PrefixedLines
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit

MAX_LINES = 1_000_000

Units = Annotated[list[str] | None, typer.Option("--unit", metavar="U", help="only this unit of ours; repeatable")]
Since = Annotated[str, typer.Option("--since", metavar="DURATION", help="only what is not older, for example 10m")]


@on_devices(deadline="0")
def show_logs(
    ctx: typer.Context,
    devices: Devices,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until Ctrl-C")] = False,
    unit: Units = None,
    since: Since = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=MAX_LINES, help="the last so many lines")] = 200,
    grep: Annotated[str, typer.Option("--grep", metavar="RE", help="only entries that match")] = "",
) -> int:
    """Show the journal of our units.

    From several devices each line begins with the device. Ctrl-C ends what runs on the devices too. With -f the format
    for programs is ndjson: one object for each line.

    Examples:
      meetingctl remote logs demo-cam -n 50
      meetingctl remote logs demo-cam -f --unit rtsp-recorder
      meetingctl remote logs --all --since 1h --grep 'error|failed'
    """
    from meetingctl.core.duration import parse_duration_s
    from meetingctl.core.layout import UNITS
    from meetingctl.remote.logs import journal_line

    run = devices.run
    if follow and run.is_json and run.out.style != "ndjson":
        raise UsageError("-f never ends, so there is no one JSON document", hint="use -o ndjson")
    since_s = parse_duration_s(since) if since else None
    line = journal_line(known_units(unit) or UNITS, lines=lines, follow=follow, since_s=since_s, grep=grep)
    chosen = devices.choose()
    captures = run.is_json and not follow
    return chosen.visit(_capture_lines(line) if captures else _stream_lines(chosen, line), lambda reports: None)


def known_units(names: Sequence[str] | None) -> list[str]:
    """Read `--unit`. Raises: NotFound for a name that is none of ours."""
    from meetingctl.core.errors import NotFound
    from meetingctl.remote.services import split_units

    others, units = split_units(names or ())
    if others:
        from meetingctl.core.layout import UNITS

        raise NotFound(f"no unit {others[0][:80]!r} of ours", hint=f"units: {', '.join(UNITS)}")
    return units


def _capture_lines(line: str) -> Callable[[Visit], Any]:
    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done
        from meetingctl.remote.visit import Privilege, explain_failure

        answer = await visit.answer(line, privilege=Privilege.wanted)
        error = explain_failure(str(visit.target), visit.login.user, answer) if answer.exit_code else None
        return Done(details={"lines": answer.stdout.splitlines(), "is_cut": answer.is_cut}, error=error)

    return work


def _stream_lines(chosen: Chosen, line: str) -> Callable[[Visit], Any]:
    from meetingctl.cli.output import printable, to_json

    lock = threading.Lock()
    width = min(32, max(len(str(target)) for target in chosen.targets))

    def writer(stream: Any, target: str) -> PrefixedLines:
        if chosen.run.is_json and stream is sys.stdout:
            return PrefixedLines(
                stream, "", lock, clean=lambda text: to_json({"target": target, "line": text}, indent=None)
            )
        prefix = "" if chosen.is_single else f"{target.ljust(width)} | "
        return PrefixedLines(stream, prefix, lock, clean=printable if stream.isatty() else str)

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done
        from meetingctl.remote.visit import Privilege

        out, err = (writer(stream, str(visit.target)) for stream in (sys.stdout, sys.stderr))

        def write(chunk: bytes) -> None:
            out.write(chunk)
            visit.heard()

        try:
            outcome = await visit.stream(line, stdout=write, stderr=err.write, privilege=Privilege.wanted)
        finally:
            out.close()
            err.close()
        return Done(outcome.exit_code)

    return work


@on_devices(deadline="15m")
def collect_logs(
    ctx: typer.Context,
    devices: Devices,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="folder of the archives, made when missing")
    ] = Path(),
    since: Since = "",
    no_redact: Annotated[
        bool, typer.Option("--no-redact", help="leave passwords, tokens and keys in; handle such a file as a secret")
    ] = False,
) -> int:
    """Write one archive for each device: journals, logs, configuration and diagnostics.

    Passwords, tokens, Wi-Fi keys and private keys are replaced by ***, also where a log repeats them. An archive is
    there whole or not at all, and only you may read it.

    Examples:
      meetingctl remote collect demo-cam
      meetingctl remote collect tag:lobby --out ./logs --since 1d
    """
    from meetingctl.core.duration import parse_duration_s

    since_s = parse_duration_s(since) if since else None
    chosen = devices.choose()
    moment = time.strftime("%Y%m%d_%H%M%S", time.gmtime())

    async def work(visit: Visit) -> Done:
        import asyncio

        from meetingctl.remote.fanout import Done
        from meetingctl.remote.logs import archive_name, collect

        collected = await collect(visit, since_s=since_s)
        path = out / archive_name(visit.target, moment)
        size_bytes = await asyncio.to_thread(_write_archive, path, collected.texts, is_plain=no_redact)
        return Done(
            details={
                "file": str(path),
                "size_bytes": size_bytes,
                "entries": sorted(collected.texts),
                "redacted": not no_redact,
                "is_cut": collected.is_cut,
            }
        )

    return chosen.visit(work, lambda reports: _show_archives(devices.run, reports))


def _write_archive(path: Path, texts: Any, *, is_plain: bool) -> int:
    from meetingctl.core.errors import MeetingctlError
    from meetingctl.core.paths import write_atomic
    from meetingctl.remote.logs import pack, redact_all

    content = pack(texts if is_plain else redact_all(texts))
    try:
        write_atomic(path, content, mode=0o600)
    except OSError as exc:
        raise MeetingctlError(f"cannot write {path}: {(exc.strerror or str(exc)).lower()}") from exc
    return len(content)


def _show_archives(run: Invocation, reports: Sequence[Report]) -> None:
    rows = [{"target": report.target, **report.details} for report in reports if report.details]
    for row in rows:
        if row["is_cut"]:
            run.out.warn(f"{row['target']}: more than fits into an archive; the last parts are missing")
    if rows:
        run.out.rows(rows, ("target", "file", "size_bytes"), empty="")
