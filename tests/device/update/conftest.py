"""A camera in a folder, whose systemd is a script, and small packages with a real wheel for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from meetingctl.core import layout
from meetingctl.device.system import System
from meetingctl.device.update.releases import Info, point_to, write_info
from meetingctl.remote.bundle import Platform, Recipe
from meetingctl.remote.bundle.build import pack
from wheels import find_pip_wheel, write_wheel

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

# Units have their ActiveState in $state/units; a restart of one named in $state/broken fails.
_SYSTEMCTL = """\
#!/bin/sh
state={state}
echo "$*" >>"$state/calls"
for word in "$@"; do unit=${{word%.service}}; done
if [ -e "$state/deadly" ] && grep -qxF -- "$1" "$state/deadly"; then rm "$state/deadly"; kill -9 $PPID; sleep 5; fi
case $1 in
show) echo LoadState=loaded; echo "ActiveState=$(cat "$state/units/$unit" 2>/dev/null || echo inactive)" ;;
restart | start)
  if grep -qs broken "{root}/etc/systemd/system/$unit.service"; then echo failed >"$state/units/$unit"; exit 1; fi
  echo active >"$state/units/$unit" ;;
is-enabled) exit 0 ;;
disable) echo inactive >"$state/units/$unit" ;;
esac
"""
# `apt-get update` brings lists of what $state/archive names; what is installed is in $state/installed.
_PACKAGES = """\
#!/bin/sh
state={state} root={root}
case "${{0##*/}} $*" in
dpkg-query*) while read -r name; do printf '%s\\tii \\n\\n' "$name"; done <"$state/installed" ;;
apt-cache*)
  shift 2
  for name in "$@"; do ! grep -qx "$name" "$state/archive" || printf '%s:\\n  Candidate: 1\\n' "$name"; done ;;
*update)
  [ -e "$state/archive" ] || {{ echo "E: no internet" >&2; exit 100; }}
  echo "apt-get update" >>"$state/calls"
  mkdir -p "$root/var/lib/apt/lists"
  touch "$root/var/lib/apt/lists/example_Packages" ;;
*install*)
  while [ "$1" != -- ]; do shift; done
  shift
  for name in "$@"; do
    grep -qsx "$name" "$state/archive" || {{ echo "E: Unable to locate package $name" >&2; exit 100; }}
  done
  echo "apt-get install $*" >>"$state/calls"
  printf '%s\\n' "$@" >>"$state/installed" ;;
esac
"""
# The program in the packages: it puts its units in place as the real one does.
_PROGRAM = """\
import os, pathlib, shutil, sys

VERSION = {version!r}


def main():
    if sys.argv[1:] == ["--version"]:
        print("meetingctl", VERSION)
        return
    root = pathlib.Path(sys.argv[sys.argv.index("--root") + 1])
    state = pathlib.Path({state!r})
    with (state / "repairs").open("a") as file:
        file.write(VERSION + " " + " ".join(sys.argv[1:-2]) + "\\n")
    target = root / "etc/systemd/system"
    target.mkdir(parents=True, exist_ok=True)
    for path in (root / "opt/rpi-cam-webmanager/packaging/systemd").glob("*.service"):
        shutil.copyfile(path, target / path.name)
    print('{{"done": [], "failed": [], "missing": []}}')
