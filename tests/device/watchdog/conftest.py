"""A device in a folder, with a stand-in for systemctl."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from meetingctl.device.system import System

# Logs every call, answers `show` from a file, and fails like systemctl when told to.
_SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>"{folder}/calls"
for unit in "$@"; do :; done
case $1 in
show) cat "{folder}/$unit" 2>/dev/null || exit 1 ;;
restart) [ ! -e "{folder}/refuses" ] || {{ echo "Job for $unit failed." >&2; exit 1; }} ;;
try-restart | reset-failed) ;;
*) exit 127 ;;
esac
"""


@dataclass
class Device:
    """A device below a folder."""

    system: System
    bin: Path

    @property
    def root(self) -> Path:
        return self.system.root

    def set_unit(self, name: str, active: str, **properties: str) -> None:
        """Let systemctl tell this of a unit."""
        values = {"LoadState": "loaded", "ActiveState": active, "ActiveEnterTimestampMonotonic": "1", **properties}
        text = "".join(f"{key}={value}\n" for key, value in values.items())
        (self.bin / f"{name}.service").write_text(text)

    def refuse_restarts(self) -> None:
        (self.bin / "refuses").touch()

    def restarts(self) -> list[str]:
        """Return the calls of systemctl that change something."""
        calls = self.bin / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if not line.startswith("show")]

    def write(self, device_path: str, text: str) -> None:
        self.system.write(device_path, text)

    def environment(self) -> dict[str, str]:
        """Return what a command on this device is called with."""
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.root), "MEETINGCTL_ROOT": str(self.root)}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "systemctl"
    script.write_text(_SYSTEMCTL.format(folder=folder))
    script.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    cat = shutil.which("cat")
    assert cat is not None
    system = System(root, env={"PATH": f"{folder}:{Path(cat).parent}"})
    made = Device(system, folder)
    made.set_unit("rpi-av-rtsp-recorder", "active")
    made.set_unit("rtsp-recorder", "active")
    return made
