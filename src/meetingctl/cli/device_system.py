"""What all `device` commands share: the option that moves the device below a folder, and the system seen there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.device.system import System

ROOT_VARIABLE = "MEETINGCTL_ROOT"
Root = Annotated[
    str,
    typer.Option(
        "--root", metavar="DIR", help=f"the device's file system lies here; also {ROOT_VARIABLE}", show_default=False
    ),
]


def open_system(run: Invocation, root: str = "") -> System:
    """Return the device below --root, MEETINGCTL_ROOT or `/`.

    Settings of this program, secrets among them, do not reach the programs that the device side starts.
    Raises: UsageError when the root is no folder.
    """
    from meetingctl.device.system import System

    folder = Path(root or run.env.get(ROOT_VARIABLE) or "/")
    if not folder.is_dir():
        raise UsageError(f"--root {folder}: no such folder", hint=f"mkdir -p {folder}")
    env = {name: text for name, text in run.env.items() if not name.startswith("MEETINGCTL_") or name == ROOT_VARIABLE}
    return System(folder.resolve(), env=env)
