"""`meetingctl remote update`: another release onto devices, or the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of
from meetingctl.cli.remote_many import route_json
from meetingctl.core.errors import MeetingctlError, TransportLost, Unreachable, UsageError
from meetingctl.core.layout import UPDATE_LOG

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.fanout import Act, Done, Heard, Report
    from meetingctl.remote.update.job import Order, Result
    from meetingctl.remote.update.source import Source
    from meetingctl.remote.visit import Visit

# What can break by an update and is seen from here; the disk and the clock are other matters.
CHECKS = ("units", "rtsp", "onvif", "agent")
_COLUMNS = ("target", "outcome", "from_version", "installed_version")


@on_devices(deadline="45m")
def update_devices(
    ctx: typer.Context,
    devices: Devices,
    release: Annotated[
        str | None, typer.Option("--release", metavar="TYPE/DISTRIBUTION/VERSION", help="a published release")
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option("--channel", metavar="TYPE/DISTRIBUTION[/NAME]", help="the release that this channel names"),
    ] = None,
    package: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="a package of meetingctl builder bundle")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="return to the release that ran before")] = False,
    force: Annotated[bool, typer.Option("--force", help="apply the version again that is installed already")] = False,
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="restart no unit; what runs goes on until it is restarted")
    ] = False,
    reconnect: Annotated[
        str, typer.Option("--reconnect", metavar="DURATION", help="how long a lost link is waited for")
    ] = "5m",
    settle: Annotated[
        str, typer.Option("--settle", metavar="DURATION", help="how long all may take until it works again")
    ] = "60s",
    dry_run: DryRun = False,
) -> int:
    """Bring another release onto devices; what does not work afterwards returns to the former one.

    Only files that a device does not have are sent; a transfer that was interrupted is continued. The device builds
    the release beside the others and changes over in one step, without the operator: a lost link stops nothing, and
    the same command begun anew goes on where it stands. Configuration is never touched. Before and after, the units,
    the stream, ONVIF and the agent are looked at from here; when something worked before and does not afterwards, the
    device returns to the former release, which stays there.

    Exit code: 0 when all devices have it, 1 when none has it, 3 when some have it, 69 when none was reached, 255 when
    the link to a single device stayed away.

    Examples:
      meetingctl remote update demo-cam --release rpicam/trixie/1.4.0 --dry-run
      meetingctl remote update tag:lobby --channel rpicam/trixie --max-fail 5
      meetingctl remote update demo-cam --from rpi-cam-update_1.4.0_20261121_090000.tar.gz
      meetingctl remote update demo-cam --rollback
    """
    from meetingctl.core.duration import parse_duration_s
    from meetingctl.remote.update.job import Order
    from meetingctl.remote.update.plan import Wish

    run = devices.run
    named = [option for option in (release, channel, package) if option is not None]
    if len(named) + rollback != 1:
        raise UsageError(
            "name one of --release, --channel, --from and --rollback", hint="meetingctl fleet releases list"
        )
    if rollback and (force or no_restart):
        raise UsageError("--force and --no-restart go with a release, not with --rollback", hint="leave them out")
    reconnect_s, settle_s = parse_duration_s(reconnect), parse_duration_s(settle)
    chosen = devices.choose()
    with open_package(run, release=release, channel=channel, package=package) as source:
        order = Order(source, Wish(force, not no_restart), dry_run, reconnect_s, settle_s)
        with chosen.open() as access:
            act = updating(run, access, order, via=chosen.options["via"].value)
            return chosen.act(act, lambda reports: _show(run, reports, dry_run=dry_run))


@contextmanager
def open_package(
    run: Invocation, *, release: str | None, channel: str | None = None, package: Path | None = None
) -> Iterator[Source | None]:
    """Open the package that is named, downloaded where it is a release; None when none is. Raises: MeetingctlError."""
    from meetingctl.cli.fleet_releases import read_release
    from meetingctl.remote.install_release import fetch_release
    from meetingctl.remote.update.source import open_source

    if package is None and release is None and channel is None:
        yield None
        return
    if package is None:
        with run.open_client() as client:
            named = read_release(run, release) if release is not None else _release_of(run, client, str(channel))
            package = fetch_release(client, named, run.places.cache_dir / "releases")
    with open_source(package) as source:
        yield source


def updating(
    run: Invocation,
    access: Access,
    order: Order,
    *,
    via: Any = "auto",
) -> Act:
    """Return what updates one device and reports it to the fleet."""

    async def act(target: Target, heard: Heard) -> Done:
        from meetingctl.remote.update.job import Job
        from meetingctl.remote.update.report import Reporter
        from meetingctl.remote.update.run import update_device

        client = access.finder.client if access.finder else None
        version = order.source.version if order.source else ""
        reporter = Reporter(None if order.dry_run else client, target, version, run.out.warn)
        route: dict[str, object] = {}

        async def visit_device(use: Callable[[Visit], Awaitable[Result]]) -> Result:
            async def use_and_note(visit: Visit) -> Result:
                route.update(route_json(visit.route))
                return await use(visit)

            return await access.visit(target, use_and_note, via=via, began=heard)

        async def began(former: str) -> None:
            await reporter.send("in_progress", former)

        job = Job(str(target), order, _inspecting(access), lambda text: run.out.note(f"{target}: {text}"), began)
        try:
            result = await update_device(job, visit_device)
        except (TransportLost, Unreachable):
            raise  # nobody knows how it ends: no report
        except asyncio.CancelledError:
            if job.is_at_work:
                run.out.note(f"{target}: the update goes on there; the same command follows it")
            raise
        except MeetingctlError as error:
            if job.has_reported:  # so it is an update, not the way back
                await reporter.send("failed", job.before, error.message)
            raise
        return await _report(reporter, result, route)

    return act


async def _report(reporter: Any, result: Result, route: Mapping[str, object]) -> Done:
    from meetingctl.remote.fanout import Done

    details = {"route": dict(route), **result.as_json()}
    if result.word in {"updated", "current"}:
        await reporter.send("success", result.before)
    if result.word == "returned":
        await replace(reporter, to_version=result.after).send("success", result.before)
    if not result.fault:
        return Done(details=details)
    if reporter.to_version:
        await reporter.send("failed", result.before, result.fault)
    name = reporter.target
    error = MeetingctlError(
        f"{name}: {result.fault}; {result.after or 'nothing'} is installed",
        hint=f"meetingctl remote run {name} --sudo -- tail -n 50 {UPDATE_LOG}",
    )
    return Done(details=details, error=error)


def _inspecting(access: Access) -> Callable[[Visit], Awaitable[Sequence[Mapping[str, Any]]]]:
    async def inspect(visit: Visit) -> Sequence[Mapping[str, Any]]:
        from meetingctl.cli.remote_smoke import round_of
        from meetingctl.remote.smoke import run_checks

        return await run_checks(round_of(visit, access), CHECKS)

    return inspect


def _release_of(run: Invocation, client: Any, text: str) -> dict[str, str]:
    """Return the release that a channel names. Raises: NotFound."""
    from meetingctl.cli.fleet_releases import read_channel
    from meetingctl.core.errors import NotFound

    wanted = read_channel(run, text)
    found = [item for item in client.releases.list_channels() if all(item[key] == wanted[key] for key in wanted)]
    if not found or not found[0]["active"]:
        raise NotFound(f"{text}: no such channel, or it names no version", hint="meetingctl fleet channels list")
    return {
        "device_type": wanted["device_type"],
        "distribution": wanted["distribution"],
        "version": str(found[0]["target_version"]),
    }


def _show(run: Invocation, reports: Sequence[Report], *, dry_run: bool) -> None:
    if dry_run:
        run.out.rows(rows_of(reports, "steps"), ("target", "do", "on", "why"), empty="nothing to do")
        return
    rows = [{"target": report.target, **report.details} for report in reports if "outcome" in report.details]
    if rows:
        run.out.rows([{name: row[name] for name in _COLUMNS} for row in rows], _COLUMNS, empty="")
