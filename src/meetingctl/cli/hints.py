"""Hints that can be pasted: they call the program as it was called, and reach the same server and the same data."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = "meetingctl"
# Global options that choose where a command looks, by their name among the invocation's options.
_PLACES = {"profile": "--profile", "config": "--config", "server_url": "--server-url"}
# Options of single commands that choose where the data is: every command that takes them needs them again.
_DATA_PLACES = ("--data", "--db")
_SECRET_OPTIONS = frozenset({"--token"})
# What starts a server takes nothing from a command that wants to reach one.
_STARTERS = frozenset({"demo", "serve"})


class Call(NamedTuple):
    """How the running command was called."""

    program: str
    path: tuple[str, ...] = ()
    places: Mapping[str, str] = {}  # global options that choose the server: option -> value
    own: Mapping[str, tuple[str, ...]] = {}  # the command's own options as given: option -> values, none for a flag


def our_program(argv0: str, search_path: str | None = None) -> str:
    """Return how to call this program from another terminal, quoted for a shell."""
    path = Path(argv0)
    if path.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m {PROGRAM}"
    path = Path(shutil.which(argv0, path=search_path) or argv0).absolute()
    found = shutil.which(path.name, path=search_path)
    return path.name if found and Path(found).absolute() == path else shlex.quote(str(path))


def hinted_program(argv0: str, search_path: str | None = None) -> str:
    """Return the program's name for hints: with its path where the name alone does not find it."""
    path = Path(argv0)
    return our_program(argv0, search_path) if path.name == PROGRAM and path.name != argv0 else PROGRAM


def places_of_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Pick the global options that choose where a command looks."""
    return {option: str(options[name]) for name, option in _PLACES.items() if options.get(name)}


def own_options(ctx: Any) -> dict[str, tuple[str, ...]]:
    """Return the options of a command's context that stood on the command line, without the global ones."""
    from meetingctl.cli.tree import global_params

    given = {}
    shared = set(map(id, global_params()))
    for param in ctx.command.get_params(ctx):
        source = ctx.get_parameter_source(param.name)
        if param.param_type_name != "option" or id(param) in shared or source is None or source.name != "COMMANDLINE":
            continue
        value = ctx.params.get(param.name)
        values = value if isinstance(value, list | tuple) else [] if isinstance(value, bool) else [value]
        given[max(param.opts, key=len)] = tuple(str(getattr(item, "value", item)) for item in values)
    return given


def complete_hint(hint: str, call: Call, root: Any) -> str:
    """Complete a hint that begins with a command of ours; `root` is the command tree. Other hints stay as they are.

    A hint that proposes other options for the running command keeps the rest of the options.
    """
    if not hint.startswith(f"{PROGRAM} "):
        return hint
    head, comma, tail = hint.partition(", ")
    words = head.split()[1:]
    path, command = find_command(root, words)
    if words[-1:] == ["--help"]:
        return f"{call.program} {hint.partition(' ')[2]}"
    is_starter = path[:1] and path[0] in _STARTERS and path[:1] != call.path[:1]
    places = {} if is_starter else {name: value for name, value in call.places.items() if not _stands([name], words)}
    globals_text = "".join(f" {name} {shlex.quote(value)}" for name, value in places.items())
    own_text = "".join(_spell(name, call.own[name]) for name in _kept(call, path, command, words))
    rest = " ".join(head.split(" ")[1:])
    tail = tail.replace(f" {PROGRAM} ", f" {call.program} ")
    return f"{call.program}{globals_text} {rest}{own_text}{comma}{tail}"


def find_command(root: Any, words: Sequence[str]) -> tuple[tuple[str, ...], Any]:
    """Follow words down the command tree; return the path as far as it goes, and the command there."""
    current, path = root, []
    for word in words:
        child = current.get_command(None, word) if hasattr(current, "get_command") else None
        if child is None:
            break
        path.append(word)
        current = child
    return tuple(path), current


def _kept(call: Call, path: tuple[str, ...], command: Any, words: Sequence[str]) -> list[str]:
    """Choose which of the given options the hinted command needs too."""
    spellings = {name: param.opts for param in command.params for name in param.opts}
    missing = [name for name in call.own if not _stands(spellings.get(name, [name]), words)]
    missing = [name for name in missing if name not in _SECRET_OPTIONS]
    proposes_options = any(word.startswith("--") for word in words)
    if path == call.path and proposes_options:
        return missing
    return [name for name in missing if name in _DATA_PLACES and name in spellings]


def _stands(names: Sequence[str], words: Sequence[str]) -> bool:
    """Say whether an option is there in any of its spellings: `--name`, `--name=value`, `-n`, `-nvalue`."""
    short = tuple(name for name in names if len(name) == 2)
    return any(word.partition("=")[0] in names or (bool(short) and word.startswith(short)) for word in words)


def _spell(name: str, values: tuple[str, ...]) -> str:
    return "".join(f" {name} {shlex.quote(value)}" for value in values) or f" {name}"
