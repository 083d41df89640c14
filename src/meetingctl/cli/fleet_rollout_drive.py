"""`fleet rollout drive`: carry a rollout out over SSH."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_many import (
    AskPassword,
    IdentityOption,
    PasswordFile,
    UserOption,
    ViaOption,
    Way,
    open_access,
    read_password,
)
from meetingctl.cli.signals import run_async
from meetingctl.cli.targets import tell_plan

if TYPE_CHECKING:
    from meetingctl.remote.access import Access
    from meetingctl.remote.fanout import Limits, Report
    from meetingctl.remote.update.job import Order
    from meetingctl.remote.update.rollout import Driven, Update
    from meetingctl.remote.update.source import Source

RolloutId = Annotated[int, typer.Argument(metavar="ID", min=1, help="number of the rollout", show_default=False)]


def drive_rollout(
    ctx: typer.Context,
    rollout: RolloutId,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=1000, help="how many devices at once")] = 10,
    once: Annotated[bool, typer.Option("--once", help="only what is due now, then end")] = False,
    deadline: Annotated[str, typer.Option("--deadline", metavar="DURATION", help="for one device")] = "45m",
    user: UserOption = None,
    identity: IdentityOption = None,
    ask_password: AskPassword = False,
    password_file: PasswordFile = None,
    via: ViaOption = Way.auto,
    dry_run: DryRun = False,
) -> int:
    """Carry a rollout out over SSH, for devices that do not update themselves.

    The server decides as ever: which wave runs, when each device starts, and how many failures pause it. This command
    asks which devices are due, does `remote update` on them, and reports what became of each. It ends with the
    rollout; begun anew it goes on. Devices that cannot be reached are tried again, and are not reported as failed.

    Exit code: 0 when the rollout is finished, 1 when it was paused or aborted, or with --once when a device failed.

    Examples:
      meetingctl fleet rollout drive 3
      meetingctl fleet rollout drive 3 --once --parallel 4 --json
    """
    from meetingctl.core.duration import parse_duration_s
    from meetingctl.core.target import DeviceTarget
    from meetingctl.remote.fanout import Limits
    from meetingctl.remote.update.job import Order
    from meetingctl.remote.update.rollout import Drive, fold_drive

    run = of(ctx)
    run.set_options(ssh_user=user, ssh_identity=identity)
    with run.open_client() as client:
        item = client.rollouts.show(rollout)
        if dry_run:
            tell_plan(run, "drive", f"rollout {rollout}", would_change=item["state"] in {"preparing", "running"})
            return 0
        password = read_password(run, ask_password, password_file)
        with _open_release(run, item) as source, open_access(run, [DeviceTarget("any")], password) as access:
            limits = Limits(parallel=1, total_s=parse_duration_s(deadline))
            update = _updating(run, access, Order(source), limits, via.value)
            driven = run_async(Drive(client, rollout, update, run.out.note, parallel, once).finish())
    _show(run, driven)
    error = fold_drive(driven, once=once)
    if error is None:
        return 0
    if not run.is_json:
        run.out.fail(error)
    return error.exit_code


def _open_release(run: Invocation, item: Mapping[str, object]) -> AbstractContextManager[Source | None]:
    from meetingctl.cli.remote_update import open_package

    name = "/".join(str(item[part]) for part in ("device_type", "distribution", "version"))
    return open_package(run, release=name)


def _updating(run: Invocation, access: Access, order: Order, limits: Limits, via: str) -> Update:
    from meetingctl.cli.remote_update import updating
    from meetingctl.core.target import DeviceTarget
    from meetingctl.remote.fanout import fan_out

    act = updating(run, access, order, via=via)

    def tell(report: Report) -> None:
        if run.out.style == "ndjson":
            run.out.value(report.as_json())
        elif report.error is not None:
            run.out.note(f"{report.target}: {report.result.value}: {report.error.message}")

    async def update(target: DeviceTarget) -> Report:
        return (await fan_out([target], act, limits, tell))[0]

    return update


def _show(run: Invocation, driven: Driven) -> None:
    rows = [report.as_json() for report in driven.reports.values()]
    if run.out.style == "json":
        shown = {
            name: driven.item.get(name) for name in ("id", "state", "reason", "wave", "waves", "success", "failed")
        }
        run.out.value({**shown, "devices": rows})
    elif not run.is_json:
        columns = ("target", "result", "outcome", "installed_version")
        run.out.rows([{name: row.get(name) for name in columns} for row in rows], columns, empty="no device was due")
