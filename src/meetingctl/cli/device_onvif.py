"""`device onvif`: the ONVIF service of this camera."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import of
from meetingctl.cli.options import Fields
from meetingctl.cli.tree import Noun

app = Noun()

_ORDER = ("enabled", "address", "login", "name", "profiles", "services", "relay", "endpoint")


@app.command("run")
def run_onvif(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="listen on this address only")] = "",
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="PORT", min=0, max=65535, help="HTTP port instead of that in onvif.conf"),
    ] = None,
    discovery_port: Annotated[
        int | None,
        typer.Option("--discovery-port", metavar="PORT", min=1, max=65535, help="UDP port of WS-Discovery"),
    ] = None,
    root: Root = "",
) -> None:
    """Serve ONVIF in the foreground, for systemd.

    Ends with 0 when onvif.conf says enabled=false. SIGHUP reads the configuration again. Exit code 78 for a
    configuration that must be corrected or a port that is in use, 1 for anything else.

    Examples:
      meetingctl device onvif run
      meetingctl device onvif run --root /tmp/camera --host 127.0.0.1 --port 8081
    """
    from meetingctl.cli.device_daemon import become_daemon

    _require_lxml()
    given = {"host": host or None, "port": port, "discovery-port": discovery_port}
    more = [f"--{name}={value}" for name, value in given.items() if value is not None]
    become_daemon(of(ctx), "meetingctl.device.onvif", root, more)


@app.command("describe")
def describe_onvif(ctx: typer.Context, fields: Fields = "", root: Root = "") -> None:
    """Show what this camera tells recorders: address, login, profiles, services, scopes, relay.

    Reads the configuration and the network; the service need not run.

    Examples:
      meetingctl device onvif describe
      meetingctl device onvif describe --json
    """
    _require_lxml()
    from meetingctl.device.onvif.describe import describe_service

    run = of(ctx)
    run.out.record(describe_service(open_system(run, root)), fields=fields, order=_ORDER)


class Switch(StrEnum):
    """What can be asked of the relay."""

    on = "on"
    off = "off"
    status = "status"


@app.command("relay")
def switch_relay(
    ctx: typer.Context,
    state: Annotated[Switch, typer.Argument(help="switch it, or only look")] = Switch.status,
    root: Root = "",
) -> None:
    """Switch the relay, or show how it stands.

    The ONVIF service holds the relay's line and has to run. Recorders that subscribe to its events are told.

    Examples:
      meetingctl device onvif relay
      meetingctl device onvif relay on
      meetingctl device onvif relay off --json
    """
    from meetingctl.device.stream.control import ONVIF, ask_daemon

    run = of(ctx)
    found = ask_daemon(open_system(run, root), f"relay {state.value}", daemon=ONVIF)
    run.out.value(found, text=f"{found['token']}: {found['state']}")


def _require_lxml() -> None:
    """Raises: ConfigError where the library of the ONVIF service is not installed."""
    from importlib.util import find_spec

    from meetingctl.core.errors import ConfigError

    if find_spec("lxml") is None:
        raise ConfigError("the Python library lxml is missing", hint="apt install python3-lxml")
