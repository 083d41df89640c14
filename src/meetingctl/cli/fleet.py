"""`fleet`: the server's records of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli import (
    fleet_events,
    fleet_files,
    fleet_keys,
    fleet_publish,
    fleet_relations,
    fleet_releases,
    fleet_rollout,
    fleet_types,
    webhooks,
)
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import Device, Devices, DryRun, Fields, Filters, Watch
from meetingctl.cli.output import Column
from meetingctl.cli.targets import for_each, tell_plan
from meetingctl.cli.tree import Noun
from meetingctl.cli.watch import show_until_stopped

if TYPE_CHECKING:
    from meetingctl.client import FleetClient
    from meetingctl.core.secret import Secret

app = Noun()

# A single-object call may hold these; they are shown only when they are asked for.
SECRET_FIELDS = frozenset({"token_code", "ap_ssid", "ap_password", "http_pw_low", "http_pw_medium", "http_pw_high"})

_COLUMNS = (
    Column("device_key", "device"),
    Column("status"),
    Column("authorized"),
    Column("device_type", "type"),
    Column("distribution"),
    Column("ip_address", "address"),
    Column("last_seen"),
    Column("note"),
)
_SHOW_ORDER = (
    "device_key",
    "device_name",
    "status",
    "online",
    "last_seen",
    "authorized",
    "device_type",
    "distribution",
)

TokenFile = Annotated[
    str | None, typer.Option("--token-file", metavar="FILE", help="read the device's token code from this file")
]


@app.command("list")
def list_devices(
    ctx: typer.Context,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="device keys that begin with this")] = "",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="at most this many, before filters")
    ] = None,
    watch: Watch = False,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the devices.

    Examples:
      meetingctl fleet list
      meetingctl fleet list --filter status=Available --filter "device_type=cam*"
      meetingctl fleet list --fields device_key,ip_lan -o plain
    """
    from meetingctl.cli.completion_tree import remember_names

    run = of(ctx)
    with run.open_client() as client:

        def show() -> None:
            devices = list(client.list_devices(prefix=prefix, limit=limit))
            if not prefix and limit is None:
                remember_names(run.places.cache_dir, devices)
            run.out.rows(devices, _COLUMNS, empty="no devices", fields=fields, filters=filters)

        show_until_stopped(run, show, watch=watch)


@app.command("show")
def show_device(
    ctx: typer.Context,
    device: Device,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="also show the token code and passwords, if your role may read them")
    ] = False,
    fields: Fields = "",
) -> None:
    """Show one device.

    Examples:
      meetingctl fleet show cam-7
      meetingctl fleet show cam-7 --fields status,last_seen --json
      meetingctl fleet show cam-7 --secrets
    """
    run = of(ctx)
    with run.open_client() as client:
        record = client.get_device(device, secrets=secrets)
    # A server of an earlier version shows them to an administrator without being asked.
    shown = record if secrets else {key: value for key, value in record.items() if key not in SECRET_FIELDS}
    run.out.record(shown, fields=fields, order=_SHOW_ORDER)


@app.command("create")
def create_device(
    ctx: typer.Context,
    device: Annotated[
        str | None, typer.Argument(metavar="KEY", help="key of the new device; made when it is not given")
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="let the server make key, type and all the rest")
    ] = False,
    device_type: Annotated[str | None, typer.Option("--type", metavar="NAME", help="device type")] = None,
    distribution: Annotated[str | None, typer.Option("--distribution", metavar="NAME", help="distribution")] = None,
    serial: Annotated[str | None, typer.Option("--serial", metavar="TEXT", help="serial number of the product")] = None,
    dry_run: DryRun = False,
) -> None:
    """Create a device; its token code and passwords are shown once.

    A device needs --type and --distribution, or --generate alone, which leaves everything to the server.

    Examples:
      meetingctl fleet create cam-7 --type rpicam --distribution trixie
      meetingctl fleet create --type rpicam --distribution trixie --json
      meetingctl fleet create --generate
    """
    from meetingctl.core.ids import new_token_code, parse_device_key
    from meetingctl.core.secret import Secret

    run = of(ctx)
    is_plain = device is None and device_type is None and distribution is None and serial is None
    if generate and not is_plain:
        run.refuse("--generate goes alone", hint="meetingctl fleet create --generate")
    if not generate and (device_type is None or distribution is None):
        missing = "--type" if device_type is None else "--distribution"
        run.refuse(
            f"a device needs {missing}", hint="meetingctl fleet create cam-7 --type rpicam --distribution trixie"
        )
    key = str(parse_device_key(device)) if device is not None else None
    with run.open_client() as client:
        if dry_run:
            _refuse_known(client, key)
            tell_plan(run, "create", key or "a device with a made key")
            return
        if generate:
            made = client.generate_device()
        else:
            key = key or str(client.generate_key()["devicekey"])
            made = client.create_device(
                key,
                token_code=Secret(new_token_code()),
                device_type=device_type or "",
                distribution=distribution or "",
                product_serial=serial,
            )
    key = str(made.pop("devicekey", key))
    run.out.record({"device_key": key, **made})
    run.out.note(f"the secrets are shown once; next: {run.line('fleet', 'authorize', key)}")


