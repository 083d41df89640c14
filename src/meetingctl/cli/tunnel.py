"""`tunnel`: live reverse links to devices, and the agent that holds them up from the other side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import Device, DryRun, Fields, Filters, Watch, parse_life_s
from meetingctl.cli.output import Column, with_iso_times
from meetingctl.cli.targets import for_each, tell_plan
from meetingctl.cli.tree import Noun
from meetingctl.cli.watch import show_until_stopped

if TYPE_CHECKING:
    from meetingctl.client import FleetClient, JsonObject
    from meetingctl.tunnel.agent import AgentStatus
    from meetingctl.tunnel.agentconfig import AgentConfig

app = Noun()

_COLUMNS = (
    Column("port"),
    Column("device_key", "device"),
    Column("service"),
    Column("local_port"),
    Column("expires_at"),
)
_SHOW_ORDER = ("port", "device_key", "service", "local_port", "url", "online", "expires_at")

TunnelId = Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="public port", show_default=False)]


@app.command("open")
def open_tunnel(
    ctx: typer.Context,
    device: Device,
    service: Annotated[
        str,
        typer.Argument(metavar="SERVICE|PORT", help="ssh, http, vnc, scp, or a port on the device", show_default=False),
    ],
    life: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="how long, for example 1h; default: the server's")
    ] = None,
    allow_from: Annotated[
        list[str],
        typer.Option("--allow-from", metavar="CIDR", help="who may visit: networks, `requester` or `any`; repeatable"),
    ] = [],  # noqa: B006 - Typer reads the default and copies it
    dry_run: DryRun = False,
) -> None:
    """Open a tunnel to a device and print its public address.

    The same request again returns the same tunnel with a new end.

    Examples:
      meetingctl tunnel open cam-7 ssh
      meetingctl tunnel open cam-7 8554 --for 15m
      meetingctl tunnel open cam-7 http --allow-from 192.0.2.0/24 --json
    """
    from meetingctl.core.net import parse_networks

    run = of(ctx)
    name, port = _service_and_port(run, service)
    ttl_s = parse_life_s(life, "--for") if life is not None else None
    parse_networks(word for word in allow_from if word not in {"any", "requester"})
    with run.open_client() as client:
        if dry_run:
            client.get_device(device)
            tell_plan(run, f"open {service} of", device, service=name, local_port=port)
            return
        reply = client.open_tunnel(device, name, port=port, ttl_s=ttl_s, allow_from=allow_from or None)
        is_online = _is_online(client, reply)
    facts = {"device_key": device, "service": name, **reply, "online": is_online}
    run.out.value(facts, text=str(reply.get("url")))
    close = run.line("tunnel", "close", str(reply.get("port")))
    ends_at = with_iso_times(reply).get("expires_at")
    run.out.note(f"{f'until {ends_at}' if ends_at else 'it has no end'}; end it with: {close}")
    if is_online is False:
        show = run.line("tunnel", "show", str(reply.get("port")))
        run.out.warn(f"{device}: its agent is not connected; the port refuses until it is", hint=show)


def _is_online(client: FleetClient, opened: JsonObject) -> bool | None:
    """Say whether the agent of an opened tunnel is connected; None when the server does not tell."""
    from meetingctl.core.errors import MeetingctlError

    try:
        online = client.get_tunnel(int(opened["port"])).get("online")
    except (MeetingctlError, KeyError):
        return None
    return online if isinstance(online, bool) else None


def _service_and_port(run: Invocation, text: str) -> tuple[str, int | None]:
    from meetingctl.core.services import TUNNEL_SERVICES

    if text.isascii() and text.isdigit():
        if not 1 <= int(text[:6]) <= 65535:
            run.refuse(f"port out of range: {text[:10]}", hint="ports go from 1 to 65535")
        return "relay", int(text)
    if text not in TUNNEL_SERVICES or text == "relay":
        run.refuse(f"no service {text[:40]!r}", hint="use ssh, http, vnc, scp or a port number")
    return text, None


@app.command("list")
def list_tunnels(
    ctx: typer.Context,
    watch: Watch = False,
    fields: Fields = "",
    filters: Filters = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Show the open tunnels.

    Examples:
      meetingctl tunnel list
      meetingctl tunnel list --watch
      meetingctl tunnel list --filter service=ssh --json
    """
    run = of(ctx)
    with run.open_client() as client:

        def show() -> None:
            run.out.rows(client.list_tunnels(), _COLUMNS, empty="no open tunnels", fields=fields, filters=filters)

        show_until_stopped(run, show, watch=watch)


@app.command("show")
def show_tunnel(ctx: typer.Context, port: TunnelId, fields: Fields = "") -> None:
    """Show one tunnel with its live figures.

    Examples:
      meetingctl tunnel show 9050
    """
    run = of(ctx)
    with run.open_client() as client:
        tunnel = client.get_tunnel(port)
    run.out.record(tunnel, fields=fields, order=_SHOW_ORDER)


