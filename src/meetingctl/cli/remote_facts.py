"""`meetingctl remote facts` and `remote ip`: what devices are, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.fanout import Done, Heard, Report
    from meetingctl.remote.visit import Visit


@on_devices()
def show_facts(
    ctx: typer.Context,
    devices: Devices,
    only: Annotated[
        str, typer.Option("--only", metavar="A,B", help="of system, camera, audio, network, rtsp, kernel")
    ] = "",
) -> int:
    """Show what devices are and how they are: system, cameras, sound, network, stream, kernel messages.

    One round trip for each device. A fact whose program is not installed there is empty.

    Examples:
      meetingctl remote facts demo-cam
      meetingctl remote facts --all --only system,camera --json
    """
    from meetingctl.remote.facts import choose_groups, read_facts

    groups = choose_groups(only)
    chosen = devices.choose()

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.fanout import Done

        return Done(details={"facts": await read_facts(visit, groups)})

    return chosen.visit(work, lambda reports: _show_facts(devices.run, reports))


def _show_facts(run: Invocation, reports: Sequence[Report]) -> None:
    rows = [
        {"target": report.target, "fact": name, "value": value}
        for report in reports
        for name, value in flatten(report.details.get("facts") or {})
    ]
    if rows:
        run.out.rows(rows, ("target", "fact", "value"), empty="no facts")


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Write nested facts as lines: `network.interfaces.0.state`; lists of plain values stay one."""
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        pairs = [(str(number), item) for number, item in enumerate(value)]
    else:
        return [(path, value)]
    return [row for name, item in pairs for row in flatten(item, f"{path}.{name}".lstrip("."))]


@on_devices()
def show_addresses(
    ctx: typer.Context,
    devices: Devices,
    probe: Annotated[bool, typer.Option("--probe", help="say which of them answer as SSH servers")] = False,
) -> int:
    """Show the addresses that devices reported to the fleet.

    Without --probe nobody but the fleet server is asked. With it an address that does not answer as an SSH server
    within the setting ssh_direct_s is shown as such; a device without any that answers fails.

    Examples:
      meetingctl remote ip demo-cam
      meetingctl remote ip --all --probe --json
    """
    from meetingctl.cli.remote_many import open_access

    chosen = devices.choose()
    with open_access(devices.run, chosen.targets, None) as access:

        async def act(target: Target, heard: Heard) -> Done:
            from meetingctl.core.errors import NotFound, Unreachable
            from meetingctl.remote.addresses import list_addresses, probe_addresses
            from meetingctl.remote.fanout import Done

            found = await list_addresses(access.finder, target)
            if probe:
                found = await probe_addresses(found, timeout_s=devices.run.settings.ssh_direct_s or access.connect_s)
            details = {"addresses": [address.as_json() for address in found]}
            if not found:
                error = NotFound(f"{target}: reported no address", hint=f"meetingctl fleet show {target}")
                return Done(details=details, error=error)
            if probe and not any(address.answers for address in found):
                tried = ", ".join(address.host for address in found)
                return Done(details=details, error=Unreachable(f"{target}: no SSH answer from {tried}"))
            return Done(details=details)

        return chosen.act(act, lambda reports: _show_addresses(devices.run, reports, probe=probe))


def _show_addresses(run: Invocation, reports: Sequence[Report], *, probe: bool) -> None:
    columns = ("target", "host", "port", "source", *(("answers", "detail") if probe else ()))
    if rows := rows_of(reports, "addresses"):
        run.out.rows(rows, columns, empty="no address")