def _refuse_known(client: FleetClient, key: str | None) -> None:
    """Raises: Conflict when a device has the key."""
    from meetingctl.core.errors import Conflict, NotFound

    if key is None:
        return
    try:
        client.get_device(key)
    except NotFound:
        return
    raise Conflict(f"{key}: device already exists", hint=f"meetingctl fleet show {key}")


@app.command("register")
def register_device(ctx: typer.Context, device: Device, token_file: TokenFile = None, dry_run: DryRun = False) -> None:
    """Register as a device with its token code; works once per code.

    The token code comes from --token-file, a prompt or standard input. The reply holds the device's long token.

    Examples:
      meetingctl fleet register cam-7 --token-file code.txt
      echo 3FA9C1 | meetingctl fleet register cam-7
    """
    run = of(ctx)
    code = _read_code(run, device, token_file)
    if dry_run:
        _tell_dry(run, "register", device)
        return
    with run.open_client() as client:
        reply = client.register_device(device, token_code=code)
    run.out.record({"device_key": device, **{key: value for key, value in reply.items() if key != "ok"}})


@app.command("authorize")
def authorize_devices(ctx: typer.Context, devices: Devices, dry_run: DryRun = False) -> int:
    """Let devices connect and be reached.

    Examples:
      meetingctl fleet authorize cam-7
      meetingctl fleet authorize cam-7 cam-8 --json
    """
    return _change_each(of(ctx), "authorize", devices, lambda client, key: client.set_authorized(key, True), dry_run)


@app.command("revoke")
def revoke_devices(ctx: typer.Context, devices: Devices, dry_run: DryRun = False) -> int:
    """Take the authorization from devices; their connections and tunnels end at once.

    The record stays; `fleet authorize` lets the device in again.

    Examples:
      meetingctl fleet revoke cam-7
    """
    return _change_each(of(ctx), "revoke", devices, lambda client, key: client.set_authorized(key, False), dry_run)


@app.command("note")
def note_device(
    ctx: typer.Context,
    device: Device,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help='new note; "" removes it')] = None,
    dry_run: DryRun = False,
) -> None:
    """Show or replace the note of a device.

    Examples:
      meetingctl fleet note cam-7
      meetingctl fleet note cam-7 "north door, ladder needed"
    """
    run = of(ctx)
    if text is not None and dry_run:
        _tell_dry(run, "replace the note of", device)
        return
    with run.open_client() as client:
        note = client.get_note(device) if text is None else str(client.set_note(device, text).get("note", text))
    run.out.value({"device_key": device, "note": note}, text=None if run.out.is_json else _line(note))


def _line(text: str) -> str:
    from meetingctl.cli.output import printable

    return printable(text)


