"""A device in a folder whose programs keep their state in files, so that a repair has an effect that is seen."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from meetingctl.core import layout

PACKAGING = Path(__file__).parents[3] / "packaging"

# One script under all names. Units have files in $state/units: "LoadState UnitFileState ActiveState".
_FAKE = """\
#!/bin/sh
state={state} root={root}
name=${{0##*/}}
echo "$name $*" >>"$state/calls"
last() {{ for word in "$@"; do :; done; echo "${{word%.service}}"; }}
set_unit() {{ echo "$2 $3 $4" >"$state/units/$1"; }}
if grep -qsF -- "$*" "$state/refused"; then echo "Job failed." >&2; exit 1; fi
case "$name $1" in
"systemctl show")
  while [ "$1" != -- ]; do shift; done
  shift
  for unit in "$@"; do
    unit=${{unit%.service}}
    set -- not-found '' inactive
    [ ! -e "$root/etc/systemd/system/$unit.service" ] || set -- loaded disabled inactive
    [ ! -e "$state/units/$unit" ] || set -- $(cat "$state/units/$unit")
    printf 'Id=%s.service\\nNeedDaemonReload=no\\n' "$unit"
    printf 'LoadState=%s\\nUnitFileState=%s\\nActiveState=%s\\n\\n' "$1" "$2" "$3"
  done ;;
"systemctl enable" | "systemctl start" | "systemctl restart" | "systemctl try-restart")
  set_unit "$(last "$@")" loaded enabled active ;;
"systemctl disable") set_unit "$(last "$@")" loaded disabled inactive ;;
"systemctl stop") set_unit "$(last "$@")" loaded enabled inactive ;;
"systemctl mask") set_unit "$(last "$@")" masked masked inactive ;;
"systemctl daemon-reload" | "systemctl reset-failed" | "systemctl unmask") ;;
"dpkg-query --show") while read -r package; do printf '%s\\tii \\n\\n' "$package"; done <"$state/installed" ;;
"dpkg --audit") ;;
"apt-cache policy")
  shift 2
  for package in "$@"; do
    ! grep -qx "$package" "$state/offered" || printf '%s:\\n  Installed: (none)\\n  Candidate: 1.0\\n' "$package"
  done ;;
"apt-get -q")
  case $* in *update) mkdir -p "$root/var/lib/apt/lists"; touch "$root/var/lib/apt/lists/x_Packages"; exit 0 ;; esac
  while [ "$1" != -- ]; do shift; done
  shift
  printf '%s\\n' "$@" >>"$state/installed" ;;
"gst-inspect-1.0 --exists") [ -e "$state/elements" ] ;;
"gpasswd --add") sed -i "s/^$3:\\(.*\\)/$3:\\1,$2/" "$root/etc/group" ;;
"systemd-tmpfiles --create" | "udevadm control") ;;
"v4l2-ctl --list-devices") ;;
"rpicam-hello --list-cameras") echo "0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx219@10)" ;;
*) echo "unscripted: $name $*" >&2; exit 127 ;;
esac
"""
_PROGRAMS = (
    "systemctl", "dpkg-query", "dpkg", "apt-cache", "apt-get", "gst-inspect-1.0", "gpasswd", "systemd-tmpfiles",
    "udevadm", "v4l2-ctl", "rpicam-hello",
)  # fmt: skip


@dataclass
class Device:
    """A device below `root`; `state` is what its programs remember."""

    root: Path
    state: Path
    bin: Path

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", "MEETINGCTL_ROOT": str(self.root)}

    def path(self, device_path: str) -> Path:
        return layout.below(self.root, device_path)

    def write(self, device_path: str, text: str, mode: int = 0o644) -> None:
        path = self.path(device_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def calls(self, *programs: str) -> list[str]:
        """Return the calls of programs, in their order, with all their words."""
        file = self.state / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.partition(" ")[0] in programs]

    def refuse(self, words: str) -> None:
        """Let calls with exactly these words fail."""
        (self.state / "refused").write_text(f"{words}.service\n")

    def set_unit(self, name: str, *words: str) -> None:
        (self.state / "units" / name).write_text(" ".join(words))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Return a device with a release in place and nothing set up."""
    made = Device(tmp_path / "device", tmp_path / "state", tmp_path / "bin")
    for folder in (made.root, made.state / "units", made.bin):
        folder.mkdir(parents=True)
    (made.root / "run/systemd/system").mkdir(parents=True)  # its programs may be called
    made.write(layout.UDEV_CONTROL_SOCKET, "")
    made.write(f"{layout.DPKG_DIR}/status", "")  # as `installed` says
    (made.state / "installed").write_text("")
    (made.state / "elements").touch()
    for program in _PROGRAMS:
        (made.bin / program).write_text(_FAKE.format(state=made.state, root=made.root))
        (made.bin / program).chmod(0o755)
    # Names of this root: whoever runs the test is its root and its web page.
    made.write(layout.USER_TABLE, f"root:x:{os.getuid()}:{os.getgid()}::/:/bin/sh\ndevice:x:1000:1000::/:/bin/sh\n")
    made.write(layout.GROUP_TABLE, f"www-data:x:{os.getgid()}:\nroot:x:{os.getgid()}:\nvideo:x:44:nobody\n")
    release = made.root / "opt/rpi-cam-webmanager.releases/1.4.0"
    shutil.copytree(PACKAGING, release / "packaging")
    (release / "venv/bin").mkdir(parents=True)
    (release / "venv/bin/meetingctl").touch()
    programs = release / ".release/system/usr/local/bin"
    programs.mkdir(parents=True)
    (programs / "meetingctl").write_text("#!/bin/sh\n")
    (release / "VERSION").write_text("1.4.0\n")
    (release / "DEPENDENCIES.json").write_text('{"schema_version": 1, "apt_packages": ["ffmpeg", "rpicam-apps"]}')
    (made.root / "opt/rpi-cam-webmanager").symlink_to("rpi-cam-webmanager.releases/1.4.0")
    (made.state / "offered").write_text("ffmpeg\n")
    return made
