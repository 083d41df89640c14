"""One run of the command line: its options, its settings, its output, its connection to the server.

`main` makes it, the global options fill it, and every command gets it as `ctx.obj`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from meetingctl.core.errors import MeetingctlError, Unreachable, UsageError

if TYPE_CHECKING:
    import typer

    from meetingctl.cli.layers import Places, Sources
    from meetingctl.cli.output import Output
    from meetingctl.client import FleetClient
    from meetingctl.core.secret import Secret
    from meetingctl.core.settings import Resolved, Settings
    from meetingctl.remote.seen import SeenDevices

# Global option -> setting; the others choose where settings come from, or are about questions.
_SETTING_OPTIONS = ("server_url", "output", "color", "timeout_s")


class Invocation:
    """What a command may know of how it was called."""

    def __init__(self, env: Mapping[str, str], argv: tuple[str, ...] = ()) -> None:
        self.env = env
        self.argv = argv
        self.context: typer.Context | None = None  # that of the command that runs
        self.options: dict[str, Any] = {}
        self.may_name_new_profile = False
        self.seen_devices: SeenDevices | None = None  # of the list that the targets of this run came from
        self._extra: dict[str, object] = {}

    # Settings.

    @cached_property
    def places(self) -> Places:
        """The files of this run."""
        from meetingctl.cli.layers import places_of

        return places_of(self.env, self.options.get("config"))

    @cached_property
    def sources(self) -> Sources:
        """The parsed files and the profile. Raises: ConfigError, UsageError."""
        from meetingctl.cli.layers import read_sources

        profile = self.options.get("profile")
        return read_sources(self.places, self.env, profile, may_be_new=self.may_name_new_profile)

    @cached_property
    def resolved(self) -> Resolved:
        """Settings with their origins. Raises: ConfigError, UsageError."""
        from meetingctl.cli.layers import fold, read_local_credentials

        resolved = fold(self.sources, self.env, self._command_line())
        if not resolved.settings.api_key or resolved.origins["server_url"] == "default":
            own_folder = resolved.settings.data_dir or self.places.data_dir
            local = read_local_credentials(own_folder) or read_local_credentials(self.places.service_data_dir)
            if local is not None:
                resolved = fold(self.sources, self.env, self._command_line(), local)
        self._set_up_logging(resolved.settings)
        return resolved

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    def set_options(self, **values: object) -> None:
        """Let a command's own options win over all other layers; None and empty lists are options not given."""
        self._extra |= {key: value for key, value in values.items() if value is not None and value != []}
        self.__dict__.pop("resolved", None)

    def _command_line(self) -> dict[str, object]:
        layer = {key: self.options[key] for key in _SETTING_OPTIONS if key in self.options}
        if self.options.get("verbose", 0) > 1:
            layer["log_level"] = "debug"
        elif self.options.get("quiet"):
            layer["log_level"] = "error"
        return layer | self._extra

    def _set_up_logging(self, settings: Settings) -> None:
        from meetingctl.core.log import set_up_logging

        style = settings.log_format or ("json" if self.env.get("JOURNAL_STREAM") else "text")
        set_up_logging(level=settings.log_level, style=style)

    @property
    def data_dir(self) -> Path:
        """Where a server on this machine keeps its data."""
        return self.settings.data_dir or self.places.data_dir

    # Output.

    @property
    def is_json(self) -> bool:
        """Say whether the command line asks for JSON, also before the settings are known or when they are broken."""
        if "output" in self.options:
            return self.options["output"] in {"json", "ndjson"}
        return self._asks_for_json() or self.env.get("MEETINGCTL_OUTPUT", "") in {"json", "ndjson"}

    def _asks_for_json(self) -> bool:
        words = self.argv[: self.argv.index("--")] if "--" in self.argv else self.argv
        pairs = zip(words, [*words[1:], ""], strict=False)
        return "--json" in words or any(
            word in {"--output=json", "--output=ndjson", "-ojson", "-ondjson"}
            or (word in {"-o", "--output"} and value in {"json", "ndjson"})
            for word, value in pairs
        )

    @cached_property
    def out(self) -> Output:
        """The output as the settings want it. Raises: ConfigError, UsageError."""
        return self._output(self.settings.output, self.settings.color)

    @property
    def error_out(self) -> Output:
        """An output for errors, which works when the settings do not."""
        when = self.options.get("color", "auto")
        if not self.is_json:
            with suppress(MeetingctlError):
                return self.out
            return self._output("plain", when)
        wanted = self.options.get("output")
        return self._output(wanted if wanted in {"json", "ndjson"} else "json", when)

    def _output(self, wanted: str, when: str) -> Output:
        from meetingctl.cli.output import Output, choose_color, choose_format

        def color(stream: Any) -> bool:
            return choose_color(
                when,
                is_terminal=stream.isatty(),
                no_color=self.env.get("NO_COLOR", ""),
                force_color=self.env.get("FORCE_COLOR", ""),
                term=self.env.get("TERM", ""),
            )

        columns = self.env.get("COLUMNS", "")
        return Output(
            style=choose_format(wanted, is_terminal=sys.stdout.isatty()),
            color=color(sys.stdout),
            error_color=color(sys.stderr),
            quiet=bool(self.options.get("quiet")),
            verbose=bool(self.options.get("verbose")),
            width=int(columns) if columns.isascii() and columns.isdigit() and len(columns) < 6 else None,
        )

    # Questions.

    @property
    def may_ask(self) -> bool:
        """Say whether somebody is there to answer."""
        return not self.options.get("no_input") and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str) -> None:
        """Ask before something that cannot be undone. Raises: UsageError off a terminal without --yes, or for a no."""
        if self.options.get("yes"):
            return
        if not self.may_ask:
            raise UsageError(f"cannot ask here: {question}", hint=self._again("--yes"))
        import typer

        if not typer.confirm(question, err=True):
            raise UsageError("cancelled: nothing was changed", hint=self._again("--yes"))

    def _again(self, option: str) -> str:
        """Write this command line with one option more."""
        import shlex

        end = self.argv.index("--") if "--" in self.argv else len(self.argv)
        return shlex.join(["meetingctl", *self.argv[:end], option, *self.argv[end:]])

    def read_secret(self, prompt: str, *, flag: str) -> Secret:
        """Ask for a secret without showing it, or read it from standard input when that is no terminal.

        Raises: UsageError naming `flag` when neither is possible.
        """
        from meetingctl.core.secret import Secret

        if sys.stdin.isatty():
            if not self.may_ask:
                raise UsageError(f"{prompt}: cannot ask here", hint=f"use {flag}, or standard input")
            import typer

            return Secret(str(typer.prompt(prompt, hide_input=True, err=True)).strip())
        if text := sys.stdin.readline(4096).strip():
            return Secret(text)
        raise UsageError(f"{prompt}: standard input is empty", hint=f"use {flag}, or standard input")

    # Hints.

    def line(self, *words: str) -> str:
        """Write a command that reaches the same server as this one."""
        import shlex

        return self.complete(shlex.join(["meetingctl", *words]))

    def complete(self, hint: str) -> str:
        """Complete a hint with what this command line was given."""
        from meetingctl.cli.hints import Call, complete_hint, hinted_program, own_options, places_of_options
        from meetingctl.cli.main import root_command

        call = Call(hinted_program(sys.argv[0], self.env.get("PATH")))
        with suppress(MeetingctlError):
            # A profile or a file that is not there would make the hint fail as well.
            _ = self.sources
            call = call._replace(places=places_of_options(self.options))
        if self.context is not None:
            path = tuple(self.context.command_path.split()[1:])
            call = call._replace(path=path, own=own_options(self.context))
        return complete_hint(hint, call, root_command())

    # The server.

    @contextmanager
    def open_client(self, *, token_code: Secret | None = None, api_key: Secret | None = None) -> Iterator[FleetClient]:
        """Open the fleet API with the settings' address and key, another key, or as a device with its token code."""
        from meetingctl.client import FleetClient

        settings = self.settings
        key = api_key or settings.api_key
        with (
            FleetClient(
                settings.server_url,
                api_key=key if key and token_code is None else None,
                token_code=token_code,
                timeout_s=settings.timeout_s,
            ) as client,
            self.naming_the_server(),
        ):
            yield client

    @contextmanager
    def naming_the_server(self) -> Iterator[None]:
        """Let an `Unreachable` carry the advice that fits the settings."""
        try:
            yield
        except Unreachable as error:
            error.hint = self.advise(error)
            raise

    def advise(self, error: MeetingctlError) -> str | None:
        """Return what to do about a server that does not answer: name one, start the demo, or the error's own hint."""
        if not isinstance(error, Unreachable) or self.settings.server_url.removesuffix("/api") not in error.message:
            # The server answers; a device does not, and its error knows better.
            return error.hint
        if self.resolved.origins["server_url"] == "default":
            return "meetingctl login --server-url https://HOST, or meetingctl serve all on this machine"
        if self.sources.profile == "demo" and "server_url" not in self.options:
            return "meetingctl demo"
        return error.hint

    def refuse(self, message: str, *, hint: str | None = None) -> NoReturn:
        """Raise: UsageError."""
        raise UsageError(message, hint=hint)


def of(ctx: typer.Context) -> Invocation:
    """Return the invocation of a command's context."""
    invocation = ctx.obj
    if not isinstance(invocation, Invocation):
        raise TypeError("a command runs below cli.main.main")
    invocation.context = ctx
    return invocation
