"""Output of programs on a device -> plain values. Pure; a text that makes no sense gives nothing, never an error.

Sources: recorded on Raspberry Pi OS bookworm and Debian 12; the formats of `ip -j`, `df -P`, `systemctl show`,
`nmcli -t`, `v4l2-ctl --list-devices`, `rpicam-hello --list-cameras`, `arecord -l` and `ss -Hltn`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from meetingctl.core.unitstate import parse_units as parse_units

Row = dict[str, Any]

_CSI_CAMERA = re.compile(r"^\s*(?P<index>[0-9]{1,3}) : (?P<name>\S+)(?: \[(?P<size>\d+x\d+)[^\]]*\])?")
_SOUND_CARD = re.compile(r"^card (\d+): (\S+) \[(.*?)\], device (\d+): (.*?) \[(.*?)\]")
_NMCLI_FIELD = re.compile(r"((?:[^\\:]|\\.)*)(?::|$)")
_FILE_SYSTEM = re.compile(
    r"^\S.*?[ \t]([0-9]{1,15})[ \t]+([0-9]{1,15})[ \t]+([0-9]{1,15})[ \t]+[\d-]+%?[ \t]+(/.*)$", re.MULTILINE
)
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")


def parse_number(text: str) -> float | None:
    """Read the first number of a text."""
    found = _NUMBER.search(text)
    return float(found[0]) if found else None


def parse_whole(text: str) -> int | None:
    """Read a whole number of at most 15 digits; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def parse_os_release(text: str) -> dict[str, str]:
    """Read /etc/os-release."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.replace("_", "").isalnum():
            try:
                values[name] = " ".join(shlex.split(value))
            except ValueError:
                values[name] = value
    return values


def parse_meminfo(text: str) -> dict[str, int]:
    """Read /proc/meminfo: name -> KiB."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {
        name: number for name, _, rest in pairs if (number := parse_whole(rest.strip().partition(" ")[0])) is not None
    }


def parse_df(text: str) -> list[Row]:
    """Read `df -P -k`: one row for each file system, sizes in bytes."""
    rows: dict[str, Row] = {}
    for found in _FILE_SYSTEM.finditer(text):
        size, used, free = (int(number) * 1024 for number in found.group(1, 2, 3))
        rows.setdefault(found[4], {"mount": found[4], "size_bytes": size, "used_bytes": used, "free_bytes": free})
    return list(rows.values())


def parse_v4l2_devices(text: str) -> list[Row]:
    """Read `v4l2-ctl --list-devices`: a name, then its nodes, indented."""
    rows: list[Row] = []
    for line in text.splitlines():
        if line.startswith("\t") and rows:
            rows[-1]["nodes"].append(line.strip())
        elif line.rstrip().endswith(":"):
            rows.append({"name": line.rstrip()[:-1], "nodes": []})
    return [row for row in rows if row["nodes"]]


def parse_csi_cameras(text: str) -> list[Row]:
    """Read `rpicam-hello --list-cameras`."""
    found = (_CSI_CAMERA.match(line) for line in text.splitlines())
    return [{"index": int(row["index"]), "sensor": row["name"], "size": row["size"]} for row in found if row]


def parse_sound_cards(text: str) -> list[Row]:
    """Read `arecord -l`."""
    found = (_SOUND_CARD.match(line) for line in text.splitlines())
    return [{"device": f"hw:{row[1]},{row[4]}", "card": row[3], "name": row[6]} for row in found if row]


def parse_interfaces(text: str) -> list[Row]:
    """Read `ip -j addr`, without loopback."""
    rows = []
    for item in _json_rows(text):
        if "LOOPBACK" in _list(item.get("flags")):
            continue
        addresses = [
            f"{entry.get('local')}/{entry.get('prefixlen')}"
            for entry in _list(item.get("addr_info"))
            if isinstance(entry, Mapping) and entry.get("local")
        ]
        name, state, mac = (item.get(key) for key in ("ifname", "operstate", "address"))
        rows.append({"interface": name, "state": str(state or "").lower(), "mac": mac, "addresses": addresses})
    return rows


def parse_default_routes(text: str) -> list[Row]:
    """Read `ip -j route show default`."""
    return [
        {"gateway": item.get("gateway"), "interface": item.get("dev"), "metric": item.get("metric")}
        for item in _json_rows(text)
    ]


def parse_connections(text: str) -> list[Row]:
    """Read `nmcli -t -f NAME,TYPE,DEVICE,STATE connection show --active`; `\\:` stands for a colon in a name."""
    rows = []
    for line in text.splitlines():
        fields = [re.sub(r"\\(.)", r"\1", field) for field in _NMCLI_FIELD.findall(line)[:4]]
        if len(fields) == 4:
            rows.append(dict(zip(("name", "type", "interface", "state"), fields, strict=True)))
    return rows


def parse_name_servers(text: str) -> list[str]:
    """Read /etc/resolv.conf."""
    words = (line.split() for line in text.splitlines())
    return [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]


def parse_listeners(text: str) -> list[int]:
    """Read `ss -Hltn`: the TCP ports that are listened on."""
    ports = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and (port := parse_whole(words[3].rpartition(":")[2])) is not None:
            ports.add(port)
    return sorted(ports)


def parse_throttled(text: str) -> list[str] | None:
    """Read `vcgencmd get_throttled`: what is, or was since the start, the matter; None without the tool."""
    found = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", text)
    if found is None:
        return None
    bits = int(found[1], 16)
    return [name for bit, name in _THROTTLED.items() if bits >> bit & 1]


_THROTTLED = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage has occurred",
    17: "frequency capping has occurred",
    18: "throttling has occurred",
    19: "soft temperature limit has occurred",
}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _json_rows(text: str) -> Iterator[Mapping[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(rows, list):
        yield from (row for row in rows if isinstance(row, Mapping))
