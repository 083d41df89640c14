"""Who may import whom. The map stands in docs; this holds the source to it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "meetingctl"
PACKAGE = "meetingctl"

# What each part may import of ours, beside itself. A longer key counts before a shorter one.
ALLOWED = {
    "core": set(),
    "client": {"core"},
    "tunnel": {"core", "client"},
    "remote": {"core", "client"},
    "device": {"core", "client"},
    "device.agent": {"core", "client", "device", "tunnel"},
    "server": {"core", "client", "tunnel"},
    "server.gateway": {"core", "client", "tunnel", "server", "remote"},
    "server.updates": {"core", "client", "tunnel", "server", "remote"},
    "demo": {"core", "client", "server", "tunnel"},
    "cli": {"core", "client", "server", "remote", "device", "tunnel", "demo"},
    "__main__": {"cli"},
    "__init__": set(),
}

# Libraries that only some modules may know.
ONLY_IN = {
    "typer": ("cli",),
    "rich": ("cli",),
    "click": (),
    "httpx": ("client",),
    "fabric": ("remote.hosts", "remote.recipes"),
    "apsw": (),
}
MAY_READ_ENVIRONMENT = {"cli.main"}


class Module:
    """One source file: its dotted name below the package, its syntax tree."""

    def __init__(self, path: Path) -> None:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        self.is_package = parts[-1] == "__init__" and len(parts) > 1
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))

    def imports(self) -> Iterator[tuple[str, int]]:
        """Yield every imported module, also inside functions and under TYPE_CHECKING, with its line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                if base == PACKAGE:
                    for alias in node.names:
                        yield f"{base}.{alias.name}", node.lineno
                else:
                    yield base, node.lineno

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = [PACKAGE, *self.name.split(".")]
        parts = parts[: len(parts) - node.level + (1 if self.is_package else 0)]
        return ".".join([*parts, node.module] if node.module else parts)

    def environment_uses(self) -> Iterator[int]:
        """Yield the lines that touch the process environment."""
        names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and node.attr in names and isinstance(node.value, ast.Name):
                if node.value.id == "os":
                    yield node.lineno
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                if names & {alias.name for alias in node.names}:
                    yield node.lineno


MODULES = [Module(path) for path in sorted(SOURCE.rglob("*.py"))]


def part_of(name: str) -> str:
    """Return the longest key of ALLOWED that the module stands below."""
    matching = [part for part in ALLOWED if name == part or name.startswith(f"{part}.")]
    assert matching, f"{name} belongs to no part: give it a row in ALLOWED"
    return max(matching, key=len)


def is_below(name: str, parts: tuple[str, ...] | set[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def wrong_imports(module: Module) -> list[str]:
    """Return the imports of ours that the direction forbids."""
    part = part_of(module.name)
    allowed = ALLOWED[part] | {part}
    wrong = []
    for imported, line in module.imports():
        below = imported.removeprefix(f"{PACKAGE}.")
        is_ours = imported.startswith(f"{PACKAGE}.") and not below.startswith("__")
        if is_ours and not is_below(below, allowed):
            wrong.append(f"{module.name}:{line} imports {below}")
    return wrong


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_imports_go_downwards(module: Module) -> None:
    assert wrong_imports(module) == []


def test_core_needs_nothing_but_the_standard_library() -> None:
    foreign = [
        f"{module.name}:{line} imports {imported}"
        for module in MODULES
        if part_of(module.name) == "core"
        for imported, line in module.imports()
        if imported.split(".")[0] not in {*sys.stdlib_module_names, PACKAGE}
    ]
    assert foreign == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    strays = [
        f"{module.name}:{line}"
        for module in MODULES
        for imported, line in module.imports()
        if imported.split(".")[0] == library and not is_below(module.name, ONLY_IN[library])
    ]
    assert strays == []


def test_gstreamer_has_one_owner() -> None:
    owners = {module.name for module in MODULES for imported, _ in module.imports() if imported.split(".")[0] == "gi"}
    assert len(owners) <= 1


def test_the_environment_is_read_in_one_place() -> None:
    readers = [f"{module.name}:{line}" for module in MODULES for line in module.environment_uses()]
    assert [reader for reader in readers if reader.split(":")[0] not in MAY_READ_ENVIRONMENT] == []


def test_nothing_below_the_command_line_knows_it() -> None:
    callers = [
        f"{module.name}:{line}"
        for module in MODULES
        if part_of(module.name) not in {"cli", "__main__"}
        for imported, line in module.imports()
        if is_below(imported, {f"{PACKAGE}.cli"})
    ]
    assert callers == []


def test_the_check_itself_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    path = tmp_path / "core" / "bad.py"
    path.parent.mkdir()
    path.write_text("import os\n\n\ndef f():\n    from meetingctl.server import app\n    return os.environ\n")
    module = Module(path)
    assert wrong_imports(module) == ["core.bad:5 imports server"]
    assert list(module.environment_uses()) == [6]
