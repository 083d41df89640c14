"""The releases on a device: a folder for each, the link that names the current one, and what belongs to a release.

    /opt/rpi-cam-webmanager -> rpi-cam-webmanager.releases/1.4.0
    /opt/rpi-cam-webmanager.releases/1.4.0/            VERSION, wheels/, packaging/, venv/, …
    /opt/rpi-cam-webmanager.releases/1.4.0/.release/   info.json, update_manifest.json, system/, replaced/

A release without info.json is unfinished. The folder of an original device is moved among the releases as it is.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from meetingctl.core import layout
from meetingctl.core.clock import iso_text
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.paths import sync_folder, write_atomic
from meetingctl.device.system import System

KEPT_RELEASES = 2  # beside the current one
NEW_LINK = f"{Path(layout.WEB_DIR).parent}/.{Path(layout.WEB_DIR).name}.new"
PROGRAM_NAME = "venv/bin/meetingctl"
_INFO_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/info.json"
_DOOMED_PREFIX = ".doomed-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,120}")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

State = Literal["current", "kept", "unfinished"]


@dataclass(frozen=True, slots=True)
class Info:
    """What a release remembers of itself; `previous` is the release that it took the place of."""

    version: str
    installed_at: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """One folder among the releases. Without a program of ours it came from an original device."""

    name: str
    version: str
    state: State
    has_program: bool
    installed_at: str = ""
    previous: str = ""

    def as_row(self) -> dict[str, object]:
        return asdict(self)


def folder_of(system: System, name: str) -> Path:
    """Return where a release lies. Raises: MeetingctlError for a name that is none."""
    if not _NAME.fullmatch(name):
        raise MeetingctlError(f"no name of a release: {name[:60]!r}", hint="meetingctl device update list")
    return system.path(layout.WEB_RELEASES_DIR) / name


def current_name(system: System) -> str:
    """Return the release that the link names; empty when there is none, or a folder in the place of the link."""
    web = _web_path(system)
    if not web.is_symlink():
        return ""
    folder, _, name = str(web.readlink()).rpartition("/")
    is_ours = folder in {layout.WEB_RELEASES_DIR, Path(layout.WEB_RELEASES_DIR).name} and _NAME.fullmatch(name)
    return name if is_ours and (system.path(layout.WEB_RELEASES_DIR) / name).is_dir() else ""


def find_foreign_link(system: System) -> str:
    """Return where the link leads when that is a folder, but no release; empty in any other case."""
    web = _web_path(system)
    return str(web.readlink()) if web.is_symlink() and web.exists() and not current_name(system) else ""


def is_original(system: System) -> bool:
    """Say whether a plain folder stands in the place of the link."""
    web = _web_path(system)
    return web.is_dir() and not web.is_symlink()


def installed_version(system: System) -> str:
    """Return the version of what runs now, an original's too; empty without any."""
    web = _web_path(system)
    return _read_version(web) if web.is_dir() else ""


def list_releases(system: System) -> list[Release]:
    """Return all releases, the newest installation first; an original's folder that was never moved comes first."""
    current = current_name(system)
    found = [_look(folder, current) for folder in _folders(system)]
    found.sort(key=lambda release: (release.name == current, release.installed_at, release.name), reverse=True)
    if is_original(system):
        web = _web_path(system)
        found.insert(0, Release("", _read_version(web), "current", (web / PROGRAM_NAME).is_file()))
    return found


