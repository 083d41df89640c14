"""`fleet rollout`: hand a release out wave by wave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli import fleet_rollout_drive
from meetingctl.cli.fleet_releases import Release, read_release
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters, Watch
from meetingctl.cli.output import Column
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import Noun
from meetingctl.cli.watch import show_until_stopped

if TYPE_CHECKING:
    from meetingctl.client import FleetClient, JsonObject

app = Noun()

_COLUMNS = (
    Column("id"),
    Column("device_type", "type"),
    Column("distribution"),
    Column("channel"),
    Column("version"),
    Column("state"),
    Column("wave"),
    Column("waves"),
    Column("reason"),
    Column("created_at"),
)
_ORDER = (
    "id",
    "state",
    "version",
    "previous_version",
    "wave",
    "waves",
    "devices",
    "success",
    "failed",
    "waits_for",
    "reason",
)

_LIVE = ("preparing", "running", "paused")

RolloutId = Annotated[int, typer.Argument(metavar="ID", min=1, help="number of the rollout", show_default=False)]


@app.command("start")
def start_rollout(
    ctx: typer.Context,
    release: Release,
    channel: Annotated[str, typer.Option("--channel", metavar="NAME", help="channel whose devices get it")] = "default",
    waves: Annotated[
        str, typer.Option("--waves", metavar="A,B,100", help="share of the devices, in percent")
    ] = "5,25,100",
    soak: Annotated[str, typer.Option("--soak", metavar="DURATION", help="how long each wave is watched")] = "1h",
    delay: Annotated[
        str, typer.Option("--delay", metavar="DURATION", help="devices of a wave start at random within this time")
    ] = "10m",
    max_failed: Annotated[
        int, typer.Option("--max-failed", metavar="PERCENT", min=0, max=100, help="more failures than this pause it")
    ] = 10,
    min_success: Annotated[
        int,
        typer.Option("--min-success", metavar="PERCENT", min=0, max=100, help="successes a wave needs before the next"),
    ] = 50,
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", help="only devices with this tag")] = None,
    devices: Annotated[list[str], typer.Option("--device", metavar="KEY", help="only this device; repeatable")] = [],  # noqa: B006 - Typer reads the default and copies it
    percent: Annotated[
        int, typer.Option("--percent", metavar="PERCENT", min=1, max=100, help="only this share of the devices")
    ] = 100,
    dry_run: DryRun = False,
) -> None:
    """Hand a release out in waves; too many failures pause it and return the former version.

    Devices of later waves keep the former version until their wave. With --tag, --device or --percent the channel
    itself stays as it is.

    Examples:
      meetingctl fleet rollout start rpicam/trixie/1.4.0
      meetingctl fleet rollout start rpicam/trixie/1.4.0 --waves 1,10,50,100 --soak 6h --max-failed 5
      meetingctl fleet rollout start rpicam/trixie/1.5.0-rc1 --tag lab --waves 100
    """
    from meetingctl.core.duration import parse_duration_s

    run = of(ctx)
    selector: dict[str, Any] = {"tag": tag, "keys": devices or None, "percent": percent if percent < 100 else None}
    plan = {
        "waves_percent": _read_waves(run, waves),
        "soak_s": int(parse_duration_s(soak)),
        "max_delay_s": int(parse_duration_s(delay)),
        "max_failed_percent": max_failed,
        "min_success_percent": min_success,
    }
    chosen = {name: value for name, value in selector.items() if value is not None}
    body = {**read_release(run, release), "channel": channel, "selector": chosen, "plan": plan}
    with run.open_client() as client:
        if dry_run:
            client.releases.verify(read_release(run, release))
            _refuse_second(client, body)
            tell_plan(run, "roll out", release, channel=channel, selector=chosen, plan=plan)
            return
        item = client.rollouts.start(body)
    run.out.record(item, order=_ORDER)
    run.out.note(f"follow it with: {run.line('fleet', 'rollout', 'status', str(item['id']), '--watch')}")


def _read_waves(run: Invocation, text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isascii() and word.strip().isdigit() and len(word) < 5 for word in words):
        run.refuse(f"--waves {text[:40]}: no list of percentages", hint="--waves 5,25,100")
    return [int(word) for word in words]


@app.command("status")
def show_rollout(ctx: typer.Context, rollout: RolloutId, watch: Watch = False, fields: Fields = "") -> None:
    """Show a rollout: its wave, its figures, and what it waits for.

    Examples:
      meetingctl fleet rollout status 3
      meetingctl fleet rollout status 3 --watch
    """
    run = of(ctx)
    with run.open_client() as client:
        show_until_stopped(
            run, lambda: run.out.record(client.rollouts.show(rollout), fields=fields, order=_ORDER), watch=watch
        )


@app.command("list")
def list_rollouts(
    ctx: typer.Context,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="preparing, running, paused, finished, aborted, or live"),
    ] = None,
    watch: Watch = False,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the rollouts, newest first.

    Examples:
      meetingctl fleet rollout list
      meetingctl fleet rollout list --state live --watch
    """
    run = of(ctx)
    with run.open_client() as client:

        def show() -> None:
            found = client.rollouts.list(state=state)
            run.out.rows(found, _COLUMNS, empty="no rollouts", fields=fields, filters=filters)

        show_until_stopped(run, show, watch=watch)


