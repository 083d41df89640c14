"""Files of a release outside its folder: programs in /usr/local/bin, units and rules; and those that they replace.

Before another release becomes the current one, the files that it will replace are copied into the release that runs:
they are what a rollback puts back.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.paths import write_atomic
from meetingctl.device.system import System
from meetingctl.device.update.build import SYSTEM_NAME

REPLACED_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/replaced"
_LIST_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/replaced.json"


def outside_files(folder: Path) -> Iterator[str]:
    """Yield the device paths that a release writes outside its folder."""
    own = folder / SYSTEM_NAME
    for path in sorted(own.rglob("*")):
        if path.is_file():
            yield f"/{path.relative_to(own).as_posix()}"
    for name, target in layout.PACKAGED_DIRS.items():
        for path in sorted((folder / "packaging" / name).glob("*")):
            if path.is_file():
                yield f"{target}/{path.name}"


def keep_replaced(system: System, paths: Iterable[str], folder: Path) -> None:
    """Copy files as they are now into the release that runs; one that is not there is noted as absent."""
    kept = []
    for device_path in paths:
        path = _lexical(system, device_path)
        entry: dict[str, object] = {"path": device_path}
        if path.is_symlink():
            entry["link"] = str(path.readlink())
        elif path.is_file():
            found = path.stat()
            copy = folder / REPLACED_NAME / device_path.lstrip("/")
            write_atomic(copy, path.read_bytes(), mode=0o600)
            entry |= {"mode": stat.S_IMODE(found.st_mode), "owner": [found.st_uid, found.st_gid]}
        kept.append(entry)
    write_atomic(folder / _LIST_NAME, json.dumps(kept, indent=1) + "\n")


def brought_units(folder: Path) -> set[str]:
    """Return the units, without suffix, that a release brings."""
    return {path.stem for path in (folder / "packaging/systemd").glob("*.service")}


def added_units(folder: Path) -> list[str]:
    """Return the units, without suffix, that were not there before the release after `folder` brought them."""
    prefix = f"{layout.UNIT_DIR}/"
    paths = [entry["path"] for entry in _read_kept(folder) if not {"link", "mode"} & entry.keys()]
    return [Path(path).stem for path in paths if path.startswith(prefix) and path.endswith(".service")]


def put_back(system: System, folder: Path) -> list[str]:
    """Write the kept files back and remove those that were not there before; returns the paths that changed."""
    changed = []
    for entry in _read_kept(folder):
        path = _lexical(system, entry["path"])
        if "link" in entry:
            _replace_by_link(path, entry["link"])
        elif "mode" in entry:
            content = (folder / REPLACED_NAME / entry["path"].lstrip("/")).read_bytes()
            if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
                continue
            uid, gid = entry["owner"]
            write_atomic(path, content, mode=entry["mode"], owner=(uid, gid) if os.geteuid() == 0 else None)
        elif path.is_symlink() or path.exists():
            path.unlink()
        else:
            continue
        changed.append(entry["path"])
    return changed


def install_programs(system: System, folder: Path) -> list[str]:
    """Write the programs of a release to where they belong, each in one step; returns the paths that changed."""
    own = folder / SYSTEM_NAME
    changed = []
    for source in sorted(own.rglob("*")):
        if not source.is_file():
            continue
        device_path = f"/{source.relative_to(own).as_posix()}"
        target = _lexical(system, device_path)
        content = source.read_bytes()
        if (
            target.is_symlink()
            or not target.is_file()
            or target.read_bytes() != content
            or not os.access(target, os.X_OK)
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, content, mode=0o755)
            changed.append(device_path)
    return changed


def _read_kept(folder: Path) -> list[dict[str, Any]]:
    try:
        kept: list[dict[str, Any]] = json.loads((folder / _LIST_NAME).read_bytes())
    except FileNotFoundError:
        return []
    return kept


def _lexical(system: System, device_path: str) -> Path:
    """Return the place of a path whose last part may be a link. Raises: InvalidInput outside the root."""
    pure = Path(device_path)
    if pure.name in {"", ".", ".."}:
        raise MeetingctlError(f"not a file of the device: {device_path[:140]!r}")
    return system.path(str(pure.parent)) / pure.name


def _replace_by_link(path: Path, target: str) -> None:
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