@app.command("close")
def close_tunnels(
    ctx: typer.Context,
    ports: Annotated[
        list[int], typer.Argument(metavar="PORT...", min=1, max=65535, help="public ports", show_default=False)
    ] = [],  # noqa: B006 - Typer reads the default and copies it
    every: Annotated[bool, typer.Option("--all", help="close every tunnel of the fleet")] = False,
    dry_run: DryRun = False,
) -> int:
    """Close tunnels; running connections through them end.

    Examples:
      meetingctl tunnel close 9050
      meetingctl tunnel close --all --yes
    """
    run = of(ctx)
    if bool(ports) == every:
        run.refuse("name tunnels by their public port, or --all", hint="meetingctl tunnel list")
    names = [str(port) for port in ports]
    with run.open_client() as client:
        if not every:
            act = client.get_tunnel if dry_run else client.close_tunnel
            return for_each(run, "close", names, lambda name: act(int(name)), dry_run=dry_run)
        if dry_run:
            names = [str(tunnel["port"]) for tunnel in client.list_tunnels()]
            return for_each(run, "close", names, lambda name: None, dry_run=True)
        run.confirm("close every tunnel of the fleet?")
        closed = client.close_all_tunnels()
    run.out.value({"closed": closed}, text=f"closed {closed}")
    return 0


@app.command("stats")
def show_stats(
    ctx: typer.Context,
    device: Annotated[str | None, typer.Argument(metavar="DEVICE", help="this device only")] = None,
    fields: Fields = "",
) -> None:
    """Show visits and bytes per device and service, and the agents that are connected.

    Examples:
      meetingctl tunnel stats
      meetingctl tunnel stats cam-7 --json
    """
    run = of(ctx)
    with run.open_client() as client:
        reply = client.tunnel_stats(device)
        if device is not None and not reply.get("stats") and not reply.get("agents"):
            client.get_device(device)
    if run.out.style == "json" and not fields:
        run.out.value(reply)
        return
    columns = (Column("device_key", "device"), "service", "visits", "refused", "bytes_in", "bytes_out", "last_visit")
    run.out.rows(reply.get("stats") or [], columns, empty="no visits yet", fields=fields)
    if not run.out.is_json:
        agents = reply.get("agents") or []
        names = ", ".join(f"{agent.get('device_key')} ({agent.get('kind')})" for agent in agents)
        run.out.note(f"agents connected: {len(agents)}{': ' if names else ''}{names}")


@app.command("agent")
def run_agent(
    ctx: typer.Context,
    server: Annotated[str | None, typer.Option("--server", metavar="HOST:PORT", help="tunnel server to dial")] = None,
    device_key: Annotated[str | None, typer.Option("--device-key", metavar="KEY", help="this device")] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="CODE", help="its token code; others see it: prefer --token-file"),
    ] = None,
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="read the token code from this file")
    ] = None,
    api: Annotated[
        str | None, typer.Option("--api", metavar="URL", help="fleet API for heartbeats; without it there are none")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="read a device's meeting.json instead")
    ] = None,
) -> None:
    """Hold up the device's end of the tunnel until SIGTERM.

    Every loss of the connection is followed by a new try. Settings agent_* and MEETINGCTL_AGENT_* give the same values.

    Examples:
      meetingctl tunnel agent --config /etc/meeting/meeting.json
      meetingctl tunnel agent --server fleet.example.org:9001 --api https://fleet.example.org --device-key cam-7
      meetingctl tunnel agent --server 192.0.2.1:9001 --device-key cam-7 --token-file code.txt
    """
    from meetingctl.cli.signals import stop_on_signals
    from meetingctl.core.paths import read_small_text
    from meetingctl.tunnel.agent import Agent
    from meetingctl.tunnel.agentconfig import load_meeting_json

    run = of(ctx)
    if token_file is not None:
        token = read_small_text(Path(token_file)).strip()
    run.set_options(agent_server=server, agent_device_key=device_key, agent_token=token, server_url=api)
    agent_config = load_meeting_json(Path(config)) if config is not None else _agent_config(run)
    if not agent_config.api_url:
        run.out.note("no heartbeats, so the server shows the device as Unknown: --api URL names the fleet API")
    agent = Agent(agent_config, on_status=lambda status: _tell_status(run, agent_config, status))
    with stop_on_signals() as stop:
        agent.run(stop)


def _agent_config(run: Invocation) -> AgentConfig:
    """Build the agent's configuration from the settings. Raises: ConfigError for what is missing."""
    from meetingctl.core.net import is_loopback, parse_endpoint
    from meetingctl.tunnel.agentconfig import DEFAULT_TUNNEL_PORT, AgentConfig

    settings = run.settings
    endpoint = settings.agent_server
    host, port = parse_endpoint(endpoint, default_port=DEFAULT_TUNNEL_PORT) if endpoint else ("", 0)
    # The default address of the API is this machine, which is right only when the tunnel server is here too.
    knows_api = run.resolved.origins["server_url"] != "default" or is_loopback(host)
    return AgentConfig(
        server_host=host,
        server_port=port,
        device_key=settings.agent_device_key,
        token=settings.agent_token,
        ports=frozenset(settings.agent_ports),
        with_caps=settings.agent_caps,
        api_url=settings.server_url if knows_api else "",
        heartbeat_s=settings.agent_heartbeat_s,
    )


def _tell_status(run: Invocation, config: AgentConfig, status: AgentStatus) -> None:
    """Say what changed: a line for people on stderr, an object a line in the JSON formats."""
    if run.out.is_json:
        from meetingctl.cli.output import to_json

        run.out.text(to_json({"device_key": config.device_key, **asdict(status)}, indent=None))
        run.out.out.flush()
        return
    place = f"{config.device_key} at {config.server_host}:{config.server_port}"
    detail = f": {status.error}; next try in {status.retry_s:.0f} s" if status.state == "waiting" else ""
    run.out.note(f"{status.state}: {place}{detail}")
