"""The options of every command on several devices, declared once, and how such a command acts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.remote_many import (
    AllOption,
    AskPassword,
    Deadline,
    FailFast,
    IdentityOption,
    Idle,
    Limit,
    MaxFail,
    Parallel,
    PasswordFile,
    Retries,
    RetryFrom,
    Targets,
    UserOption,
    ViaOption,
    Way,
    choose_targets,
    make_limits,
    open_access,
    read_password,
    read_targets,
    retry_line,
    route_json,
    run_many,
)
from meetingctl.cli.shared_options import declare_command, parameters_of
from meetingctl.cli.signals import run_async

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.fanout import Act, Done, Heard, Limits, Report
    from meetingctl.remote.visit import Visit

Body = TypeVar("Body", bound=Callable[..., Any])
Work = Callable[["Visit"], Awaitable["Done"]]
Show = Callable[[Sequence["Report"]], object]


def _options(
    everything: AllOption = False,
    user: UserOption = None,
    identity: IdentityOption = None,
    ask_password: AskPassword = False,
    password_file: PasswordFile = None,
    via: ViaOption = Way.auto,
    parallel: Parallel = 50,
    limit: Limit = None,
    fail_fast: FailFast = False,
    max_fail: MaxFail = None,
    retries: Retries = 2,
    retry_from: RetryFrom = None,
    deadline: Deadline = "0",
    idle: Idle = "0",
) -> None:
    """Hold the declarations; `on_devices` gives them to a command."""


def _targets(targets: Targets = None) -> None:
    """Hold the declaration of the arguments of a command that has no others."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices that a command line names, and how to reach them."""

    run: Invocation
    words: Sequence[str] | None
    options: Mapping[str, Any]

    def choose(self, words: Sequence[str] | None = None) -> Chosen:
        """Expand the targets: those of the command line, or the words that a command took for targets.

        Raises: UsageError for none, InvalidInput, NotFound for a selector without devices.
        """
        from meetingctl.remote.selection import is_single

        given = self.options
        self.run.set_options(ssh_user=given["user"], ssh_identity=given["identity"])
        named = read_targets(self.run, self.words if words is None else words, everything=given["everything"])
        names = ("parallel", "fail_fast", "max_fail", "retries", "deadline", "idle")
        limits = make_limits(**{name: given[name] for name in names})
        targets = choose_targets(self.run, named, limit=given["limit"], retry_from=given["retry_from"])
        return Chosen(self.run, targets, limits, given, is_single(named))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The devices to act on."""

    run: Invocation
    targets: Sequence[Target]
    limits: Limits
    options: Mapping[str, Any]
    is_single: bool

    def visit(self, work: Work, show: Show) -> int:
        """Log in to every device and work there; show what became of it; return the exit code."""
        with self.open() as access:
            return self.act(lambda target, heard: self.visit_one(access, target, heard, work), show)

    async def visit_one(self, access: Access, target: Target, heard: Heard, work: Work) -> Done:
        """Log in to one device and work there; the way to it joins what the work tells."""

        async def use(visit: Visit) -> Done:
            done = await work(visit)
            return replace(done, details={"route": route_json(visit.route), **done.details})

        return await access.visit(target, use, via=self.options["via"].value, began=heard)

    @contextmanager
    def open(self) -> Iterator[Access]:
        """Open what SSH to these devices needs, a password included."""
        password = read_password(self.run, self.options["ask_password"], self.options["password_file"])
        with open_access(self.run, self.targets, password) as access:
            yield access

    def act(self, act: Act, show: Show) -> int:
        """Act on every device; `show` writes the reports, unless the format is JSON. Return the exit code.

        A single device that was named fails with its own error, without a summary.
        """
        if not self.is_single:
            return run_many(self.run, self.targets, act, self.limits, again=retry_line(self.run), show=show)
        from meetingctl.remote.fanout import fan_out, fold_exit_code

        reports = run_async(fan_out(self.targets, act, self.limits, lambda report: None))
        if self.run.out.style == "json":
            self.run.out.value([reports[0].as_json()])
        elif self.run.is_json:
            self.run.out.value(reports[0].as_json())
        else:
            if reports[0].details:
                show(reports)
            if reports[0].error is not None:
                self.run.out.fail(reports[0].error)
        return fold_exit_code(reports)


def on_devices(*, deadline: str = "5m") -> Callable[[Body], Body]:
    """Give a command the options of all commands on several devices; it gets them as its argument `devices`.

    A command that declares `words` itself divides them into targets and the rest. `deadline` is the default of the
    option: a device that hangs holds nobody up for ever.
    """

    def give(body: Body) -> Body:
        return _with_options(body, deadline)

    return give


def _with_options(body: Body, deadline: str) -> Body:
    shared = [
        parameter.replace(default=deadline) if parameter.name == "deadline" else parameter
        for parameter in parameters_of(_options)
    ]
    mine = parameters_of(body, {"ctx", "devices"})
    first = [] if any(parameter.name == "words" for parameter in mine) else parameters_of(_targets)

    def call(ctx: typer.Context, values: dict[str, Any]) -> Any:
        options = {parameter.name: values.pop(parameter.name) for parameter in shared}
        return body(ctx, Devices(of(ctx), values.pop("targets", None), options), **values)

    parameters = [*first, *mine, *shared]
    return declare_command(body, call, parameters)  # type: ignore[return-value]  # Typer calls it, nobody else


def rows_of(reports: Iterable[Report], key: str) -> list[dict[str, Any]]:
    """Return the rows under `key` of each report's details, each with its target."""
    return [{"target": report.target, **row} for report in reports for row in report.details.get(key, ())]
