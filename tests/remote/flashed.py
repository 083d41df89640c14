"""A freshly flashed machine for `remote install`: OpenSSH's server into a copy of this system's files that nobody else
sees, with stand-ins for what only a booted system has (systemd, its journal, the clock, the restart).

Everything that is written there lies in a file system of memory, in a mount namespace of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from e2e.world import Sshd

# Runs in the new namespace: $1 is the folder for it. Every path below /fake is a stand-in or what it knows.
PREPARE = r"""
set -e
mount --make-rprivate /
mount -t tmpfs fresh "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay fresh -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
cd "$1/root"
mount --rbind /dev dev
mount -t proc proc proc
rm -rf etc/rpi-cam opt/rpi-cam-webmanager opt/rpi-cam-webmanager.releases usr/local/bin/meetingctl run/meetingctl
mkdir -p fake/bin run/meetingctl var/tmp tmp root
rm -rf root/.cache
printf '127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi raspberrypi.local\n' >etc/hosts
echo ready
exec sleep 600
"""
STAND_INS = {
    "uname": '[ "$1" = -n ] && exec cat /fake/hostname; exec /usr/bin/uname "$@"',
    "hostnamectl": 'echo "hostnamectl $*" >>/fake/calls; echo "$3" >/fake/hostname',
    "timedatectl": r"""
case $1 in
show) echo "Timezone=$(cat /fake/zone)"; echo CanNTP=yes; echo "NTP=$(cat /fake/ntp)" ;;
set-timezone) echo "timedatectl $*" >>/fake/calls; echo "$3" >/fake/zone ;;
set-ntp) echo "timedatectl $*" >>/fake/calls; echo yes >/fake/ntp ;;
esac""",
    "cat": '[ "$1" = /proc/sys/kernel/random/boot_id ] && exec /bin/cat /fake/boot_id; exec /bin/cat "$@"',
    "systemctl": r"""
F=/fake/run
verb=$1
for last; do :; done
case $verb in
is-enabled) grep -qx yes /fake/ntp && echo enabled || echo disabled ;;
--version) echo "systemd 257" ;;
show)
  case "$*" in *=InvocationID*--value*) cat $F/id 2>/dev/null; exit ;; esac
  if [ "$last" = meetingctl-install.service ]; then
    active=inactive sub=dead result=success code=0
    if [ -e $F/code ]; then
      code=$(cat $F/code)
      active=active sub=exited
      [ "$code" = 0 ] || { active=failed sub=failed result=exit-code; }
    elif [ -e $F/id ]; then active=active sub=running
    fi
    case "$*" in *--value*) echo $sub; exit ;; esac
    echo "Id=$last"; echo "ActiveState=$active"; echo "SubState=$sub"; echo "Result=$result"
    echo "ExecMainStatus=$code"; echo "InvocationID=$(cat $F/id 2>/dev/null)"
    echo "Description=$(cat $F/stage 2>/dev/null)"
  else
    while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
    shift
    for unit; do
      echo "Id=$unit"
      if [ -e /fake/has-units ]; then
        echo LoadState=loaded; echo ActiveState=active; echo UnitFileState=enabled
      else
        echo LoadState=not-found; echo ActiveState=inactive; echo UnitFileState=
      fi
      echo
    done
  fi ;;
stop|reset-failed) [ "$last" = meetingctl-install.service ] && rm -rf $F; exit 0 ;;
reboot) echo reboot >>/fake/calls; rm -rf $F /run/meetingctl; echo boot-2 >/fake/boot_id ;;
esac""",
    "systemd-run": r"""
echo "systemd-run $*" >>/fake/calls
F=/fake/run
mkdir -p $F /run/systemd/transient; : >$F/journal
: >/run/systemd/transient/meetingctl-install.service
for word; do case $word in --description=*) echo "${word#*=}" >$F/stage ;; esac; done
while [ "$1" != -- ]; do shift; done
shift
echo "run-$(date +%N)" >$F/id
keep='"$@" >>$F/journal 2>&1; echo $? >$F/code.new; mv $F/code.new $F/code'
F=$F setsid sh -c "$keep" sh "$@" </dev/null >/dev/null 2>&1 &
""",
    "journalctl": r"""
