"""`fleet webhooks`: tell other systems what happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun, Fields, Filters, Watch
from meetingctl.cli.output import Column
from meetingctl.cli.targets import for_each, tell_plan
from meetingctl.cli.tree import Noun
from meetingctl.cli.watch import show_until_stopped

if TYPE_CHECKING:
    from meetingctl.client import FleetClient, JsonObject

app = Noun()

_COLUMNS = (Column("id"), Column("url"), Column("events"), Column("active"), Column("created_by"), Column("created_at"))
_ORDER = ("id", "url", "events", "active", "created_by", "created_at")
_DELIVERY_COLUMNS = (
    Column("id"),
    Column("created_at"),
    Column("event"),
    Column("subject"),
    Column("state"),
    Column("attempts", "tries"),
    Column("last_status", "status"),
    Column("next_attempt_at", "next try"),
    Column("last_error", "error"),
)
_DELIVERY_ORDER = ("id", "name", "event", "subject", "state", "attempts", "last_status", "last_error")
_POLL_S = 0.2

WebhookId = Annotated[int, typer.Argument(metavar="ID", min=1, help="number of the webhook", show_default=False)]
EventNames = Annotated[
    list[str],
    typer.Option(
        "--event",
        metavar="NAME",
        help="device.offline, device.back, tunnel.opened, release.published, update.failed, rollout.paused or "
        "rollout.finished; repeatable; default: all",
    ),
]
SecretFile = Annotated[
    str | None, typer.Option("--secret-file", metavar="FILE", help="sign with the secret in this file")
]


@app.command("list")
def list_webhooks(
    ctx: typer.Context,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the webhooks, without their secrets.

    Examples:
      meetingctl fleet webhooks list
      meetingctl fleet webhooks list --filter active=false
    """
    run = of(ctx)
    with run.open_client() as client:
        found = client.webhooks.list()
    run.out.rows(found, _COLUMNS, empty="no webhooks", fields=fields, filters=filters)


@app.command("show")
def show_webhook(ctx: typer.Context, webhook: WebhookId, fields: Fields = "") -> None:
    """Show one webhook.

    Examples:
      meetingctl fleet webhooks show 1
    """
    run = of(ctx)
    with run.open_client() as client:
        run.out.record(client.webhooks.show(webhook), fields=fields, order=_ORDER)


@app.command("add")
def add_webhook(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="where to POST, http or https", show_default=False)],
    events: EventNames = [],  # noqa: B006 - Typer reads the default and copies it
    secret_file: SecretFile = None,
    off: Annotated[bool, typer.Option("--off", help="add it, and send nothing yet")] = False,
    dry_run: DryRun = False,
) -> None:
    """Add a webhook and print the secret that signs its deliveries; it is never shown again.

    Examples:
      meetingctl fleet webhooks add https://hooks.example.org/fleet > webhook.secret
      meetingctl fleet webhooks add https://hooks.example.org/fleet --event device.offline --event device.back
    """
    run = of(ctx)
    body: dict[str, Any] = {"url": url, "active": not off} | ({"events": events} if events else {})
    secret = _read_secret(secret_file)
    if dry_run:
        tell_plan(run, "add webhook", url, events=events or ["*"], active=not off)
        return
    with run.open_client() as client:
        made = client.webhooks.create(body | secret)
    run.out.note(f"webhook {made['id']}; its secret is shown once:")
    run.out.value(made, text=str(made["secret"]))


@app.command("update")
def update_webhook(
    ctx: typer.Context,
    webhook: WebhookId,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="another address")] = None,
    events: EventNames = [],  # noqa: B006 - Typer reads the default and copies it
    active: Annotated[bool | None, typer.Option("--on/--off", help="send to it or not", show_default=False)] = None,
    new_secret: Annotated[bool, typer.Option("--new-secret", help="make another secret and print it")] = False,
    secret_file: SecretFile = None,
    dry_run: DryRun = False,
) -> None:
    """Change a webhook. One whose receiver answered 410 was turned off: --on turns it on again.

    Examples:
      meetingctl fleet webhooks update 1 --event update.failed
      meetingctl fleet webhooks update 1 --off
      meetingctl fleet webhooks update 1 --new-secret > webhook.secret
    """
    run = of(ctx)
    given = {"url": url, "events": events or None, "active": active, "new_secret": new_secret or None}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    changes |= _read_secret(secret_file)
    if not changes:
        run.refuse("nothing to change", hint=f"meetingctl fleet webhooks update {webhook} --off")
    with run.open_client() as client:
        if dry_run:
            client.webhooks.show(webhook)
            shown = {name: value for name, value in changes.items() if name != "secret"}
            tell_plan(run, "update", f"webhook {webhook}", **shown)
            return
        changed = client.webhooks.change(webhook, changes)
    if new_secret and not run.out.is_json:
        run.out.note(f"webhook {webhook}; its new secret is shown once:")
        run.out.text(str(changed.get("secret")))
        return
    run.out.record(changed, order=_ORDER)


