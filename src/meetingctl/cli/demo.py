"""`meetingctl demo`: a fleet of one device on this machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.tree import verb

if TYPE_CHECKING:
    from meetingctl.demo.stage import DemoFacts

PROFILE = "demo"
SHELL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@verb("demo")
def demo(
    ctx: typer.Context,
    data_dir: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="keep the demo's data here, and reuse it")
    ] = None,
    api_listen: Annotated[
        str | None, typer.Option("--api-listen", metavar="HOST:PORT", help="address of the API")
    ] = None,
    tunnel_listen: Annotated[
        str | None, typer.Option("--tunnel-listen", metavar="HOST:PORT", help="address where the agent dials in")
    ] = None,
    tunnel_ports: Annotated[
        str | None, typer.Option("--tunnel-ports", metavar="FIRST-LAST", help="pool of public ports")
    ] = None,
) -> None:
    """Run a fleet of one device on this machine, to try everything out.

    Control plane, tunnel, agent, and a device with a real SSH server and a status page: all in one process, on loopback
    only. Prints the lines to try in another terminal, and stops with Ctrl-C. A second start finds the same device and
    keys again. The address and key of the demo become profile "demo" of this command line.

    Examples:
      meetingctl demo
      meetingctl demo --data /tmp/fleet --api-listen 127.0.0.1:18470 --tunnel-listen 127.0.0.1:19001
      meetingctl --profile demo fleet list
    """
    from meetingctl.demo.stage import demo_settings, run_demo

    run = of(ctx)
    run.set_options(api_listen=api_listen, tunnel_listen=tunnel_listen, tunnel_ports=tunnel_ports)
    if run.resolved.origins["log_level"] == "default":
        run.set_options(log_level="warning")
    folder = (data_dir or run.data_dir / "demo").absolute()
    run.out.note("starting...")
    run_demo(
        demo_settings(run.settings),
        folder,
        path=run.env.get("PATH") or SHELL_PATH,
        on_ready=lambda facts: _welcome(run, facts),
    )
    run.out.note("stopped; the data stays in " + str(folder))


def _welcome(run: Invocation, facts: DemoFacts) -> None:
    """Let this user's command line reach the demo, and say how."""
    from meetingctl.cli.config_file import put_credentials, put_setting
    from meetingctl.cli.hints import our_program
    from meetingctl.core.sshkey import PublicKey
    from meetingctl.remote.hosts import HostKeys

    places = run.places
    values = {"server_url": facts.server_url, "api_key": facts.api_key.reveal()}
    put_credentials(places.credentials_file, PROFILE, values)
    put_setting(places.user_file, PROFILE, "ssh_identity", str(facts.identity))
    HostKeys(places.user_file.parent / "known_hosts").pin(facts.device_key, PublicKey(facts.host_key_blob))
    lines = lines_to_try(facts, our_program(sys.argv[0]))
    run.out.value(
        {
            "server_url": facts.server_url,
            "tunnel_server": facts.tunnel_server,
            "data_dir": str(facts.data_dir),
            "credentials_file": str(facts.credentials_file),
            "profile": PROFILE,
            "device_key": facts.device_key,
            "ssh_port": facts.ssh_port,
            "http_port": facts.http_port,
            "ssh_config": str(facts.ssh_config),
            "try": lines,
        },
        text=summary(facts, lines),
    )
    sys.stdout.flush()


def lines_to_try(facts: DemoFacts, program: str) -> list[str]:
    """Return commands that work in any terminal of this user while the demo runs."""
    config = shlex.quote(str(facts.ssh_config))
    return [
        f"ssh -F {config} {facts.device_key}",
        f"curl {facts.page_url}",
        f"{program} --profile {PROFILE} fleet list",
        f"{program} --profile {PROFILE} remote ssh {facts.device_key}",
    ]


def summary(facts: DemoFacts, lines: list[str]) -> str:
    """Set the facts and the lines to try as text."""
    rows = {
        "API": facts.server_url,
        "admin key": f"{facts.credentials_file}, also profile {PROFILE!r}",
        "device": f"{facts.device_key}, behind the tunnel: port {facts.ssh_port} is ssh, {facts.http_port} http",
    }
    facts_text = "\n".join(f"  {name:<11}{value}" for name, value in rows.items())
    lines_text = "\n".join(f"  {line}" for line in lines)
    return f"\nThe demo runs.\n\n{facts_text}\n\nTry in another terminal:\n\n{lines_text}\n\nStop with Ctrl-C.\n"
