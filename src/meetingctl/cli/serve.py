"""`serve`: this machine is the server."""

from __future__ import annotations

from typing import Annotated

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import Noun

app = Noun()

PARTS = ("api", "tunnel")

DataDir = Annotated[str | None, typer.Option("--data", metavar="DIR", help="where the data lives", show_default=False)]
DbUrl = Annotated[str | None, typer.Option("--db", metavar="URL", help="PostgreSQL instead of SQLite in --data")]
Mode = Annotated[str | None, typer.Option("--mode", metavar="MODE", help="enforce or compat")]
LegacyOpen = Annotated[
    bool, typer.Option("--legacy-open", help="ask for no credentials at all, as the original did; loopback only")
]
AllowFrom = Annotated[
    list[str],
    typer.Option("--allow-from", metavar="CIDR", help="networks that --legacy-open serves too; repeatable"),
]
TunnelPorts = Annotated[str | None, typer.Option("--tunnel-ports", metavar="A-B", help="pool of public ports")]
TunnelBind = Annotated[str | None, typer.Option("--tunnel-bind", metavar="ADDRESS", help="address of the public ports")]
PublicHost = Annotated[
    str | None, typer.Option("--public-host", metavar="NAME", help="host that visitors are told to use")
]


def _set_mode(run: Invocation, mode: str | None, legacy_open: bool, allow_from: list[str]) -> None:
    if mode == "legacy-open" and not legacy_open:
        run.refuse("mode legacy-open needs to be asked for", hint="add --legacy-open")
    run.set_options(mode="legacy-open" if legacy_open else mode, legacy_allow_from=allow_from)
    if run.settings.mode == "legacy-open" and not legacy_open:
        run.refuse("mode legacy-open is set, but needs to be asked for", hint="add --legacy-open")


