"""The four completion files: the command tree as tables, put into the readers that stand in `cli/shells/`.

Nothing runs when Tab is pressed but the shell itself: device names come from a file that list commands write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from meetingctl.cli.completion_tree import CommandSpec, global_names

_HEAD = "made from the command tree by `meetingctl completion show {shell}`; do not edit"


def render(shell: str, tree: Sequence[CommandSpec]) -> str:
    """Write the completion file of one shell."""
    text = (Path(__file__).parent / "shells" / _TEMPLATES[shell]).read_text(encoding="utf-8")
    for mark, part in _PARTS[shell](tree).items():
        text = text.replace(f"@{mark}@", part)
    return text.replace("@HEAD@", _HEAD.format(shell=shell))


FILE_NAMES = {
    "bash": "meetingctl.bash",
    "zsh": "_meetingctl",
    "fish": "meetingctl.fish",
    "powershell": "meetingctl.ps1",
}


def _key(spec: CommandSpec) -> str:
    return " ".join(spec.path)


def _own_options(spec: CommandSpec) -> list[str]:
    shared = global_names()
    return [name for option in spec.options if not shared & {*option.names} for name in option.names]


def _sorted_globals() -> list[str]:
    return sorted(global_names(), key=lambda name: name.lstrip("-"))


def _values(tree: Sequence[CommandSpec]) -> dict[str, dict[str, str]]:
    """Map each command to its options that take a value, and what the value is; '' holds the global ones."""
    shared = global_names()
    table: dict[str, dict[str, str]] = {"*": {}}
    for spec in tree:
        for option in spec.options:
            if option.value is not None:
                place = table["*"] if shared & {*option.names} else table.setdefault(_key(spec), {})
                place.update(dict.fromkeys(option.names, option.value))
    return table


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _posix_cases(tree: Sequence[CommandSpec], pick: Callable[[CommandSpec], str]) -> str:
    lines = [f"    {_quote(_key(spec))}) words={_quote(text)} ;;" for spec in tree if (text := pick(spec))]
    return "\n".join(lines)


def _posix_values(tree: Sequence[CommandSpec]) -> str:
    lines = []
    for path, options in _values(tree).items():
        for name, kind in options.items():
            pattern = f"*'|{name}'" if path == "*" else _quote(f"{path}|{name}")
            lines.append(f"    {pattern}) kind={_quote(kind)} ;;")
    # Exact commands first: a command's own option hides a global one of the same name.
    return "\n".join(sorted(lines, key=lambda line: line.lstrip().startswith("*")))


def _posix_arguments(tree: Sequence[CommandSpec]) -> str:
    lines = []
    for spec in tree:
        for index, kind in enumerate(spec.arguments):
            if kind:
                many = kind.endswith("*")
                pattern = f"{_quote(f'{_key(spec)}|')}*" if many else _quote(f"{_key(spec)}|{index}")
                lines.append((many, f"    {pattern}) kind={_quote(kind.rstrip('*'))} ;;"))
    return "\n".join(line for _, line in sorted(lines, key=lambda item: item[0]))


def _bash_parts(tree: Sequence[CommandSpec]) -> dict[str, str]:
    return {
        "SUBCOMMANDS": _posix_cases(tree, lambda spec: " ".join(name for name, _ in spec.subcommands)),
        "OPTIONS": _posix_cases(tree, lambda spec: " ".join(_own_options(spec))),
        "GLOBALS": " ".join(_sorted_globals()),
        "VALUES": _posix_values(tree),
        "ARGUMENTS": _posix_arguments(tree),
    }


def _described(name: str, text: str) -> str:
    plain = text.replace("\\", "").replace(":", "\\:").rstrip(".")
    return _quote(f"{name}:{plain}" if plain else name)


def _zsh_parts(tree: Sequence[CommandSpec]) -> dict[str, str]:
    shared = global_names()
    commands, options = [], []
    for spec in tree:
        if spec.subcommands:
            words = " ".join(_described(name, text) for name, text in spec.subcommands)
            commands.append(f"    {_quote(_key(spec))}) words=({words}) ;;")
        own = [option for option in spec.options if not shared & {*option.names}]
        words = " ".join(_described(name, option.help) for option in own for name in option.names)
        options.append(f"    {_quote(_key(spec))}) words=({words}) ;;")
    parts = {"SUBCOMMANDS": "\n".join(commands), "OPTIONS": "\n".join(options)}
    return _bash_parts(tree) | parts


_FISH_LOOKUPS = {"@devices": "(__meetingctl_cached devices)", "@targets": "(__meetingctl_targets)"}


def _fish_value(kind: str | None) -> str:
    if kind is None:
        return ""
    if kind == "@files":
        return " -r -F"
    return f" -x -a {_quote(_FISH_LOOKUPS.get(kind, kind))}" if kind else " -x"


def _fish_names(names: Sequence[str]) -> str:
    return " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names)


def _fish_parts(tree: Sequence[CommandSpec]) -> dict[str, str]:
    valued = sorted({name for options in _values(tree).values() for name in options})
    return {
        "VALUED": " ".join(valued),
        "PATHS": " ".join(_quote(_key(spec)) for spec in tree if spec.path),
        "LINES": "\n".join(line for spec in tree for line in _fish_lines(spec)),
    }


def _fish_lines(spec: CommandSpec) -> Iterator[str]:
    at = _quote(f'__meetingctl_at "{_key(spec)}"')
    for name, text in spec.subcommands:
        yield f"complete -c meetingctl -n {at} -a {name} -d {_quote(text.rstrip('.'))}"
    for option in spec.options:
        is_global = bool(global_names() & {*option.names})
        if not (is_global and spec.path):
            where = "" if is_global else f" -n {at}"
            words = f"{_fish_names(option.names)}{_fish_value(option.value)}"
            yield f"complete -c meetingctl{where} {words} -d {_quote(option.help)}"
    for kind in dict.fromkeys(kind.rstrip("*") for kind in spec.arguments if kind):
        yield f"complete -c meetingctl -n {at}{_fish_value(kind).replace(' -x', '').replace(' -r', '')}"


def _ps(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _ps_list(words: Sequence[str]) -> str:
    return ", ".join(map(_ps, words))


def _powershell_parts(tree: Sequence[CommandSpec]) -> dict[str, str]:
    values = [(f"{path}|{name}", kind) for path, options in _values(tree).items() for name, kind in options.items()]
    arguments = [
        (f"{_key(spec)}|{'*' if kind.endswith('*') else index}", kind.rstrip("*"))
        for spec in tree
        for index, kind in enumerate(spec.arguments)
        if kind
    ]
    subcommands = [(_key(spec), [name for name, _ in spec.subcommands]) for spec in tree if spec.subcommands]
    return {
        "SUBCOMMANDS": "\n".join(f"    {_ps(path)} = @({_ps_list(names)})" for path, names in subcommands),
        "OPTIONS": "\n".join(f"    {_ps(_key(spec))} = @({_ps_list(_own_options(spec))})" for spec in tree),
        "GLOBALS": _ps_list(_sorted_globals()),
        "VALUES": "\n".join(f"    {_ps(path)} = {_ps(kind)}" for path, kind in values),
        "ARGUMENTS": "\n".join(f"    {_ps(path)} = {_ps(kind)}" for path, kind in arguments),
    }


_TEMPLATES = {"bash": "bash.sh", "zsh": "zsh.zsh", "fish": "fish.fish", "powershell": "powershell.ps1"}
_PARTS: dict[str, Callable[[Sequence[CommandSpec]], dict[str, str]]] = {
    "bash": _bash_parts,
    "zsh": _zsh_parts,
    "fish": _fish_parts,
    "powershell": _powershell_parts,
}
