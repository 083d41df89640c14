"""`meetingctl remote network`: the network profiles of devices, and the way back from wrong ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.options import AcceptRisk, need_risk
from meetingctl.cli.remote_device import Device, on_device
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of
from meetingctl.cli.remote_many import route_json
from meetingctl.cli.signals import run_async
from meetingctl.cli.tree import Noun
from meetingctl.core.errors import AuthError, MeetingctlError, TransportLost, Unreachable

if TYPE_CHECKING:
    from meetingctl.core.plan import Step
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit

app = Noun()

_COLUMNS = ("target", "name", "type", "device", "method", "addresses", "gateway", "dns")
_PAUSE_S = 1.0
# The former profiles need a moment to come up after the timer.
_AFTER_REVERT_S = 45.0

Ask = Callable[[Callable[["Visit"], Awaitable[Any]]], Awaitable[Any]]


@app.command("show")
@on_devices()
def show_network(ctx: typer.Context, devices: Devices) -> int:
    """Show the profiles of NetworkManager: where an address comes from, and which one.

    Examples:
      meetingctl remote network show demo-cam
      meetingctl remote network show --all --json
    """

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done
        from meetingctl.remote.network import read_profiles

        return Done(details={"profiles": [profile.as_json() for profile in await read_profiles(visit)]})

    def show(reports: Sequence[Report]) -> None:
        devices.run.out.rows(rows_of(reports, "profiles"), _COLUMNS, empty="NetworkManager has no profile")

    return devices.choose().visit(work, show)


@app.command("recover")
@on_device
def recover_network(
    ctx: typer.Context,
    device: Device,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="one device")],
    wait: Annotated[
        str, typer.Option("--wait", metavar="DURATION", help="how long to wait for a first answer")
    ] = "60s",
    only: Annotated[str, typer.Option("--only", metavar="IFS", help="only these interfaces, for example eth0")] = "",
    keep_wifi: Annotated[bool, typer.Option("--keep-wifi", help="leave Wi-Fi profiles as they are")] = False,
    revert_after: Annotated[
        str, typer.Option("--revert-after", metavar="DURATION", help="when the device takes a change back by itself")
    ] = "2m",
    accept_risk: AcceptRisk = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Let profiles with a fixed address get one by DHCP again, on a device that is reachable for moments only.

    It is tried again and again until the device answers. The change holds only when the device is reached afterwards:
    else a timer there brings the former profiles back, and so does a restart. A device that gets another address is
    found through its key, by the fleet's records or the tunnel. Access points and profiles without IPv4 stay.

    Examples:
      meetingctl remote network recover demo-cam --dry-run
      meetingctl remote network recover demo-cam --only eth0 --keep-wifi --wait 5m --accept-risk lose-ssh
    """
    from meetingctl.core.duration import parse_duration_s
    from meetingctl.core.target import parse_target

    run = device.run
    wait_s, revert_after_s = parse_duration_s(wait), max(10.0, parse_duration_s(revert_after))
    if not device.dry_run:
        need_risk(accept_risk, "lose-ssh", "the device may get another address, or none until it takes the change back")
    place = parse_target(target)
    interfaces = [name.strip() for name in only.split(",") if name.strip()]
    with device.open(place) as access:

        async def ask(use: Callable[[Visit], Awaitable[Any]]) -> Any:
            return await access.visit(place, use, via=device.via)

        async def begin(visit: Visit) -> dict[str, Any]:
            from meetingctl.remote.network import arm_change, plan_recover, read_profiles

            steps = plan_recover(await read_profiles(visit), only=interfaces, keep_wifi=keep_wifi)
            if steps and not device.dry_run:
                await arm_change(visit, [step.detail["profile"] for step in steps], revert_after_s=revert_after_s)
            return {"steps": steps, "route": route_json(visit.route)}

        begun = run_async(_until_reached(run, ask, begin, wait_s))
        changed = bool(begun["steps"]) and not device.dry_run
        if changed:
            run.out.note(f"the change runs; without an answer it is taken back after {revert_after_s:.0f} s")
            try:
                route = run_async(_confirm(str(place), ask, revert_after_s))
            except KeyboardInterrupt:
                run.out.note("not confirmed: the device takes the change back by itself")
                raise
            begun = {**begun, "route": route}
    _show(run, {"target": str(place), **begun, "changed": changed, "dry_run": device.dry_run})


async def _until_reached(run: Invocation, ask: Ask, use: Callable[[Visit], Awaitable[Any]], wait_s: float) -> Any:
    """Try until the device answers. Raises: Unreachable at the deadline; other errors at once."""
    ends_s = time.monotonic() + wait_s
    is_told = False
    while True:
        try:
            return await ask(use)
        except Unreachable:
            if time.monotonic() >= ends_s:
                raise
        if not is_told:
            run.out.note(f"no answer yet; trying for {wait_s:.0f} s")
            is_told = True
        await asyncio.sleep(_PAUSE_S)


async def _confirm(target: str, ask: Ask, revert_after_s: float) -> dict[str, Any]:
    """Reach the device with its new profiles and keep them. Raises: MeetingctlError when they were taken back."""
    from meetingctl.remote.network import keep_change, read_marks

    async def look(visit: Visit) -> dict[str, Any] | None:
        marks = await read_marks(visit)
        if marks.is_reverted or (marks.is_applied and not await keep_change(visit)):
            raise MeetingctlError(
                f"{target}: not reached in time with its new profiles; the former ones are back",
                hint=f"meetingctl remote network show {target}",
            )
        return route_json(visit.route) if marks.is_applied else None

    ends_s = time.monotonic() + revert_after_s + _AFTER_REVERT_S
    while time.monotonic() < ends_s:
        await asyncio.sleep(_PAUSE_S)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + ends_s - time.monotonic()):
                route = await ask(look)
        except (Unreachable, TransportLost, AuthError, TimeoutError):
            continue
        if route is not None:
            return dict(route)
    raise MeetingctlError(
        f"{target}: no answer since the change; its former profiles are back by now, or after a restart",
        hint=f"meetingctl remote network show {target}",
    )


def _show(run: Invocation, facts: dict[str, Any]) -> None:
    from meetingctl.core.plan import as_rows

    steps: Sequence[Step] = facts["steps"]
    rows = as_rows(steps)
    if run.out.is_json:
        run.out.value({**facts, "steps": rows})
        return
    run.out.rows(rows, ("do", "on", "why"), empty="no profile has a fixed address")
    if facts["changed"]:
        run.out.note("confirmed: the change is there for good")