from=0
for word; do case $word in --after-cursor=*) from=${word#*=} ;; esac; done
tail -n +$((from + 1)) /fake/run/journal
echo "-- cursor: $(wc -l </fake/run/journal)"
""",
    "dpkg": "echo amd64",
}
# What the package brings for its own installation, in the place of the real one, which takes longer.
APPLY = '''
import os, pathlib, subprocess, sys, time
assert sys.argv[1] == "apply" and sys.argv[3] == "--no-reboot" and ".whl" in __file__, (sys.argv, __file__)
status = pathlib.Path("/run/meetingctl/update-status.json")
status.write_text('{"state": "applying", "message": "Applying", "progress": 50}')
print("unpacking", pathlib.Path(sys.argv[2]).stat().st_size, flush=True)
subprocess.run(["/bin/sh", "/fake/while-applying"], check=True)
opt = pathlib.Path("/opt/rpi-cam-webmanager")
opt.mkdir(parents=True)
(opt / "VERSION").write_text("VERSION_TEXT\\n")
program = pathlib.Path("/usr/local/bin/meetingctl")
program.write_text("""#!/bin/sh
echo "meetingctl $*" >>/fake/calls
case "$*" in *--repair*) touch /fake/has-units; echo repaired ;; esac
[ -e /fake/has-units ]
""")
program.chmod(0o755)
'''


def make_package(folder: Path, version: str = "1.2.3", *, filler_bytes: int = 0) -> Path:
    """Write a package whose wheel installs next to nothing."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("meetingctl", "meetingctl/device", "meetingctl/device/update"):
            archive.writestr(f"{name}/__init__.py", "")
        archive.writestr("meetingctl/device/update/__main__.py", APPLY.replace("VERSION_TEXT", version))
    top = "opt/rpi-cam-webmanager"
    files = {
        f"{top}/VERSION": f"{version}\n".encode(),
        f"{top}/DEPENDENCIES.json": b'{"schema_version": 1, "apt_packages": []}',
        f"{top}/requirements.txt": b"",
        f"{top}/wheels/meetingctl-{version}-py3-none-any.whl": wheel.getvalue(),
        f"{top}/filler": os.urandom(filler_bytes),
    }
    listed = [{"path": name, "size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in files.items()]
    manifest = {"schema_version": "1", "version": version, "files": listed}
    path = folder / f"rpi-cam-update_{version}_20261121_090000.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        members = {"update_manifest.json": json.dumps(manifest).encode()}
        for name, content in (members | {f"payload/{name}": content for name, content in files.items()}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@dataclass
class Flashed:
    """The machine: its SSH server, and the process that keeps its files."""

    folder: Path
    sshd: Sshd
    keeper: subprocess.Popen[str] | None = None

    @classmethod
    def start(cls, folder: Path) -> Flashed:
        disk = folder / "disk"
        disk.mkdir(parents=True)
        keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", PREPARE, "sh", str(disk)], stdout=subprocess.PIPE, text=True
        )
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        machine = cls(folder, Sshd(folder / "sshd"), keeper)
        for name, text in STAND_INS.items():
            machine.write(f"/fake/bin/{name}", f"#!/bin/sh\n{text.strip()}\n", mode=0o755)
        plain = {"hostname": "raspberrypi", "zone": "Etc/UTC", "ntp": "no", "boot_id": "boot-1", "calls": ""}
        for name, text in plain.items():
            machine.write(f"/fake/{name}", f"{text}\n" if text else "")
        machine.write("/fake/while-applying", "exit 0\n")
        machine._serve()
        return machine

    @property
    def root(self) -> str:
        assert self.keeper is not None
        return f"/proc/{self.keeper.pid}/root{self.folder}/disk/root"

    @property
    def target(self) -> str:
        return f"root@127.0.0.1:{self.sshd.port}"

    def path(self, name: str) -> Path:
        return Path(f"{self.root}{name}")

    def write(self, name: str, text: str, *, mode: int = 0o644) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)
        self.path(name).chmod(mode)

    def read(self, name: str) -> str:
        return self.path(name).read_text()

    def mount_tmp(self, options: str) -> None:
        """Give the machine another /tmp, in memory."""
        assert self.keeper is not None
        inside = ["nsenter", "--mount", "--target", str(self.keeper.pid)]
        mount = ["mount", "-t", "tmpfs", "-o", options, "fresh", f"{self.folder}/disk/root/tmp"]
        subprocess.run([*inside, *mount], check=True)

    @property
    def calls(self) -> list[str]:
        return self.read("/fake/calls").splitlines()

    def _serve(self) -> None:
        """Let every session, SFTP too, begin in the machine's own files."""
        assert self.keeper is not None
        enter = self.folder / "enter"
        enter.write_text(
            "#!/bin/sh\n"
            f"exec nsenter --mount --target {self.keeper.pid} chroot {self.folder}/disk/root /usr/bin/env "
            'HOME=/root PATH=/fake/bin:/usr/bin:/bin:/usr/sbin:/sbin sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        enter.chmod(0o755)
        config = self.folder / "sshd/sshd_config"
        text = config.read_text().replace("Subsystem sftp internal-sftp", "Subsystem sftp /usr/lib/openssh/sftp-server")
        config.write_text(f"{text}ForceCommand {enter}\n")
        self.sshd.start()

    def cut(self) -> None:
        """Take the link away: the connections end, what was started there goes on, and nobody is let in."""
        assert self.sshd.daemon.process is not None
        pid = self.sshd.daemon.process.pid
        connections = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.sshd.daemon.stop()
        for connection in connections:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(connection), signal.SIGKILL)

    def mend(self) -> None:
        self.sshd.start()

    def close(self) -> None:
        if self.sshd.daemon.is_running:
            self.sshd.daemon.stop()
        if self.keeper is not None:
            self.keeper.kill()
            self.keeper.communicate()
