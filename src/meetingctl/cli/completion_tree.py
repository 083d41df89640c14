"""What there is to complete: the command tree as plain values, and the cache of names that only the server knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meetingctl.cli.output import FORMATS
from meetingctl.cli.tree import argument_name, global_params, summary_of
from meetingctl.core.ids import is_device_key
from meetingctl.core.paths import write_atomic

SHELLS = ("bash", "zsh", "fish", "powershell")
CACHED_NAMES = 10_000

# What a placeholder in the help stands for. `@devices`, `@targets` and `@files` are looked up by the shell.
_KINDS = {
    "DEVICE": "@devices",
    "TARGET": "@targets",
    "FILE": "@files",
    "DIR": "@files",
    "SRC": "@files",
    "DST": "@files",
    "FORMAT": " ".join(FORMATS),
    "WHEN": "auto always never",
    "SHELL": " ".join(SHELLS),
}


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option: its spellings, what its value is (`None` for a flag), its help."""

    names: tuple[str, ...]
    value: str | None
    help: str


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One node of the tree; `path` is `()` for the root. `arguments` holds what each argument is, in order."""

    path: tuple[str, ...]
    subcommands: tuple[tuple[str, str], ...]
    options: tuple[OptionSpec, ...]
    arguments: tuple[str, ...]


def read_tree(root: Any) -> list[CommandSpec]:
    """Walk the whole command tree, which loads every command module."""
    ctx = root.context_class(root, info_name="meetingctl", **root.context_settings)
    return list(_walk(root, ctx, ()))


def _walk(command: Any, ctx: Any, path: tuple[str, ...]) -> Iterable[CommandSpec]:
    subcommands = []
    if hasattr(command, "list_commands"):
        named = [(name, command.get_command(ctx, name)) for name in command.list_commands(ctx)]
        subcommands = [(name, child) for name, child in named if not child.hidden]
    params = command.get_params(ctx)
    yield CommandSpec(
        path=path,
        subcommands=tuple((name, summary_of(child)) for name, child in subcommands),
        options=tuple(_option(param) for param in params if param.param_type_name == "option" and not param.hidden),
        arguments=tuple(_argument(param) for param in params if param.param_type_name == "argument"),
    )
    for name, child in subcommands:
        yield from _walk(child, type(ctx)(child, info_name=name, parent=ctx), (*path, name))


def _option(param: Any) -> OptionSpec:
    is_flag = param.is_flag or param.count
    # Typer keeps the names of --help in a set: sort, so that the files are the same each time.
    names = sorted((*param.opts, *param.secondary_opts), key=lambda name: (len(name), name))
    return OptionSpec(tuple(names), None if is_flag else _kind(param), param.help or "")


def _argument(param: Any) -> str:
    kind = _kind(param)
    return f"{kind}*" if param.nargs == -1 and kind.startswith("@") else kind


def _kind(param: Any) -> str:
    choices = getattr(param.type_descriptor, "choices", None)
    if choices:
        return " ".join(str(getattr(choice, "value", choice)) for choice in choices)
    metavar = argument_name(param).rstrip(".").upper()
    return _words().get(metavar, "")


def _words() -> Mapping[str, str]:
    from meetingctl.cli.topics import TOPICS
    from meetingctl.core.services import TUNNEL_SERVICES
    from meetingctl.core.settings import setting_infos

    return _KINDS | {
        "SETTING": " ".join(setting_infos()),
        "TOPIC": " ".join(TOPICS),
        "SERVICE": " ".join(TUNNEL_SERVICES),
        "SERVICE|PORT": " ".join(TUNNEL_SERVICES),
    }


def global_names() -> frozenset[str]:
    """Return the spellings of the global options."""
    return frozenset(name for param in global_params() for name in param.opts)


def remember_names(cache_dir: Path, devices: Iterable[Mapping[str, Any]]) -> None:
    """Keep device keys and tags for the shell. A cache that cannot be written is no error."""
    rows = list(devices)[:CACHED_NAMES]
    keys = sorted(key for row in rows if is_device_key(key := str(row.get("device_key", ""))))
    tags = sorted({tag for row in rows for tag in row.get("tags") or () if isinstance(tag, str) and is_device_key(tag)})
    with contextlib.suppress(OSError):
        for name, words in (("devices", keys), ("tags", tags)):
            write_atomic(cache_dir / "complete" / name, "".join(f"{word}\n" for word in words), mode=0o600)
