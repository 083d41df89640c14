"""The programs of a device's system that a test cannot have: small stand-ins on the search path of its SSH server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SYSTEMCTL = r"""#!/bin/sh
S=@STATE@
echo "$*" >>$S/calls
verb=$1
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
[ $# -gt 0 ] && shift
case $verb in
show)
  for unit; do
    name=${unit%.service}
    echo Id=$unit
    if [ -e $S/$name.active ]; then
      echo LoadState=loaded; echo "ActiveState=$(cat $S/$name.active)"; echo "UnitFileState=$(cat $S/$name.enabled)"
    else
      echo LoadState=not-found; echo ActiveState=inactive; echo UnitFileState=
    fi
    [ ! -e $S/$name.result ] || echo "Result=$(cat $S/$name.result)"
    echo SubState=some; echo NRestarts=3; echo
  done ;;
start|restart)
  for unit; do
    name=${unit%.service}
    [ -e $S/$name.broken ] && { echo "Job for $unit failed." >&2; echo failed >$S/$name.active; exit 1; }
    [ -e $S/$name.dies ] && { echo failed >$S/$name.active; continue; }
    echo active >$S/$name.active
  done ;;
stop) for unit; do echo inactive >$S/${unit%.service}.active; done ;;
enable|disable) for unit; do echo ${verb}d >$S/${unit%.service}.enabled; done ;;
reboot) echo boot-2 >$S/boot_id ;;
poweroff) touch $S/off ;;
esac
"""
CAT = r"""#!/bin/sh
case $1 in
/proc/sys/kernel/random/boot_id) exec /bin/cat @STATE@/boot_id ;;
/etc/rpi-cam/config.env) exec /bin/cat @STATE@/config.env ;;
/etc/rpi-cam/onvif.conf) exec /bin/cat @STATE@/onvif.conf ;;
/run/rpi-cam/recorder.json) exec /bin/cat @STATE@/recorder.json ;;
esac
exec /bin/cat "$@"
"""
ID = r"""#!/bin/sh
if [ "$1" = -u ] && [ -e @STATE@/is_user ] && [ -z "$IS_ROOT" ]; then echo 1000; exit; fi
[ "$1" = -u ] && { echo 0; exit; }
exec /usr/bin/id "$@"
"""
SUDO = r"""#!/bin/sh
S=@STATE@
echo "sudo $1" >>$S/calls
[ -e $S/sudo_refuses ] && { echo "sudo: a password is required" >&2; exit 1; }
if [ "$1" = -S ]; then
  read -r given
  [ "$given" = "$(cat $S/password)" ] || { echo "sudo: 1 incorrect password attempt" >&2; exit 1; }
fi
while [ "$1" != -- ] && [ "$1" != true ]; do shift; done
[ "$1" = -- ] && shift
IS_ROOT=1 exec "$@"
"""
JOURNALCTL = r"""#!/bin/sh
S=@STATE@
echo "journalctl $*" >>$S/calls
case " $* " in *" --follow "*) trap 'echo ended >$S/journal_ended; exit 0' TERM HUP PIPE ;; esac
echo "2026-11-20T10:00:00+0000 cam rtsp[1]: password=hunter22 for $*"
case " $* " in *" --follow "*)
  while :; do sleep 0.1; done ;;
esac
"""
MKTEMP = r"""#!/bin/sh
made=$(/usr/bin/mktemp "$@") || exit
echo "staged $made" >>@STATE@/calls
echo "$made"
"""


@dataclass
class Machine:
    """Its folders: `bin` comes first on the search path, `state` holds what the stand-ins know."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def install(self) -> None:
        self.bin.mkdir(parents=True)
        self.state.mkdir()
        programs = {
            "systemctl": SYSTEMCTL,
            "cat": CAT,
            "id": ID,
            "sudo": SUDO,
            "journalctl": JOURNALCTL,
            "mktemp": MKTEMP,
        }
        for name, text in programs.items():
            path = self.bin / name
            path.write_text(text.replace("@STATE@", str(self.state)))
            path.chmod(0o755)
        self.note("boot_id", "boot-1")
        self.note("calls", "")

    def note(self, name: str, text: str = "") -> None:
        (self.state / name).write_text(f"{text}\n" if text else "")

    def forget(self, name: str) -> None:
        (self.state / name).unlink()

    def has(self, name: str) -> bool:
        return (self.state / name).exists()

    def program(self, name: str, text: str) -> None:
        """Put another stand-in on the search path."""
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def unit(self, name: str, active: str = "active", enabled: str = "enabled") -> None:
        self.note(f"{name}.active", active)
        self.note(f"{name}.enabled", enabled)

    def read_unit(self, name: str) -> tuple[str, str]:
        return tuple((self.state / f"{name}.{what}").read_text().strip() for what in ("active", "enabled"))

    @property
    def calls(self) -> list[str]:
        return (self.state / "calls").read_text().splitlines()

    @property
    def changes(self) -> list[str]:
        """The calls that are no questions."""
        quiet = ("show", "--failed", "reset-failed", "journalctl", "sudo", "staged")
        return [call for call in self.calls if not call.startswith(quiet)]


def reports_of(stdout: str | bytes) -> list[dict]:
    """Read what a command wrote in JSON."""
    return json.loads(stdout)
