"""The command tree: nouns that load late, help that people can copy from, and the options that every command takes.

A noun is a module with `app = Noun()`; a single command is a function under `@verb("name")`. Both take the global
options before and after the subcommand, because each level of the tree parses them and the last one wins.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from meetingctl.core.errors import UsageError

HELP_WIDTH = 96
Body = Callable[..., Any]


class Entry(NamedTuple):
    """Where a top-level command lives: `module:attribute`, and its one line in the help."""

    location: str
    summary: str


def _record(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Keep a global option on the invocation; an option that was not given leaves no trace."""
    if value and ctx.obj is not None and not ctx.resilient_parsing:
        ctx.obj.options[param.name] = value
    return value


def _record_json(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    if value and ctx.obj is not None and not ctx.resilient_parsing:
        ctx.obj.options["output"] = "json"
    return value


def _option(*names: str, help: str, callback: Any = _record, **more: Any) -> Any:
    return typer.Option(*names, help=help, callback=callback, expose_value=False, show_default=False, **more)


def _global_options(
    profile: Annotated[
        str | None, _option("--profile", metavar="NAME", help="use the settings of this profile")
    ] = None,
    server_url: Annotated[str | None, _option("--server-url", metavar="URL", help="address of the fleet API")] = None,
    config: Annotated[
        str | None, _option("--config", metavar="FILE", help="read this file instead of the user's config.toml")
    ] = None,
    output: Annotated[
        str | None, _option("-o", "--output", metavar="FORMAT", help="table, json, ndjson or plain")
    ] = None,
    json: Annotated[bool, _option("--json", help="the same as --output json", callback=_record_json)] = False,
    color: Annotated[str | None, _option("--color", metavar="WHEN", help="auto, always or never")] = None,
    timeout_s: Annotated[
        str | None, _option("--timeout", metavar="DURATION", help="deadline of one request, for example 10s")
    ] = None,
    verbose: Annotated[
        int, _option("-v", "--verbose", count=True, help="say more on standard error; -vv also each request")
    ] = 0,
    quiet: Annotated[bool, _option("-q", "--quiet", help="say nothing but errors on standard error")] = False,
    yes: Annotated[bool, _option("-y", "--yes", help="answer yes to every question")] = False,
    no_input: Annotated[bool, _option("--no-input", help="never ask; fail where a question would be")] = False,
) -> None:
    """Hold the declarations; Typer turns them into parameters."""


@cache
def global_params() -> list[Any]:
    """Return the parameters that every command takes, each a `typer.core.TyperOption`."""
    holder = typer.Typer(add_completion=False)
    holder.command()(_global_options)
    return list(get_command(holder).params)


def _with_globals(own: list[Any]) -> list[Any]:
    """Add the global options to a command's own; where names collide the command's own wins."""
    taken = {name for param in own for name in (*param.opts, *param.secondary_opts)}
    return [*own, *(param for param in global_params() if not taken & {*param.opts})]


def _write_help_text(text: str, formatter: Any) -> None:
    """Wrap prose; keep indented blocks (the examples) as they stand."""
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        formatter.write("\n")
        if any(line.startswith(" ") for line in lines):
            formatter.write("".join(f"  {line}\n" for line in lines))
        else:
            width = min(formatter.width, HELP_WIDTH) - 2
            formatter.write(textwrap.indent(textwrap.fill(" ".join(lines), width), "  ") + "\n")


def summary_of(command: Any) -> str:
    """Return the first line of a command's help."""
    return str(command.help or "").strip().partition("\n")[0]


def usage_pieces(command: Any, ctx: Any) -> list[str]:
    """Write the arguments as people read them: `KEY [VALUE]`."""
    pieces = ["[OPTIONS]"]
    for param in command.get_params(ctx):
        if param.param_type_name == "argument" and not param.hidden:
            pieces.append(argument_name(param) if param.required else f"[{argument_name(param)}]")
    return pieces


def argument_name(param: Any) -> str:
    """Return the name of an argument as the help shows it."""
    return str(param.metavar or param.name.upper())


def _help_row(param: Any, ctx: Any) -> tuple[str, str] | None:
    if param.param_type_name == "argument":
        return None if param.hidden else (argument_name(param), param.help or "")
    row: tuple[str, str] | None = param.get_help_record(ctx)
    return row


def _write_options(command: Any, ctx: Any, formatter: Any, *, is_root: bool) -> None:
    shared = set(map(id, global_params()))
    own = [param for param in command.get_params(ctx) if id(param) not in shared]
    rows = {kind: [_help_row(param, ctx) for param in own if param.param_type_name == kind] for kind in _KINDS}
    for kind, title in _KINDS.items():
        if shown := [row for row in rows[kind] if row is not None]:
            with formatter.section(title):
                formatter.write_dl(shown)
    if is_root:
        with formatter.section("Global options, before or after the command"):
            formatter.write_dl([param.get_help_record(ctx) for param in global_params()])


_KINDS = {"argument": "Arguments", "option": "Options"}


def _write_global_line(formatter: Any) -> None:
    names = ", ".join(max(param.opts, key=len) for param in global_params())
    formatter.write("\n" + textwrap.fill(f"Also: {names} (see meetingctl --help)", min(formatter.width, HELP_WIDTH)))
    formatter.write("\n")


class Command(TyperCommand):
    """A command that takes the global options and prints its examples unchanged."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _with_globals(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return usage_pieces(self, ctx)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_help_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter, is_root=False)
        _write_global_line(formatter)


class RestCommand(Command):
    """A command that takes what follows `--` as it is, apart from its own arguments: `ctx.meta["rest"]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] | None = None
        if "--" in args:
            at = args.index("--")
            args, rest = args[:at], args[at + 1 :]
        ctx.meta["rest"] = rest
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- CMD..."]


class Group(TyperGroup):
    """A noun: takes the global options, and shows its help when no command follows."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _with_globals(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing and not self.invoke_without_command:
            if ctx.obj is not None and ctx.obj.is_json:
                raise UsageError(f"{ctx.command_path}: missing command", hint=f"{ctx.command_path} --help")
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_help_text(self.help or "", formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands: list[tuple[str, Any]] = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(command)) for name, command in commands if not command.hidden])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        is_root = ctx.parent is None
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter, is_root=is_root)
        if not is_root:
            _write_global_line(formatter)


class LazyGroup(Group):
    """The root: knows each command's name and summary, and imports its module when it is called."""

    entries: Mapping[str, Entry] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in self.entries:
            self.commands[cmd_name] = load_command(cmd_name, self.entries[cmd_name])
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.entries and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.entries, n=1)
            hint = f"meetingctl {near[0]} --help" if near else "meetingctl --help"
            raise UsageError(f"no such command {args[0][:80]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])


def load_command(name: str, entry: Entry) -> Any:
    """Import a command's module and build the command (a Typer group or command)."""
    module, _, attribute = entry.location.partition(":")
    app = getattr(import_module(module), attribute)
    command = get_group(app) if isinstance(app, Noun) else get_command(app)
    command.name = name
    command.help = command.help or entry.summary
    return command


class Noun(typer.Typer):
    """A group of commands about one thing; its summary stands in the table of `cli/main.py`."""

    def __init__(self) -> None:
        super().__init__(cls=Group, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    def command(self, name: str | None = None, **more: Any) -> Callable[[Any], Any]:
        """Register a command; its docstring is its help and ends with an `Examples:` block."""
        return super().command(name, **{"cls": Command, **more})

    def add(self, name: str, noun: Noun, summary: str) -> None:
        """Put another noun below this one."""
        self.add_typer(noun, name=name, help=summary)


def verb(name: str, **more: Any) -> Callable[[Body], typer.Typer]:
    """Make a top-level command of a function; its docstring is its help and ends with an `Examples:` block."""

    def register(body: Body) -> typer.Typer:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(name, cls=Command, **more)(body)
        return app

    return register
