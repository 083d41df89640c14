"""What an installation has to know of a device, asked in one round trip."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meetingctl.core import layout
from meetingctl.core.secret import sha256_hex
from meetingctl.remote import parsers
from meetingctl.remote.recipes import transfer
from meetingctl.remote.recipes.bundle import Bundle
from meetingctl.remote.recipes.link import Link
from meetingctl.remote.recipes.unit import UNIT
from meetingctl.remote.services import UnitState, parse_states, show_line
from meetingctl.remote.transient import UnitFacts, parse_unit
from meetingctl.remote.transient import show_line as show_transient
from meetingctl.remote.visit import Privilege

HOSTS_FILE = "/etc/hosts"
REBOOT_MARK = f"{layout.STATE_DIR}/reboot-wanted"
PROGRAM = f"{layout.BIN_DIR}/meetingctl"
# Where small files are staged, and where the package begins to unpack itself.
SCRATCH_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108 - names of folders of the device, nothing is written there blindly
COMMAND_S = 60
FACTS_S = 240.0
_MOST_NOTES = 20
_LONGEST_NOTE = 300
# timedatectl says no while one of these waits for a clock that it may set, or is another one than systemd's own.
_NTP_UNITS = ("systemd-timesyncd", "chrony", "ntpsec", "ntp", "openntpd")
# The files are read byte for byte: they are written again with all that is not changed.
_COMMANDS = {
    "whoami": "id -u",
    "hostname": "uname -n",
    "model": f"tr -d '\\0' <{layout.MACHINE_MODEL_FILE}",
    "os_release": "cat /etc/os-release",
    "arch": "dpkg --print-architecture",
    "python": "python3 -c 'import sys; print(*sys.version_info[:2])'",
    "systemd": "systemctl --version",
    "boot_id": f"cat {layout.BOOT_ID_FILE}",
    "uptime": "cat /proc/uptime",
    "disk": "df -P -k / /var/tmp",
    "tmp": "df -P -k /tmp",
    # Also for root the answer is no where the file system is mounted read-only.
    "unwritable": f'for d in {" ".join(SCRATCH_FOLDERS)}; do [ -w "$d" ] || echo "$d"; done',
    "time": "timedatectl show",
    "ntp": f"systemctl is-enabled {' '.join(_NTP_UNITS)}",
    "timezone": "cat /etc/timezone || readlink /etc/localtime",
    "hosts": f"cat {HOSTS_FILE}",
    "meeting": f"cat {layout.MEETING_JSON}",
    "config": f"cat {layout.CONFIG_ENV}",
    "has_files": f"ls -d {layout.MEETING_JSON} {layout.CONFIG_ENV} {REBOOT_MARK}",
    "version": f"head -n 1 {layout.VERSION_FILE}",
    "unit": show_transient(UNIT),
    "units": show_line(layout.UNITS),
}


@dataclass(frozen=True, slots=True)
class InstallFacts:
    """A device as it is. Texts of files are None where there is no file; both may hold secrets: never shown.

    `check` is the exit code of `device check` there, None where the program is not installed, `notes` what deserves a
    look by a human, a camera that was not found for example. `staged` is `whole` or
    the size of what an earlier try has sent. `unwritable` are those of SCRATCH_FOLDERS where nobody can write;
    `tmp_free_bytes` is None where the device does not say.
    """

    hostname: str = ""
    model: str = ""
    os: str = ""
    arch: str = ""
    python: tuple[int, int] = (0, 0)
    has_systemd: bool = True
    is_root: bool = True
    boot_id: str = ""
    uptime_s: int = 0
    free_bytes: int = 0
    tmp_free_bytes: int | None = None
    unwritable: tuple[str, ...] = ()
    timezone: str = ""
    has_ntp: bool = True
    can_ntp: bool = True
    hosts: str = field(default="", repr=False)
    meeting: str | None = field(default=None, repr=False)
    config: str | None = field(default=None, repr=False)
    version: str = ""
    check: int | None = None
    notes: tuple[str, ...] = ()
    staged: str = "0"
    unit: UnitFacts = UnitFacts()
    units: tuple[UnitState, ...] = ()
    wants_reboot: bool = False

    @property
    def is_installed(self) -> bool:
        """Say whether our program is there; a device of the original has a version and no program."""
        return self.check is not None

    def as_json(self) -> dict[str, Any]:
        """Return what may be shown."""
        return {
            "hostname": self.hostname or None,
            "model": self.model or None,
            "os": self.os or None,
            "arch": self.arch or None,
            "python": ".".join(map(str, self.python)) if any(self.python) else None,
            "uptime_s": self.uptime_s,
            "free_bytes": self.free_bytes,
            "timezone": self.timezone or None,
            "version": self.version or None,
            "boot_id": self.boot_id or None,
        }


def check_argv(components: tuple[str, ...] = (), *, repair: bool = False) -> list[str]:
    """Return the command that compares the device with what it should be."""
    chosen = ["--component", ",".join(components)] if components else []
    return [PROGRAM, "device", "check", *(["--repair"] if repair else []), *chosen]


def read_install_facts(
    link: Link, bundle: Bundle | None, folder: str, components: tuple[str, ...] = ()
) -> InstallFacts:
    """Ask a device. `folder` is where packages are sent to. Raises: AuthError, MeetingctlError, TransportLost."""
    commands = dict(_COMMANDS)
    check = shlex.join([*check_argv(components), "--json"])
    commands["check"] = f'[ -x {PROGRAM} ] && {{ {check}; code=$?; echo; echo "$code"; }}'
    if bundle is not None:
        commands["staged"] = transfer.check_line(folder, bundle.name, bundle.sha256)
    sections = link.ask_sections(commands, privilege=Privilege.needed, command_s=COMMAND_S, within_s=FACTS_S)
    return parse_install_facts(sections)


def parse_install_facts(sections: Mapping[str, str]) -> InstallFacts:
    """Turn the answers into facts. Pure."""
    plain = {name: text.strip() for name, text in sections.items()}

    def text(name: str) -> str:
        return plain.get(name, "")

    files = text("has_files").split()
    times = dict(line.split("=", 1) for line in text("time").splitlines() if "=" in line)
    python = [parsers.parse_whole(word) or 0 for word in text("python").split()]
    disks = parsers.parse_df(sections.get("disk", ""))
    answer, _, code = text("check").rpartition("\n")
    return InstallFacts(
        hostname=text("hostname"),
        model=text("model"),
        os=parsers.parse_os_release(text("os_release")).get("PRETTY_NAME", ""),
        arch=text("arch"),
        python=(python[0], python[1]) if len(python) == 2 else (0, 0),
        has_systemd=text("systemd").startswith("systemd "),
        is_root=text("whoami") == "0",
        boot_id=text("boot_id"),
        uptime_s=round(parsers.parse_number(text("uptime")) or 0),
        free_bytes=min((disk["free_bytes"] for disk in disks), default=0),
        tmp_free_bytes=next((disk["free_bytes"] for disk in parsers.parse_df(sections.get("tmp", ""))), None),
        unwritable=tuple(text("unwritable").split()),
        timezone=times.get("Timezone") or text("timezone").partition("zoneinfo/")[2] or text("timezone"),
        has_ntp=times.get("NTP") != "no" or "enabled" in text("ntp").split(),
        can_ntp=times.get("CanNTP") != "no",
        hosts=sections.get("hosts", ""),
        meeting=sections.get("meeting", "") if layout.MEETING_JSON in files else None,
        config=sections.get("config", "") if layout.CONFIG_ENV in files else None,
        version=text("version"),
        check=parsers.parse_whole(code),
        notes=_read_notes(answer),
        staged=text("staged") or "0",
        unit=parse_unit(UNIT, sections.get("unit", "")),
        units=tuple(parse_states(layout.UNITS, sections.get("units", ""))),
        wants_reboot=REBOOT_MARK in files,
    )


def _read_notes(text: str) -> tuple[str, ...]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    notes = answer.get("notes") if isinstance(answer, dict) else None
    return tuple(str(note)[:_LONGEST_NOTE] for note in notes[:_MOST_NOTES]) if isinstance(notes, list) else ()


def sha256_or_none(text: str | None) -> str | None:
    """Return what a file of this text has as SHA-256; None for no file."""
    return None if text is None else sha256_hex(text)