@app.command("tokens")
def change_tokens(
    ctx: typer.Context,
    device: Device,
    count: Annotated[
        int | None, typer.Option("--set", metavar="N", min=0, max=1_000_000, help="flash tokens that are left")
    ] = None,
    new_code: Annotated[
        bool, typer.Option("--new-code", help="make a new token code; the device needs it to connect again")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Show or set how many flash tokens a device has, or give it a new token code.

    Examples:
      meetingctl fleet tokens cam-7
      meetingctl fleet tokens cam-7 --set 5
      meetingctl fleet tokens cam-7 --new-code --yes
    """
    from meetingctl.core.ids import new_token_code
    from meetingctl.core.secret import Secret

    run = of(ctx)
    if dry_run and (count is not None or new_code):
        _tell_dry(run, "change the tokens of", device)
        return
    if new_code:
        run.confirm(f"give {device} a new token code? The old one stops working.")
    facts: dict[str, Any] = {"device_key": device}
    with run.open_client() as client:
        if count is not None:
            facts["token_count"] = client.set_tokens(device, count).get("token_count", count)
        if new_code:
            code = new_token_code()
            facts["token_code"] = client.set_token_code(device, Secret(code)).get("token_code", code)
        if count is None and not new_code:
            facts["token_count"] = client.get_device(device).get("token_count")
    run.out.record(facts)


@app.command("services")
def change_services(
    ctx: typer.Context,
    device: Device,
    names: Annotated[
        str | None,
        typer.Option("--set", metavar="A,B", help='the full list of ssh, http, vnc, scp, debug; "" for none'),
    ] = None,
    local_ports: Annotated[
        list[str],
        typer.Option(
            "--local-port",
            metavar="SERVICE=PORT",
            help="where a service listens on the device, SERVICE= for the usual port; repeatable, the others stay",
        ),
    ] = [],  # noqa: B006 - Typer reads the default and copies it
    dry_run: DryRun = False,
) -> None:
    """Show or set the services of a device and the ports they listen on.

    Examples:
      meetingctl fleet services cam-7
      meetingctl fleet services cam-7 --set ssh,http
      meetingctl fleet services cam-7 --local-port http=5000
      meetingctl fleet services cam-7 --local-port http=
    """
    run = of(ctx)
    wanted = None if names is None else _read_services(run, names)
    ports = dict(_read_local_port(run, text) for text in local_ports)
    if dry_run and (wanted is not None or ports):
        _tell_dry(run, "change the services of", device)
        return
    facts: dict[str, Any] = {"device_key": device}
    with run.open_client() as client:
        if wanted is not None or ports:
            client.set_services(device, wanted, local_ports=_merge_ports(client.get_device(device), ports))
        shown = client.get_device(device)
    run.out.record(facts | {"services": shown["services"], "local_ports": shown["local_ports"]})


def _merge_ports(shown: Mapping[str, Any], changes: Mapping[str, int | None]) -> dict[str, int] | None:
    """Return the overrides after the changes, None when nothing changes them; None as a port means the usual one."""
    merged = {**shown["local_ports"], **changes}
    return {name: port for name, port in merged.items() if port is not None} if changes else None


def _read_services(run: Invocation, text: str) -> list[str]:
    from meetingctl.core.services import DECLARED_SERVICES

    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := next((name for name in names if name not in DECLARED_SERVICES), None):
        run.refuse(f"no service {unknown[:40]!r}", hint=f"use {', '.join(DECLARED_SERVICES)}")
    return names


def _read_local_port(run: Invocation, text: str) -> tuple[str, int | None]:
    name, equals, port = text.partition("=")
    if name and equals and not port:
        return name, None
    if not name or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        run.refuse(f"not a port of a service: {text[:80]!r}", hint="use for example --local-port http=5000")
    return name, int(port)


@app.command("remove")
def remove_devices(ctx: typer.Context, devices: Devices, dry_run: DryRun = False) -> int:
    """Delete devices with their tunnels, keys and logs.

    Examples:
      meetingctl fleet remove cam-7
      meetingctl fleet remove cam-7 cam-8 --yes
    """
    run = of(ctx)
    if not dry_run:
        run.confirm(f"delete {', '.join(devices)} for good?")
    return _change_each(run, "remove", devices, lambda client, key: client.delete_device(key), dry_run)


@app.command("heartbeat")
def send_heartbeat(
    ctx: typer.Context,
    device: Device,
    token_file: TokenFile = None,
    ip_lan: Annotated[
        str | None, typer.Option("--ip-lan", metavar="ADDRESS", help="address in its own network")
    ] = None,
    ip_public: Annotated[str | None, typer.Option("--ip-public", metavar="ADDRESS", help="public address")] = None,
    mac: Annotated[str | None, typer.Option("--mac", metavar="MAC", help="hardware address")] = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="status note of the device")] = None,
    dry_run: DryRun = False,
) -> None:
    """Report a device as online, as the device itself would.

    Examples:
      meetingctl fleet heartbeat cam-7
      meetingctl fleet heartbeat cam-7 --token-file code.txt --ip-lan 10.0.0.7
    """
    run = of(ctx)
    given = {"ip_lan": ip_lan, "ip_public": ip_public, "mac": mac, "note": note}
    facts = {key: value for key, value in given.items() if value is not None}
    code = _read_code(run, device, token_file) if token_file is not None else None
    if dry_run:
        _tell_dry(run, "report as online", device)
        return
    with run.open_client(token_code=code) as client:
        reply = client.send_heartbeat(device, facts)
    run.out.record({"device_key": device, **{key: value for key, value in reply.items() if key != "ok"}})


def _read_code(run: Invocation, device: str, token_file: str | None) -> Secret:
    from meetingctl.core.ids import parse_token_code
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.secret import Secret

    if token_file is None:
        text = run.read_secret(f"token code of {device}", flag="--token-file FILE").reveal()
    else:
        text = read_small_text(Path(token_file)).strip()
    return Secret(parse_token_code(text))


def _change_each(
    run: Invocation, word: str, devices: list[str], change: Callable[[FleetClient, str], object], dry_run: bool
) -> int:
    with run.open_client() as client:
        return for_each(
            run, word, devices, client.get_device if dry_run else lambda key: change(client, key), dry_run=dry_run
        )


def _tell_dry(run: Invocation, word: str, device: str) -> None:
    """Say what would be done to a device that is there. Without an API key nobody can look. Raises: NotFound."""
    if run.settings.api_key:
        with run.open_client() as client:
            client.get_device(device)
    tell_plan(run, word, device)


app.command("rename")(fleet_relations.rename_device)
app.command("tag")(fleet_relations.tag_devices)
app.command("parent")(fleet_relations.set_parent)
app.add("keys", fleet_keys.app, "Keep the SSH keys of devices and of the server.")
app.add("types", fleet_types.types, "Keep the kinds of devices.")
app.add("distributions", fleet_types.distributions, "Keep the places for files, and distrib.json.")
app.add("files", fleet_files.app, "Keep the files that devices fetch.")
app.command("publish")(fleet_publish.publish_release)
app.add("releases", fleet_releases.releases, "See and check what is published.")
app.add("channels", fleet_releases.channels, "Say which version devices should have.")
app.add("rollout", fleet_rollout.app, "Hand a release out wave by wave.")
app.command("updates")(fleet_publish.show_updates)
app.command("history")(fleet_publish.show_history)
app.command("events")(fleet_events.show_events)
app.add("webhooks", webhooks.app, "Tell other systems what happens.")
