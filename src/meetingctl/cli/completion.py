"""`completion`: the files that let a shell complete `meetingctl`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.targets import tell_plan
from meetingctl.cli.tree import Noun

app = Noun()

Shell = Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell", show_default=False)]
MaybeShell = Annotated[
    str | None, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell; default: your login shell")
]

_NEXT_STEPS = {
    "bash": "open a new shell; the package bash-completion must be installed",
    "zsh": "add to ~/.zshrc before compinit: fpath=({folder} $fpath)",
    "fish": "open a new shell",
    "powershell": "add to $PROFILE: . {path}",
}


def render_script(shell: str) -> str:
    """Write the completion file of one shell from the whole command tree."""
    from meetingctl.cli.completion_scripts import render
    from meetingctl.cli.completion_tree import read_tree
    from meetingctl.cli.main import root_command

    return render(shell, read_tree(root_command()))


def install_path(shell: str, env: Mapping[str, str]) -> Path:
    """Return where a shell looks for a user's completions."""
    from meetingctl.core.paths import home_of

    home = home_of(env)
    share = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": share / "bash-completion" / "completions" / "meetingctl",
        "zsh": share / "zsh" / "site-functions" / "_meetingctl",
        "fish": config / "fish" / "completions" / "meetingctl.fish",
        "powershell": config / "powershell" / "meetingctl.ps1",
    }[shell]


def _choose_shell(run: Invocation, shell: str | None) -> str:
    from meetingctl.cli.completion_tree import SHELLS

    chosen = shell or PurePath(run.env.get("SHELL", "")).name
    if chosen not in SHELLS:
        run.refuse(f"no completion for shell {chosen!r}", hint=f"use one of {', '.join(SHELLS)}")
    return chosen


@app.command("show")
def show_script(ctx: typer.Context, shell: Shell) -> None:
    """Print the completion file of a shell.

    Examples:
      meetingctl completion show bash
      meetingctl completion show zsh > ~/.zfunc/_meetingctl
    """
    run = of(ctx)
    chosen = _choose_shell(run, shell)
    text = render_script(chosen)
    run.out.value({"shell": chosen, "script": text}, text=text)


@app.command("install")
def install_script(ctx: typer.Context, shell: MaybeShell = None, dry_run: DryRun = False) -> None:
    """Put the completion file where your shell finds it.

    Examples:
      meetingctl completion install
      meetingctl completion install fish
    """
    from meetingctl.core.paths import write_atomic

    run = of(ctx)
    chosen = _choose_shell(run, shell)
    path = install_path(chosen, run.env)
    step = _NEXT_STEPS[chosen].format(path=path, folder=path.parent)
    if dry_run:
        tell_plan(run, "write", str(path), shell=chosen, next=step)
        return
    write_atomic(path, render_script(chosen))
    run.out.note(f"wrote {path}")
    run.out.note(f"next: {step}")
    if run.out.is_json:
        run.out.value({"shell": chosen, "file": str(path), "next": step})


@app.command("uninstall")
def uninstall_script(ctx: typer.Context, shell: MaybeShell = None, dry_run: DryRun = False) -> None:
    """Remove the completion file again.

    Examples:
      meetingctl completion uninstall bash
    """
    run = of(ctx)
    chosen = _choose_shell(run, shell)
    path = install_path(chosen, run.env)
    was_there = path.exists()
    if dry_run:
        tell_plan(run, "remove", str(path), would_change=was_there, shell=chosen)
        return
    path.unlink(missing_ok=True)
    run.out.note(f"{'removed' if was_there else 'nothing at'} {path}")
    if run.out.is_json:
        run.out.value({"shell": chosen, "file": str(path), "removed": was_there})
