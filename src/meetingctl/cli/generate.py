"""Write the files that are made from the command tree: `python -m meetingctl.cli.generate [FOLDER]`, or `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from meetingctl.cli.completion_scripts import FILE_NAMES, render
from meetingctl.cli.completion_tree import read_tree
from meetingctl.cli.main import root_command
from meetingctl.cli.reference import render_reference


def generated_files() -> dict[str, str]:
    """Return each generated file by its path in the repository."""
    tree = read_tree(root_command())
    files = {f"completions/{name}": render(shell, tree) for shell, name in FILE_NAMES.items()}
    return files | {"docs/cli.md": render_reference(root_command())}


def write_generated(folder: Path) -> list[Path]:
    """Write the files that differ and return them."""
    changed = []
    for name, text in generated_files().items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    for written in write_generated(Path(sys.argv[1] if len(sys.argv) > 1 else ".")):
        print(written)
