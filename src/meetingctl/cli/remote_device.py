"""The options of every command on one device, declared once, and how such a command reaches it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.options import DryRun
from meetingctl.cli.remote_many import (
    AskPassword,
    IdentityOption,
    PasswordFile,
    UserOption,
    ViaOption,
    Way,
    open_access,
    read_password,
)
from meetingctl.cli.shared_options import declare_command, parameters_of
from meetingctl.cli.signals import run_async

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.visit import Visit
    from meetingctl.remote.ways import Via

Body = TypeVar("Body", bound=Callable[..., Any])
T = TypeVar("T")


def _options(
    user: UserOption = None,
    identity: IdentityOption = None,
    ask_password: AskPassword = False,
    password_file: PasswordFile = None,
    via: ViaOption = Way.auto,
    dry_run: DryRun = False,
) -> None:
    """Hold the declarations; `on_device` gives them to a command."""


@dataclass(frozen=True, slots=True)
class Device:
    """How to reach the one device of a command line, and whether to look only."""

    run: Invocation
    ask_password: bool
    password_file: Path | None
    via: Via
    dry_run: bool

    @contextmanager
    def open(self, target: Target) -> Iterator[Access]:
        """Open what SSH to the device needs, a password included."""
        with open_access(self.run, [target], read_password(self.run, self.ask_password, self.password_file)) as access:
            yield access

    def visit(self, target: Target, use: Callable[[Visit], Awaitable[T]]) -> T:
        """Log in and work there. Raises: as `Access.visit`."""
        with self.open(target) as access:
            return run_async(access.visit(target, use, via=self.via))


def on_device(body: Body) -> Body:
    """Give a command the options of all commands on one device; it gets them as its argument `device`."""
    shared = parameters_of(_options)

    def call(ctx: typer.Context, values: dict[str, Any]) -> Any:
        given = {parameter.name: values.pop(parameter.name) for parameter in shared}
        run = of(ctx)
        run.set_options(ssh_user=given["user"], ssh_identity=given["identity"])
        device = Device(run, given["ask_password"], given["password_file"], given["via"].value, given["dry_run"])
        return body(ctx, device=device, **values)

    parameters = [*parameters_of(body, {"ctx", "device"}), *shared]
    return declare_command(body, call, parameters)  # type: ignore[return-value]  # Typer calls it, nobody else
