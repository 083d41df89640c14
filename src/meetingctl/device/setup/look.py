"""Read the facts of a device; nothing is changed. What needs root and is refused is told as unreadable."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from meetingctl.core import layout
from meetingctl.core.errors import Forbidden, MeetingctlError, NotFound
from meetingctl.core.update_package import parse_dependencies
from meetingctl.device import apt
from meetingctl.device.config import read_config
from meetingctl.device.setup import wanted
from meetingctl.device.setup.facts import Camera, Cloud, Entry, Facts, PackageState, Shipped, UnitFact
from meetingctl.device.system import System

_ASK_TIMEOUT_S = 30.0
_INSPECT_TIMEOUT_S = 60.0  # the first look after an installation reads every plugin
_PROPERTIES = "LoadState,UnitFileState,ActiveState,NeedDaemonReload"
_CAMERA_KEYS = ("CAMERA_TYPE", "CSI_ENABLE", "USB_ENABLE")


@dataclass(frozen=True, slots=True)
class Names:
    """Users and groups of the device; without its files no owner has a name."""

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def owner(self, uid: int, gid: int) -> str:
        """Write `user:group`; empty where names are not known at all."""
        if not self.users or not self.groups:
            return ""
        user = next((name for name, number in self.users.items() if number == uid), str(uid))
        group = next((name for name, number in self.groups.items() if number == gid), str(gid))
        return f"{user}:{group}"

    def ids(self, owner: str) -> tuple[int, int]:
        """Return the numbers of `user:group`. Raises: NotFound."""
        user, _, group = owner.partition(":")
        try:
            return self.users[user], self.groups[group]
        except KeyError as exc:
            raise NotFound(f"no user or group {exc.args[0]!r} on this device", hint=f"getent group {group}") from exc

    def groups_of(self, user: str) -> tuple[str, ...]:
        return tuple(sorted(group for group, members in self.members.items() if user in members))


def read_names(system: System) -> Names:
    """Read the user and group files of the device."""
    users = _rows(system, layout.USER_TABLE, 3)
    groups = _rows(system, layout.GROUP_TABLE, 4)
    return Names(
        {row[0]: int(row[2]) for row in users if row[2].isdigit()},
        {row[0]: int(row[2]) for row in groups if row[2].isdigit()},
        {row[0]: tuple(filter(None, row[3].split(","))) for row in groups},
    )


def read_facts(system: System, *, components: Iterable[str] = tuple(wanted.COMPONENTS)) -> Facts:
    """Look at everything that `make_plan` decides on; without the component `gstreamer` no packages are looked at."""
    from meetingctl.device.update.job import find_unfinished

    names, unreadable = read_names(system), list[str]()
    has_media = system.is_live and "gstreamer" in set(components)
    units, needs_reload = read_units(system) if system.is_booted else ({}, False)
    packages = read_packages(system, unreadable) if has_media else {}
    return Facts(
        is_live=system.is_live,
        is_booted=system.is_booted,
        unfinished_update=find_unfinished(system),
        version=_read_text(system, layout.VERSION_FILE, unreadable).strip(),
        has_program=_exists(system, layout.PROGRAM),
        folders={folder: read_entry(system, folder, names) for folder in wanted.FOLDERS},
        files={file: read_entry(system, file, names) for file in wanted.CONFIG_MODES},
        shipped=read_shipped(system, unreadable),
        systemd_answers=bool(units),
        udev_runs=system.is_live and _exists(system, layout.UDEV_CONTROL_SOCKET),
        units=units,
        needs_reload=needs_reload,
        packages=packages,
        dpkg_is_broken=bool(packages) and apt.is_interrupted(system),
        elements=read_elements(system) if has_media else {},
        cloud=read_cloud(system, unreadable),
        groups=tuple(sorted(names.groups)),
        memberships={
            user: names.groups_of(user) for user in wanted.MEMBERSHIPS if system.is_live and user in names.users
        },
        wants_agent=read_wants_agent(system, unreadable),
        is_access_point=_read_json(system, layout.AP_MODE_JSON, unreadable).get("enabled") is True,
        camera=read_camera(system, unreadable) if system.is_live else Camera(),
        unreadable=tuple(dict.fromkeys(unreadable)),
    )


def read_entry(system: System, device_path: str, names: Names) -> Entry | None:
    """Describe what stands at a path, without following a link there; None for nothing."""
    try:
        facts = _unfollowed(system, device_path).lstat()
    except (OSError, MeetingctlError):
        return None
    mode = stat.S_IMODE(facts.st_mode)
    owner = names.owner(facts.st_uid, facts.st_gid)
    if stat.S_ISREG(facts.st_mode):
        return Entry("file", mode, owner)
    if stat.S_ISDIR(facts.st_mode):
        return Entry("folder", mode, owner)
    return Entry("link" if stat.S_ISLNK(facts.st_mode) else "other", mode, owner)


def read_shipped(system: System, unreadable: list[str]) -> dict[str, Shipped]:
    """Compare the files that the release brings with those in place: place -> what was found."""
    folders = [(f"{wanted.PACKAGING_DIR}/{name}", place, 0o644) for name, place in layout.PACKAGED_DIRS.items()]
    folders.append((wanted.PROGRAMS_DIR, layout.BIN_DIR, 0o755))
    found = {}
    for folder, place, mode in folders:
        for name in _names_in(system, folder):
            source, target = f"{folder}/{name}", f"{place}/{name}"
            new, old = _digest(system, source, unreadable), _digest(system, target, unreadable)
            is_runnable = mode != 0o755 or _is_runnable(system, target)
            found[target] = Shipped(source, old is not None, new is not None and new == old and is_runnable, mode)
    return found


def _is_runnable(system: System, device_path: str) -> bool:
    try:
        return bool(_unfollowed(system, device_path).lstat().st_mode & stat.S_IXOTH)
    except (OSError, MeetingctlError):
        return False


def read_units(system: System) -> tuple[dict[str, UnitFact], bool]:
    """Ask systemd for all units at once; the second value says whether it has older files than the disk."""
    names = [*layout.UNITS, wanted.AVAHI_UNIT, *wanted.ACCESS_POINT_UNITS]
    files = [f"{name}.service" for name in names]
    ran = system.run("systemctl", "show", f"--property={_PROPERTIES}", "--", *files, timeout_s=_ASK_TIMEOUT_S)
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in ran.out.split("\n\n")]
    blocks = [block for block in blocks if "LoadState" in block]
    if not ran.ok or len(blocks) != len(names):
        return {}, False
    units = {
        name: UnitFact(block["LoadState"], block.get("UnitFileState", ""), block.get("ActiveState", ""))
        for name, block in zip(names, blocks, strict=True)
    }
    return units, any(block.get("NeedDaemonReload") == "yes" for block in blocks)


def read_packages(system: System, unreadable: list[str]) -> dict[str, PackageState]:
    """Ask dpkg for the packages that the release names; apt says of missing ones whether they can be had."""
    try:
        text = _read_text(system, layout.DEPENDENCIES_JSON, unreadable)
        names = parse_dependencies(text.encode("utf-8", "surrogateescape") or None).apt_packages
    except MeetingctlError as exc:
        unreadable.append(exc.message)
        names = ()
    if not names:
        return {}
    # Where dpkg does not answer, the repair tries them all and tells why it cannot.
    state = apt.read_state(system, names) or apt.AptState(names)
    states: dict[str, PackageState] = dict.fromkeys(names, "installed")
    return states | dict.fromkeys(state.missing, "missing") | dict.fromkeys(state.unavailable, "unavailable")


def read_elements(system: System) -> dict[str, bool]:
    """Ask GStreamer for the elements of every configuration."""
    return {
        name: system.run("gst-inspect-1.0", "--exists", name, timeout_s=_INSPECT_TIMEOUT_S).ok
        for name in wanted.ELEMENTS
    }


def read_cloud(system: System, unreadable: list[str]) -> Cloud | None:
    """Look at cloud-init; None where it is not installed."""
    if not _exists(system, layout.CLOUD_CFG):
        return None
    text = _read_text(system, layout.CLOUD_CFG, unreadable)
    return Cloud(
        tuple(name for name in wanted.CLOUD_MODULES if cloud_module_line(name).search(text)),
        _read_text(system, layout.CLOUD_DROPIN, unreadable) == wanted.CLOUD_DROPIN_TEXT,
        _exists(system, layout.CLOUD_HOSTNAME_MEMORY),
    )


def cloud_module_line(name: str) -> re.Pattern[str]:
    """Return the pattern of a line of cloud.cfg that switches a module on, alone or with a frequency."""
    return re.compile(rf"^(?P<indent>[ \t]*)(?P<item>-[ \t]*\[?[ \t]*['\"]?{name}\b.*)$", re.MULTILINE)


def read_wants_agent(system: System, unreadable: list[str]) -> bool | None:
    """Say whether meeting.json asks for the tunnel: switched on, provisioned, with key and token. None: unreadable."""
    known = len(unreadable)
    meeting = _read_json(system, layout.MEETING_JSON, unreadable)
    if len(unreadable) > known:
        return None
    is_on = meeting.get("enabled") is True and meeting.get("provisioned") is True
    return is_on and bool(meeting.get("device_key")) and bool(meeting.get("token_code"))


def read_camera(system: System, unreadable: list[str]) -> Camera:
    """Look for a camera where the configuration leaves the kind open."""
    from meetingctl.device.stream.probe import find_csi_camera, find_usb_camera

    try:
        loaded = read_config(system)
    except MeetingctlError as exc:
        unreadable.append(exc.message)
        return Camera()
    if loaded.config.stream_source_mode != "camera" or any(loaded.origins[key] != "default" for key in _CAMERA_KEYS):
        return Camera()
    if usb := find_usb_camera(system, loaded.config.videoin_device):
        return Camera(True, "usb", usb.device)
    return Camera(True, "csi") if find_csi_camera(system) else Camera(True)


def _rows(system: System, device_path: str, least: int) -> list[list[str]]:
    rows = [line.split(":") for line in _read_text(system, device_path, []).splitlines()]
    return [row for row in rows if len(row) >= least]


def _unfollowed(system: System, device_path: str) -> Path:
    """Return a path below the root whose last part may be a link to anywhere."""
    pure = PurePosixPath(device_path)
    return system.path(pure.parent) / pure.name


def _exists(system: System, device_path: str) -> bool:
    try:
        return system.path(device_path).exists()
    except (OSError, MeetingctlError):
        return False


def _names_in(system: System, device_folder: str) -> list[str]:
    try:
        return sorted(path.name for path in system.path(device_folder).iterdir())
    except (OSError, MeetingctlError):
        return []


def _digest(system: System, device_path: str, unreadable: list[str]) -> str | None:
    """Return the checksum of a regular file; None where none stands, as for the link of a masked unit."""
    try:
        if not stat.S_ISREG(_unfollowed(system, device_path).lstat().st_mode):
            return None
    except (OSError, MeetingctlError):
        return None
    text = _read_text(system, device_path, unreadable)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _read_text(system: System, device_path: str, unreadable: list[str]) -> str:
    try:
        return system.read(device_path)
    except NotFound:
        return ""
    except Forbidden:
        unreadable.append(f"{device_path}: cannot be read, so it was not looked at; run it as root")
    except MeetingctlError as exc:
        unreadable.append(exc.message)
    return ""


def _read_json(system: System, device_path: str, unreadable: list[str]) -> dict[str, Any]:
    text = _read_text(system, device_path, unreadable)
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    unreadable.append(f"{device_path}: not a JSON object")
    return {}
