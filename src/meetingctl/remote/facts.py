"""What a device is and how it is: one script asks, pure parsers answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError, UsageError
from meetingctl.remote import parsers
from meetingctl.remote.sections import new_mark, sections_line, split_sections
from meetingctl.remote.services import show_line
from meetingctl.remote.visit import Privilege, Visit

GROUPS = ("system", "camera", "audio", "network", "rtsp", "kernel")
_KERNEL_LINES = 20
_KERNEL_BYTES = 16 * 1024

_COMMANDS: dict[str, dict[str, str]] = {
    "system": {
        "hostname": "uname -n",
        "kernel": "uname -r",
        "machine": "uname -m",
        "os_release": "cat /etc/os-release",
        "model": f"tr -d '\\0' <{layout.MACHINE_MODEL_FILE}",
        "version": f"head -n 1 {layout.VERSION_FILE}",
        "boot_id": f"cat {layout.BOOT_ID_FILE}",
        "uptime": "cat /proc/uptime",
        "load": "cat /proc/loadavg",
        "memory": "cat /proc/meminfo",
        "disk": f"df -P -k / {layout.CACHE_DIR}",
        "temperature": "cat /sys/class/thermal/thermal_zone0/temp",
        "throttled": "vcgencmd get_throttled",
        "failed": "systemctl --failed --plain --no-legend --no-pager",
    },
    "camera": {
        "video_nodes": "ls -1 /dev/video*",
        "v4l2": "v4l2-ctl --list-devices",
        "csi": "rpicam-hello --list-cameras || libcamera-hello --list-cameras",
    },
    "audio": {"capture": "arecord -l"},
    "network": {
        "addresses": "ip -j addr",
        "routes": "ip -j route show default",
        "connections": "nmcli -t -f NAME,TYPE,DEVICE,STATE connection show --active",
        "resolver": "cat /etc/resolv.conf",
    },
    "rtsp": {"listeners": "ss -Hltn", "units": show_line((layout.STREAM_UNIT, layout.RECORDER_UNIT))},
    "kernel": {
        "messages": f"dmesg --level=emerg,alert,crit,err,warn | tail -n {_KERNEL_LINES} | head -c {_KERNEL_BYTES}"
    },
}


def choose_groups(only: str) -> tuple[str, ...]:
    """Read `--only camera,network`; empty means all. Raises: UsageError for an unknown word."""
    words = tuple(word.strip() for word in only.split(",") if word.strip())
    if unknown := next((word for word in words if word not in GROUPS), None):
        raise UsageError(f"no facts {unknown[:40]!r}", hint=f"--only {','.join(GROUPS)}")
    return tuple(group for group in GROUPS if group in words) or GROUPS


async def read_facts(visit: Visit, groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """Ask a device for these groups of facts in one round trip. Raises: MeetingctlError where no shell answers."""
    mark = new_mark()
    commands = {f"{group}.{name}": line for group in groups for name, line in _COMMANDS[group].items()}
    text = await visit.ask(sections_line(commands, mark), privilege=Privilege.wanted)
    sections = split_sections(text, mark)
    if not sections:
        raise MeetingctlError(f"{visit.target}: no facts: the login shell printed {text.strip()[:80]!r}")
    return parse_facts(groups, sections)


def parse_facts(groups: Sequence[str], sections: Mapping[str, str]) -> dict[str, Any]:
    """Turn the sections of the script, named `group.command`, into facts by group. Pure."""
    facts = {}
    for group in groups:
        texts = {name: sections.get(f"{group}.{name}", "").strip("\n") for name in _COMMANDS[group]}
        facts[group] = _PARSERS[group](texts)
    return facts


def _parse_system(texts: Mapping[str, str]) -> dict[str, Any]:
    memory, release = parsers.parse_meminfo(texts["memory"]), parsers.parse_os_release(texts["os_release"])
    temperature, uptime_s = parsers.parse_number(texts["temperature"]), parsers.parse_number(texts["uptime"])
    return {
        "hostname": texts["hostname"] or None,
        "model": texts["model"] or None,
        "os": release.get("PRETTY_NAME"),
        "codename": release.get("VERSION_CODENAME"),
        "kernel": texts["kernel"] or None,
        "machine": texts["machine"] or None,
        "version": texts["version"].strip() or None,
        "boot_id": texts["boot_id"] or None,
        "uptime_s": None if uptime_s is None else round(uptime_s),
        "load_1": parsers.parse_number(texts["load"]),
        "memory_bytes": memory.get("MemTotal", 0) * 1024 or None,
        "memory_free_bytes": memory.get("MemAvailable", 0) * 1024 or None,
        "disks": parsers.parse_df(texts["disk"]),
        "temperature_c": None if temperature is None else temperature / 1000,
        "throttled": parsers.parse_throttled(texts["throttled"]),
        "failed_units": [line.split()[0] for line in texts["failed"].splitlines() if line.split()],
    }


def _parse_camera(texts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "video_nodes": texts["video_nodes"].split(),
        "v4l2": parsers.parse_v4l2_devices(texts["v4l2"]),
        "csi": parsers.parse_csi_cameras(texts["csi"]),
    }


def _parse_audio(texts: Mapping[str, str]) -> dict[str, Any]:
    return {"capture": parsers.parse_sound_cards(texts["capture"])}


def _parse_network(texts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "interfaces": parsers.parse_interfaces(texts["addresses"]),
        "default_routes": parsers.parse_default_routes(texts["routes"]),
        "connections": parsers.parse_connections(texts["connections"]),
        "name_servers": parsers.parse_name_servers(texts["resolver"]),
    }


def _parse_rtsp(texts: Mapping[str, str]) -> dict[str, Any]:
    units = parsers.parse_units(texts["units"])
    return {
        "listening_ports": parsers.parse_listeners(texts["listeners"]),
        "units": {name: values.get("ActiveState") or None for name, values in units.items()},
    }


def _parse_kernel(texts: Mapping[str, str]) -> dict[str, Any]:
    return {"messages": texts["messages"].splitlines()}


_PARSERS = {
    "system": _parse_system,
    "camera": _parse_camera,
    "audio": _parse_audio,
    "network": _parse_network,
    "rtsp": _parse_rtsp,
    "kernel": _parse_kernel,
}