"""


@dataclass
class Camera:
    """A device below `root`; `state` is what its systemd remembers."""

    root: Path
    state: Path
    bin: Path
    packages: Path

    @property
    def system(self) -> System:
        return System(self.root, env=self.environment())

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", "MEETINGCTL_ROOT": str(self.root)}

    def path(self, device_path: str) -> Path:
        return self.root / device_path.lstrip("/")

    def units(self) -> dict[str, str]:
        return {path.name: path.read_text().strip() for path in (self.state / "units").iterdir()}

    def set_unit(self, name: str, state: str) -> None:
        (self.state / "units" / name).write_text(f"{state}\n")

    def calls(self, verb: str) -> list[str]:
        lines = (self.state / "calls").read_text().splitlines() if (self.state / "calls").exists() else []
        return [line.split()[-1].removesuffix(".service") for line in lines if line.split()[0] == verb]

    def has_dpkg(self, archive: str | None) -> None:
        """Give the device a dpkg; `archive` names the packages that apt will find, None stands for no internet."""
        self.path(layout.DPKG_DIR).mkdir(parents=True)
        (self.path(layout.DPKG_DIR) / "status").touch()
        if archive is not None:
            (self.state / "archive").write_text(archive)

    def program_version(self) -> str:
        """Run the program that the link names."""
        return self.system.run(str(self.path(layout.PROGRAM)), "--version", timeout_s=30).out.strip()

    def install(self, version: str, *, previous: str = "") -> None:
        """Put a release in place by hand, the stream running; it costs no time."""
        folder = self.path(layout.WEB_RELEASES_DIR) / version
        files = {
            "VERSION": f"{version}\n",
            "venv/bin/meetingctl": f"#!/bin/sh\necho meetingctl {version}\n",
            "../../../usr/local/bin/meetingctl": f"#!/bin/sh\n# {version}\n",
            f"../../..{layout.unit_file_path(layout.STREAM_UNIT)}": f"[Service]\n# {version}\n",
        }
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        write_info(folder, Info(version, f"2026-01-01T00:00:0{len(previous) and 1}Z", previous))
        point_to(self.system, version)
        self.set_unit(layout.STREAM_UNIT, "active")

    def package(self, version: str, *, broken: str = "", units: tuple[str, ...] = (), **recipe: object) -> Path:
        """Write a package; restarting the unit `broken` fails while it is the current release."""
        payload = self.packages / version / "payload"
        web = payload / "opt/rpi-cam-webmanager"
        (web / "wheels").mkdir(parents=True)
        program = _PROGRAM.format(version=version, state=str(self.state))
        wheel = write_wheel(web / "wheels", "meetingctl", {"meetingctl.py": program})
        shutil.copy(find_pip_wheel(), web / "wheels")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (web / "requirements.txt").write_text(f"meetingctl==1 --hash=sha256:{digest}\n")
        (web / "VERSION").write_text(f"{version}\n")
        facts = {
            "schema_version": 1,
            "apt_packages": [],
            "python_requirements_file": "requirements.txt",
            "built_for": {"python": recipe.pop("python", PYTHON)},
        }
        (web / "DEPENDENCIES.json").write_text(json.dumps(facts))
        (web / "packaging/systemd").mkdir(parents=True)
        for unit in (layout.STREAM_UNIT, *units):
            (web / f"packaging/systemd/{unit}.service").write_text(
                f"[Service]\n# {version}{' broken' * (unit == broken)}\n"
            )
        command = payload / "usr/local/bin/meetingctl"
        command.parent.mkdir(parents=True)
        command.write_text(f"#!/bin/sh\n# {version}\n")
        path = self.packages / f"rpi-cam-update_{version}.tar.gz"
        pack(payload, Recipe(Platform("3.13", "amd64"), version, **recipe), path)  # type: ignore[arg-type]
        return path


@pytest.fixture
def camera(tmp_path: Path) -> Camera:
    """Return a camera with nothing installed."""
    made = Camera(tmp_path / "device", tmp_path / "state", tmp_path / "bin", tmp_path / "packages")
    for folder in (made.root / "run/systemd/system", made.state / "units", made.bin, made.packages):
        folder.mkdir(parents=True)
    (made.root / "etc/rpi-cam").mkdir(parents=True)
    (made.root / "etc/rpi-cam/config.env").write_text("RTSP_PORT=1\n")
    (made.bin / "systemctl").write_text(_SYSTEMCTL.format(state=made.state, root=made.root))
    for name in ("systemd-run", "udevadm"):
        (made.bin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{made.state}/calls\n')
    for name in ("dpkg-query", "apt-cache", "apt-get"):
        (made.bin / name).write_text(_PACKAGES.format(state=made.state, root=made.root))
    for path in made.bin.iterdir():
        path.chmod(0o755)
    (made.state / "installed").touch()
    return made
