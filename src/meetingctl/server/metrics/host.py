"""Figures of the machine and of this process, from /proc and /sys. What a system does not tell is None."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import threading
import time
from pathlib import Path
from typing import Any

from meetingctl.core.errors import MeetingctlError

_UTMP = struct.Struct("hi32s4s32s256shhiii4i20s")  # utmp(5) on Linux
_USER_PROCESS = 7
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_BUSY_OVER_S = 1.0  # the shortest time over which a share of the CPU means something


class HostFigures:
    """Read the figures; remembers the last look at the CPU, of which the next one's share is made."""

    def __init__(self, proc: Path = Path("/proc"), sys_folder: Path = Path("/sys"), utmp: Path = Path("/run/utmp")):
        self._proc, self._sys, self._utmp = proc, sys_folder, utmp
        self._lock = threading.Lock()
        self._before = (0.0, 0, 0)  # when (monotonic), busy ticks, all ticks
        self._percent = 0.0

    def read(self, folder: Path) -> dict[str, Any]:
        """Return the figures; `folder` names the disk. Raises: MeetingctlError `Metrics unavailable`."""
        try:
            memory = self._memory()
            return {
                "cpu": {"percent": self._cpu_percent(), "count": os.cpu_count(), **self._load()},
                "memory": memory,
                "disk": _disk(folder),
                "uptime_sec": int(float(self._text("uptime").split()[0])),
                "temperature_c": self._temperature(),
                "users_logged_in": self._users(),
                "network": self._network(),
                "process": self._process(),
            }
        except (OSError, ValueError, IndexError, KeyError) as exc:
            raise MeetingctlError("Metrics unavailable", hint="the figures need /proc of Linux") from exc

    def _text(self, name: str) -> str:
        return (self._proc / name).read_text()

    def _load(self) -> dict[str, float]:
        one, five, fifteen = self._text("loadavg").split()[:3]
        return {"load_1m": float(one), "load_5m": float(five), "load_15m": float(fifteen)}

    def _cpu_percent(self) -> float:
        """Return the busy share since the last look, of the machine's whole time at the first one."""
        ticks = [int(part) for part in self._text("stat").split("\n", 1)[0].split()[1:9]]
        total, busy = sum(ticks), sum(ticks) - ticks[3] - ticks[4]  # idle and iowait
        with self._lock:
            when_s, busy_before, total_before = self._before
            if time.monotonic() - when_s >= _BUSY_OVER_S and total > total_before:
                self._percent = round(100 * (busy - busy_before) / (total - total_before), 1)
                self._before = (time.monotonic(), busy, total)
            return self._percent

    def _memory(self) -> dict[str, Any]:
        lines = (line.split() for line in self._text("meminfo").splitlines())
        found = {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) > 1}
        total, available = found["MemTotal"], found.get("MemAvailable", found["MemFree"])
        return {
            "total_bytes": total,
            "available_bytes": available,
            "used_bytes": total - available,
            "percent": round(100 * (total - available) / total, 1),
            "swap_total_bytes": found.get("SwapTotal", 0),
            "swap_used_bytes": found.get("SwapTotal", 0) - found.get("SwapFree", 0),
        }

    def _temperature(self) -> float | None:
        """Return the hottest sensor, in degrees Celsius."""
        found = []
        for path in (self._sys / "class/thermal").glob("thermal_zone*/temp"):
            try:
                found.append(int(path.read_text()) / 1000)
            except (OSError, ValueError):
                continue  # a sensor that is switched off
        return max(found, default=None)

    def _users(self) -> int:
        try:
            raw = self._utmp.read_bytes()
        except OSError:
            return 0
        whole = len(raw) - len(raw) % _UTMP.size
        return sum(record[0] == _USER_PROCESS for record in _UTMP.iter_unpack(raw[:whole]))

    def _network(self) -> dict[str, dict[str, int]]:
        figures = {}
        for line in self._text("net/dev").splitlines()[2:]:
            name, _, numbers = line.partition(":")
            parts = numbers.split()
            figures[name.strip()] = {"rx_bytes": int(parts[0]), "tx_bytes": int(parts[8])}
        return figures

    def _process(self) -> dict[str, Any]:
        fields = self._text("self/stat").rpartition(")")[2].split()
        return {
            "rss_bytes": int(self._text("self/statm").split()[1]) * _PAGE_BYTES,
            "cpu_sec": round((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, 2),
            "threads": int(fields[17]),
            "open_files": len(list((self._proc / "self/fd").iterdir())),
        }


def runtime() -> dict[str, str]:
    """Name what the server runs on."""
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}


def _disk(folder: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(folder)
    return {
        "total_bytes": usage.total,
        "used_bytes": usage.used,
        "free_bytes": usage.free,
        "percent": round(100 * usage.used / usage.total, 1) if usage.total else 0.0,
    }