@app.command("api")
def serve_api(
    ctx: typer.Context,
    listen: Annotated[str | None, typer.Option("--listen", metavar="HOST:PORT", help="address of the API")] = None,
    db: DbUrl = None,
    data: DataDir = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, max=64, help="processes; more than 1 needs PostgreSQL"),
    ] = None,
    tunnel_ports: TunnelPorts = None,
    public_host: PublicHost = None,
    mode: Mode = None,
    legacy_open: LegacyOpen = False,
    allow_from: AllowFrom = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Run the fleet API until SIGTERM.

    The API gives out the public ports, also where a tunnel server of its own opens them.

    Examples:
      meetingctl serve api
      meetingctl serve api --listen 127.0.0.1:8470 --db postgresql://meetingctl@db/meetingctl --workers 2
      meetingctl serve api --tunnel-ports 9050-9130 --public-host tunnel.example.org
    """
    run = of(ctx)
    run.set_options(
        api_listen=listen,
        db_url=db,
        data_dir=data,
        api_workers=workers,
        tunnel_ports=tunnel_ports,
        tunnel_public_host=public_host,
    )
    _set_mode(run, mode, legacy_open, allow_from)
    _serve(run, frozenset({"api"}))


@app.command("tunnel")
def serve_tunnel_proxy(
    ctx: typer.Context,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="address where agents dial in")
    ] = None,
    bind: Annotated[str | None, typer.Option("--bind", metavar="ADDRESS", help="address of the public ports")] = None,
    api: Annotated[str | None, typer.Option("--api", metavar="URL", help="fleet API that knows the devices")] = None,
) -> None:
    """Run the tunnel server until SIGTERM, beside an API that runs elsewhere.

    It presents an API key with role proxy to the API: `meetingctl token create proxy --role proxy`. Which ports there
    are and what visitors are told is the API's: `meetingctl serve api --tunnel-ports A-B --public-host NAME`.

    Examples:
      meetingctl serve tunnel --api http://127.0.0.1:8470
      meetingctl serve tunnel --listen 0.0.0.0:9001 --bind 0.0.0.0 --api https://fleet.example.org
    """
    from meetingctl.server.run import serve_tunnel

    run = of(ctx)
    run.set_options(tunnel_listen=listen, tunnel_bind=bind, server_url=api)
    serve_tunnel(run.settings)


@app.command("all")
def serve_everything(
    ctx: typer.Context,
    api_listen: Annotated[
        str | None, typer.Option("--api-listen", metavar="HOST:PORT", help="address of the API")
    ] = None,
    tunnel_listen: Annotated[
        str | None, typer.Option("--tunnel-listen", metavar="HOST:PORT", help="address where agents dial in")
    ] = None,
    tunnel_ports: TunnelPorts = None,
    tunnel_bind: TunnelBind = None,
    public_host: PublicHost = None,
    db: DbUrl = None,
    data: DataDir = None,
    only: Annotated[str | None, typer.Option("--only", metavar="A,B", help="run only these parts: api, tunnel")] = None,
    mode: Mode = None,
    legacy_open: LegacyOpen = False,
    allow_from: AllowFrom = [],  # noqa: B006 - Typer reads the default and copies it
) -> None:
    """Run the API and the tunnel server in one process until SIGTERM.

    Examples:
      meetingctl serve all
      meetingctl serve all --tunnel-listen 0.0.0.0:9001 --tunnel-bind 0.0.0.0 --public-host fleet.example.org
      meetingctl serve all --data /srv/meetingctl --only api
    """
    run = of(ctx)
    parts = frozenset(word.strip() for word in (only or ",".join(PARTS)).split(",") if word.strip())
    if unknown := sorted(parts - {*PARTS}):
        run.refuse(f"no part {unknown[0][:40]!r}", hint=f"use {' or '.join(PARTS)}")
    run.set_options(
        api_listen=api_listen,
        tunnel_listen=tunnel_listen,
        tunnel_ports=tunnel_ports,
        tunnel_bind=tunnel_bind,
        tunnel_public_host=public_host,
        db_url=db,
        data_dir=data,
    )
    _set_mode(run, mode, legacy_open, allow_from)
    _serve(run, parts)


def _serve(run: Invocation, parts: frozenset[str]) -> None:
    from meetingctl.server.run import serve_all

    serve_all(run.settings, run.data_dir, parts)


@app.command("unit")
def show_unit(
    ctx: typer.Context,
    install: Annotated[bool, typer.Option("--install", help="write it to /etc/systemd/system")] = False,
    dry_run: DryRun = False,
) -> None:
    """Print the systemd unit of the server, or install it.

    The server runs as a user of its own, with its data in /var/lib/meetingctl. Its settings come from
    /etc/meetingctl/config.toml and /etc/meetingctl/server.env. Other users must be able to read the program: a virtual
    environment in a home folder is refused.

    Examples:
      meetingctl serve unit
      sudo meetingctl serve unit --install
    """
    from meetingctl.cli.unit import UNIT_PATH, find_unreadable, program_files, render_unit, which_meetingctl
    from meetingctl.core.errors import ConfigError
    from meetingctl.core.paths import write_atomic

    run = of(ctx)
    text = render_unit(which_meetingctl())
    venv = "/opt/meetingctl"
    advice = f"/usr/bin/python3 -m venv --clear --system-site-packages {venv} && {venv}/bin/pip install ."
    obstacle = find_unreadable(program_files())
    if not install:
        run.out.value({"unit": text, "path": str(UNIT_PATH)}, text=text)
        if obstacle:
            run.out.warn(f"the unit could not start: {obstacle}", hint=advice)
        return
    if obstacle:
        raise ConfigError(f"the unit could not start: {obstacle}", hint=advice)
    if dry_run:
        tell_plan(run, "write", str(UNIT_PATH))
        return
    write_atomic(UNIT_PATH, text)
    run.out.note(f"wrote {UNIT_PATH}")
    run.out.note(f"next: systemctl daemon-reload && systemctl enable --now {UNIT_PATH.stem}")
    if run.out.is_json:
        run.out.value({"path": str(UNIT_PATH)})