@app.command("pause")
def pause_rollout(
    ctx: typer.Context,
    rollout: RolloutId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="why")] = "",
    dry_run: DryRun = False,
) -> None:
    """Stop handing the version out; devices that have not taken it keep the former one.

    Examples:
      meetingctl fleet rollout pause 3 --reason "camera 4 reboots"
    """
    _act(of(ctx), "pause", rollout, lambda client: client.rollouts.pause(rollout, reason), dry_run)


@app.command("resume")
def resume_rollout(ctx: typer.Context, rollout: RolloutId, dry_run: DryRun = False) -> None:
    """Go on with a paused rollout; devices that failed get another try.

    Examples:
      meetingctl fleet rollout resume 3
    """
    _act(of(ctx), "resume", rollout, lambda client: client.rollouts.resume(rollout), dry_run)


@app.command("abort")
def abort_rollout(ctx: typer.Context, rollout: RolloutId, dry_run: DryRun = False) -> None:
    """End a rollout; every device of it belongs to the former version again.

    Examples:
      meetingctl fleet rollout abort 3 --yes
    """
    run = of(ctx)
    if not dry_run:
        run.confirm(f"abort rollout {rollout}? Its devices go back to the former version.")
    _act(run, "abort", rollout, lambda client: client.rollouts.abort(rollout), dry_run, only_in=_LIVE)


app.command("drive")(fleet_rollout_drive.drive_rollout)


def _refuse_second(client: FleetClient, body: Mapping[str, Any]) -> None:
    """Refuse as the server would when another rollout has not ended on the channel. Raises: Conflict."""
    from meetingctl.core.refusal import explain_refusal

    place = ("device_type", "distribution", "channel")
    for item in client.rollouts.list(state="live"):
        if all(item.get(name) == body[name] for name in place):
            hint = f"meetingctl fleet rollout status {item['id']}"
            raise explain_refusal(409, "A rollout runs on this channel", subject="rollout", hint=hint)


def _refuse_state(item: JsonObject, states: Sequence[str]) -> None:
    """Refuse as the server would in any other state. Raises: Conflict."""
    from meetingctl.core.refusal import explain_refusal

    if item.get("state") not in states:
        hint = f"meetingctl fleet rollout status {item['id']}"
        raise explain_refusal(409, f"The rollout is {item.get('state')}", subject=f"rollout {item['id']}", hint=hint)


def _act(
    run: Invocation,
    verb: str,
    rollout: int,
    act: Callable[[FleetClient], JsonObject],
    dry_run: bool,
    only_in: Sequence[str] | None = None,
) -> None:
    with run.open_client() as client:
        if dry_run:
            item = client.rollouts.show(rollout)
            if only_in is not None:
                _refuse_state(item, only_in)
            tell_plan(run, verb, f"rollout {rollout}")
            return
        item = act(client)
    run.out.record(item, order=_ORDER)