def read_info(folder: Path) -> Info | None:
    """Return what a release remembers; None while it is unfinished."""
    try:
        facts = json.loads((folder / _INFO_NAME).read_bytes())
        return Info(str(facts["version"]), str(facts.get("installed_at", "")), str(facts.get("previous", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_info(folder: Path, info: Info) -> None:
    """Finish a release: from now on it may become the current one."""
    write_atomic(folder / _INFO_NAME, json.dumps(asdict(info), indent=1) + "\n")


def start_release(system: System, version: str) -> Path:
    """Make the folder of a new release; the version has a number added when its name is taken."""
    releases = system.path(layout.WEB_RELEASES_DIR)
    releases.mkdir(parents=True, exist_ok=True)
    folder = _free_folder(releases, version)
    (folder / layout.RELEASE_FACTS_DIR_NAME).mkdir(parents=True)
    return folder


def remove_release(folder: Path) -> None:
    """Remove a release; half a removed one is never taken for a whole one."""
    doomed = folder.with_name(f"{_DOOMED_PREFIX}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def prune_releases(system: System, *, keep: int = KEPT_RELEASES) -> list[str]:
    """Remove old releases and return their names; the current one, and the one it goes back to, always stay."""
    releases = list_releases(system)
    current = next((release for release in releases if release.state == "current"), None)
    if current is None:
        return []
    kept = [release for release in releases if release.state == "kept"]
    kept.sort(key=lambda release: release.name == current.previous, reverse=True)  # stable: newest first after it
    for release in kept[keep:]:
        remove_release(folder_of(system, release.name))
    return [release.name for release in kept[keep:]]


def tidy_releases(system: System) -> list[str]:
    """Take away what an interrupted job left, and return what was done, a line each."""
    done = []
    releases = system.path(layout.WEB_RELEASES_DIR)
    left = system.path(str(Path(NEW_LINK).parent)) / Path(NEW_LINK).name
    if left.is_symlink():
        left.unlink()
        done.append("removed a link that was never used")
    elif left.is_dir():
        # The exchange of folder and link took place, the move after it did not.
        _note_version(left, system.clock.wall_s())
        done.append(f"moved the former folder to {_adopt(releases, left)}")
    if not releases.is_dir():
        return done
    for folder in sorted(releases.iterdir()):
        if folder.name.startswith(_DOOMED_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.is_dir() and _NAME.fullmatch(folder.name) and _is_left(system, folder):
            remove_release(folder)
            done.append(f"removed {folder.name}, which was never finished")
    return done


def _is_left(system: System, folder: Path) -> bool:
    return read_info(folder) is None and folder.name != current_name(system)


def note_original(system: System) -> str:
    """Write into the folder of an original device what a release remembers; returns the name that it will have."""
    web = _web_path(system)
    _note_version(web, system.clock.wall_s())
    return _name_for(system.path(layout.WEB_RELEASES_DIR), web)


def point_to(system: System, name: str) -> None:
    """Make a release the current one, in one step of the file system.

    A folder in the place of the link and the new link change places; the folder is then moved among the releases.
    """
    web, opt = _web_path(system), _web_path(system).parent
    opt.mkdir(parents=True, exist_ok=True)
    link = opt / Path(NEW_LINK).name
    with suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(f"{Path(layout.WEB_RELEASES_DIR).name}/{name}")
    if web.is_dir() and not web.is_symlink():
        releases = system.path(layout.WEB_RELEASES_DIR)
        if _exchange(link, web):
            _adopt(releases, link)
        else:
            _adopt(releases, web)
            link.replace(web)
    else:
        link.replace(web)
    sync_folder(opt)


def find_unfinished_release(system: System) -> str:
    """Return the name of what an interrupted job left among the releases, or beside the link; empty without any."""
    if os.path.lexists(_web_path(system).with_name(Path(NEW_LINK).name)):
        return Path(NEW_LINK).name
    return next((release.name for release in list_releases(system) if release.state == "unfinished"), "")


def _note_version(folder: Path, at_s: float) -> None:
    write_info(folder, Info(_read_version(folder), iso_text(int(at_s * 1000)) or ""))


def _adopt(releases: Path, folder: Path) -> str:
    """Move the folder of an original device among the releases, by copying where it cannot be renamed."""
    target = releases / _name_for(releases, folder)
    try:
        folder.rename(target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:  # a folder of a lower layer of overlayfs
            raise
        copy = target.with_name(f"{_DOOMED_PREFIX}{target.name}")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, symlinks=True)
        copy.rename(target)
        sync_folder(releases)
        shutil.rmtree(folder)
    sync_folder(releases)
    return target.name


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places; False where the file system cannot. Source: renameat2(2)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.EXDEV}:
        return False
    raise OSError(code, os.strerror(code), str(second))


def _free_folder(releases: Path, name: str) -> Path:
    numbers = (name if number == 1 else f"{name}-{number}" for number in range(1, 10_000))
    return next(releases / text for text in numbers if not (releases / text).exists())


def _name_for(releases: Path, original: Path) -> str:
    version = _read_version(original)
    return _free_folder(releases, version if _NAME.fullmatch(version) else "original").name


def _folders(system: System) -> Iterator[Path]:
    releases = system.path(layout.WEB_RELEASES_DIR)
    if releases.is_dir():
        yield from (path for path in sorted(releases.iterdir()) if path.is_dir() and _NAME.fullmatch(path.name))


def _look(folder: Path, current: str) -> Release:
    info = read_info(folder)
    state: State = "current" if folder.name == current else "kept" if info else "unfinished"
    info = info or Info("")
    has_program = (folder / PROGRAM_NAME).is_file()
    return Release(folder.name, _read_version(folder), state, has_program, info.installed_at, info.previous)


def _read_version(folder: Path) -> str:
    try:
        with (folder / Path(layout.VERSION_FILE).name).open("rb") as file:
            return file.read(200).decode("utf-8", "replace").strip().split("\n")[0][:64]
    except OSError:
        return ""


def _web_path(system: System) -> Path:
    """Return the place of the link itself; a link that leads nowhere is no error here."""
    return system.path(str(Path(layout.WEB_DIR).parent)) / Path(layout.WEB_DIR).name
