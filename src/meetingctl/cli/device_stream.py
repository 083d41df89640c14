"""`device stream`: the RTSP stream of this camera."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meetingctl.cli.device_system import Root, open_system
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import Fields
from meetingctl.cli.tree import Noun

app = Noun()

_ORDER = ("state", "clients", "fps", "bitrate_bps", "last_buffer_age_s", "encoder", "sound", "restarts")


@app.callback(invoke_without_command=True)
def stream(
    ctx: typer.Context,
    print_pipeline: Annotated[
        bool, typer.Option("--print-pipeline", help="show what would run on this machine, and whether it parses")
    ] = False,
    root: Root = "",
) -> None:
    """Serve the camera, a proxy, a web camera or a screen over RTSP.

    Examples:
      meetingctl device stream --print-pipeline
      meetingctl device stream status
      meetingctl device stream reload
    """
    if print_pipeline:
        _print_pipeline(of(ctx), root)
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)


@app.command("run")
def run_stream(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="listen on this address only")] = "",
    http_port: Annotated[
        int | None,
        typer.Option("--http-port", metavar="PORT", min=0, max=65535, help="loopback port of figures and controls"),
    ] = None,
    root: Root = "",
) -> None:
    """Serve the stream in the foreground, for systemd.

    SIGHUP reads config.env again. Exit code 78 for a configuration that must be corrected, 1 for anything else.

    Examples:
      meetingctl device stream run
      meetingctl device stream run --root /tmp/camera --host 127.0.0.1 --http-port 0
    """
    from meetingctl.cli.device_daemon import become_daemon

    more = [f"--host={host}"] if host else []
    if http_port is not None:
        more.append(f"--http-port={http_port}")
    become_daemon(of(ctx), "meetingctl.device.stream", root, more)


@app.command("status")
def show_status(ctx: typer.Context, root: Root = "", fields: Fields = "") -> None:
    """Show what the running stream daemon does: viewers, rates, age of the last frame.

    Examples:
      meetingctl device stream status
      meetingctl device stream status --json
      meetingctl device stream status --fields clients,fps,last_buffer_age_s
    """
    from meetingctl.device.stream.control import ask_daemon

    run = of(ctx)
    run.out.record(ask_daemon(open_system(run, root), "status"), fields=fields, order=_ORDER)


@app.command("reload")
def reload_config(ctx: typer.Context, root: Root = "") -> None:
    """Let the running stream daemon read config.env again; it keeps the old one when the new one is wrong.

    Viewers stay connected unless their media changes.

    Examples:
      meetingctl device stream reload
    """
    from meetingctl.device.stream.control import ask_daemon

    run = of(ctx)
    done = ask_daemon(open_system(run, root), "reload", timeout_s=30.0)
    run.out.value(done, text=f"{', '.join(done['actions']) or 'nothing to do'}: {done['pipeline']}")


def _print_pipeline(run: Invocation, root: str) -> None:
    from meetingctl.device.stream.gstreamer import load_gstreamer
    from meetingctl.device.stream.pipeline import pretty, shown_properties
    from meetingctl.device.stream.stage import plan_stream

    loaded, _, _, spec = plan_stream(load_gstreamer(), open_system(run, root))
    properties = shown_properties(spec)
    for note in (*spec.notes, *(problem.text() for problem in loaded.faults())):
        run.out.warn(note)
    facts: dict[str, Any] = {
        "launch": spec.launch,
        "properties": properties,
        "pipeline": spec.describe(),
        "encoder": spec.encoder,
        "sound": spec.sound,
        "notes": list(spec.notes),
    }
    lines = [f"  {name}.{key} = {value}" for name, values in properties.items() for key, value in values.items()]
    run.out.value(facts, text="\n".join([spec.describe(), "", pretty(spec.launch), "", *lines]))