@app.command("rm")
def remove_webhooks(
    ctx: typer.Context,
    webhooks: Annotated[list[str], typer.Argument(metavar="ID...", help="numbers of webhooks", show_default=False)],
    dry_run: DryRun = False,
) -> int:
    """Remove webhooks with their deliveries, also those that wait.

    Examples:
      meetingctl fleet webhooks rm 1 --yes
    """
    run = of(ctx)
    for text in webhooks:
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            run.refuse(f"{text[:40]}: no number of a webhook", hint="meetingctl fleet webhooks list")
    if not dry_run:
        run.confirm(f"remove webhook {', '.join(webhooks)}?")
    with run.open_client() as client:

        def act(text: str) -> object:
            return client.webhooks.show(int(text)) if dry_run else client.webhooks.delete(int(text))

        return for_each(run, "remove", webhooks, act, dry_run=dry_run)


@app.command("deliveries")
def list_deliveries(
    ctx: typer.Context,
    webhook: WebhookId,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="waiting, delivered or dead")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="at most this many")] = 100,
    watch: Watch = False,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show what was sent, newest first, and what became of it.

    Examples:
      meetingctl fleet webhooks deliveries 1
      meetingctl fleet webhooks deliveries 1 --state dead --fields id,event,subject,last_error
    """
    run = of(ctx)
    with run.open_client() as client:

        def show() -> None:
            found = client.webhooks.deliveries(webhook, limit=limit, state=state)
            run.out.rows(found, _DELIVERY_COLUMNS, empty="no deliveries", fields=fields, filters=filters)

        show_until_stopped(run, show, watch=watch)


@app.command("redeliver")
def redeliver(
    ctx: typer.Context,
    webhook: WebhookId,
    delivery: Annotated[
        int, typer.Argument(metavar="DELIVERY", min=1, help="number of the delivery", show_default=False)
    ],
    dry_run: DryRun = False,
) -> None:
    """Send a delivery again, with the same body and the same name.

    Examples:
      meetingctl fleet webhooks redeliver 1 42
    """
    run = of(ctx)
    with run.open_client() as client:
        if dry_run:
            client.webhooks.show(webhook)
            tell_plan(run, "redeliver", f"delivery {delivery}", webhook=webhook)
            return
        run.out.record(client.webhooks.redeliver(webhook, delivery), order=_DELIVERY_ORDER)


@app.command("ping")
def ping_webhook(
    ctx: typer.Context,
    webhook: WebhookId,
    wait: Annotated[bool, typer.Option("--wait", help="wait for the first try; exit code 1 when it fails")] = False,
    dry_run: DryRun = False,
) -> int:
    """Send a delivery that says nothing, to see whether it arrives.

    Examples:
      meetingctl fleet webhooks ping 1 --wait
    """
    run = of(ctx)
    with run.open_client() as client:
        if dry_run:
            client.webhooks.show(webhook)
            tell_plan(run, "ping", f"webhook {webhook}")
            return 0
        sent = client.webhooks.ping(webhook)
        if wait:
            sent = _wait_for_try(run, client, webhook, sent)
    run.out.record(sent, order=_DELIVERY_ORDER)
    return 1 if wait and sent["state"] != "delivered" else 0


def _wait_for_try(run: Invocation, client: FleetClient, webhook: int, sent: JsonObject) -> JsonObject:
    """Return the delivery after its first try, or as it is after the deadline of a request."""
    deadline_s = time.monotonic() + run.settings.timeout_s
    while time.monotonic() < deadline_s:
        newest = client.webhooks.deliveries(webhook)
        sent = next((item for item in newest if item["id"] == sent["id"]), sent)
        if sent["last_status"] is not None or sent["last_error"] is not None:
            break
        time.sleep(_POLL_S)
    return sent


def _read_secret(secret_file: str | None) -> dict[str, str]:
    from meetingctl.core.paths import read_small_text

    return {} if secret_file is None else {"secret": read_small_text(Path(secret_file)).strip()}
