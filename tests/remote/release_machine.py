"""A device with releases of ours, in a folder: the paths of the real one are moved there by stand-ins of its programs.

The program in a release is a stand-in too: it checks the package that it is given, changes the link, and does what the
files in the machine's state ask for. `apply_fails`: it ends with an error. `breaks`: the recorder fails with the new
version. `waits`: it works until that file is gone. `restarts`: the device restarts after it.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .machine import Machine

PREFIX = "opt/rpi-cam-webmanager"
PYTHON3 = r"""#!/bin/sh
case $2 in */far_update.py)
  sed -i -e 's#"/opt/#"@ROOT@/opt/#g' -e 's#"/proc/sys/kernel/random/boot_id"#"@STATE@/boot_id"#' "$3" ;;
esac
exec @PYTHON@ "$@"
"""
HEAD = r"""#!/bin/sh
case $3 in /opt/*) exec /usr/bin/head -n 1 "@ROOT@$3" ;; esac
exec /usr/bin/head "$@"
"""
CAT = r"""#!/bin/sh
case $1 in /run/meetingctl/*) exec /bin/cat "@ROOT@$1" ;; esac
exec @BIN@/cat.plain "$@"
"""
MKDIR = r"""#!/bin/sh
case $3 in */meetingctl/updates) exec /bin/mkdir -p "@STATE@/uploads" ;; esac
exec /bin/mkdir "$@"
"""
REALPATH = r"""#!/bin/sh
case $2 in */meetingctl/updates) echo "@STATE@/uploads" ;; *) exec /usr/bin/realpath "$@" ;; esac
"""
SYSTEMD_RUN = r"""#!/bin/sh
S=@STATE@
echo "systemd-run $*" >>$S/calls
job=
while [ "$1" != -- ]; do case $1 in --description=*) job=${1#--description=} ;; esac; shift; done
shift
rm -f $S/unit.code
echo "$job" >$S/unit.job
date +%s%N >$S/unit.invocation
program="@ROOT@$1"; shift
exec </dev/null >/dev/null 2>&1
( "$program" "$@" >>$S/unit.log 2>&1; echo $? >$S/unit.code.new; mv $S/unit.code.new $S/unit.code ) &
"""
SYSTEMCTL = r"""#!/bin/sh
S=@STATE@
case $* in *meetingctl-update.service*) ;; *) exec @BIN@/systemctl.plain "$@" ;; esac
case $1 in show) echo >>$S/polls ;; *) exit 0 ;; esac
if [ ! -e $S/unit.job ]; then sub=dead; active=inactive; code=0; result=success
elif [ ! -e $S/unit.code ]; then sub=running; active=active; code=0; result=success
elif [ "$(/bin/cat $S/unit.code)" = 0 ]; then sub=exited; active=active; code=0; result=success
else sub=failed; active=failed; code=$(/bin/cat $S/unit.code); result=exit-code; fi
case $* in *--value*) echo $sub; exit ;; esac
echo "Id=meetingctl-update.service"; echo "ActiveState=$active"; echo "SubState=$sub"; echo "Result=$result"
echo "ExecMainStatus=$code"
[ -e $S/unit.job ] || exit 0
echo "Description=$(/bin/cat $S/unit.job)"; echo "InvocationID=$(/bin/cat $S/unit.invocation)"
"""
PROGRAM = r"""#!@PYTHON@
import hashlib, json, os, shutil, sys, time
from pathlib import Path
root, state = Path("@ROOT@"), Path("@STATE@")
web, releases = root / "opt/rpi-cam-webmanager", root / "opt/rpi-cam-webmanager.releases"
def status(name, progress, message):
    path = root / "run/meetingctl/update-status.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps({"state": name, "progress": progress, "message": message}))
    path.with_suffix(".new").replace(path)
def point(name):
    link = web.with_name(".new")
    link.unlink(missing_ok=True)
    link.symlink_to(f"{releases.name}/{name}")
    link.replace(web)
def main(verb, *words):
    recorder = state / "rtsp-recorder.active"
    if verb == "rollback":
        point((state / "former").read_text())
        recorder.write_text("active\n")
        return status("success", 100, "returned")
    folder = root / words[0].lstrip("/")
    status("applying", 50, "building")
    manifest = json.loads((folder / "update_manifest.json").read_text())
    for item in manifest["files"]:
        content = (folder / "payload" / item["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == item["sha256"], item["path"]
    while (state / "waits").exists():
        time.sleep(0.05)
    if (state / "apply_fails").exists():
        status("error", 0, "health check failed; the former version runs again")
        sys.exit(1)
    new = releases / manifest["version"]
    shutil.copytree(folder / "payload/opt/rpi-cam-webmanager", new)
    shutil.copytree(folder / "payload/usr", new / ".release/system/usr")
    shutil.copytree(web.resolve() / "venv", new / "venv")
    (state / "former").write_text(web.resolve().name)
    point(new.name)
    if (state / "breaks").exists():
        recorder.write_text("failed\n")
    if (state / "restarts").exists():
        (state / "restarts").unlink()
        (state / "boot_id").write_text("boot-2\n")
        return status("rebooting", 100, "restarting")
    status("success", 100, "applied")
(state / "program_calls").open("a").write(" ".join(sys.argv[1:]) + "\n")
main(*sys.argv[3:])
"""


@dataclass
class ReleaseMachine:
    """`machine` with a first release, below `root`."""

    machine: Machine
    root: Path

    @property
    def web(self) -> Path:
        return self.root / PREFIX

    @property
    def releases(self) -> Path:
        return self.root / f"{PREFIX}.releases"

    @property
    def staging(self) -> Path:
        return self.root / f"{PREFIX}.staging"

    @property
    def uploads(self) -> Path:
        return self.machine.state / "uploads"

    @property
    def version(self) -> str:
        return (self.web / "VERSION").read_text().strip()

    @property
    def program_calls(self) -> list[str]:
        path = self.machine.state / "program_calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def polls(self) -> int:
        """How often somebody has looked at the unit of the update."""
        return (self.machine.state / "polls").stat().st_size

    def install(self, version: str) -> None:
        """Put the stand-ins in place, and a release that runs."""
        plain = self.machine.bin
        for name in ("cat", "systemctl"):
            (plain / name).rename(plain / f"{name}.plain")
        programs = {
            "python3": PYTHON3,
            "head": HEAD,
            "cat": CAT,
            "systemd-run": SYSTEMD_RUN,
            "systemctl": SYSTEMCTL,
            "mkdir": MKDIR,
            "realpath": REALPATH,
        }
        for name, text in programs.items():
            self._write(plain / name, text)
        folder = self.releases / version
        for name, (content, mode) in package_files(version).items():
            inside = name.removeprefix(f"{PREFIX}/") if name.startswith(PREFIX) else f".release/system/{name}"
            path = folder / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)
        (folder / "venv/bin").mkdir(parents=True)
        self._write(folder / "venv/bin/meetingctl", PROGRAM)
        self.web.symlink_to(f"{self.releases.name}/{version}")
        self.machine.unit("rtsp-recorder")

    def _write(self, path: Path, text: str) -> None:
        for name, value in {
            "ROOT": self.root,
            "STATE": self.machine.state,
            "BIN": self.machine.bin,
            "PYTHON": sys.executable,
        }.items():
            text = text.replace(f"@{name}@", str(value))
        path.write_text(text)
        path.chmod(0o755)


def package_files(version: str, *, extra_bytes: int = 0) -> dict[str, tuple[bytes, int]]:
    """Return the files of a package: three that change with the version, one large and one program that do not."""
    files = {
        f"{PREFIX}/VERSION": (f"{version}\n".encode(), 0o644),
        f"{PREFIX}/requirements.txt": (f"meetingctl=={version}\n".encode(), 0o644),
        f"{PREFIX}/DEPENDENCIES.json": (b'{"schema_version": 1, "apt_packages": []}', 0o644),
        f"{PREFIX}/wheels/meetingctl-{version}-py3-none-any.whl": (version.encode() * 1000, 0o644),
        f"{PREFIX}/wheels/large-1.0-py3-none-any.whl": (bytes(range(256)) * 4096, 0o644),
        "usr/local/bin/meetingctl": (b'#!/bin/sh\nexec true "$@"\n', 0o755),
    }
    if extra_bytes:
        content = hashlib.shake_256(version.encode()).digest(extra_bytes)
        files[f"{PREFIX}/wheels/new-1.0-py3-none-any.whl"] = (content, 0o644)
    return files


def write_package(folder: Path, version: str, *, extra_bytes: int = 0) -> Path:
    """Write a package file."""
    files = package_files(version, extra_bytes=extra_bytes)
    listed = [
        {"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, (content, _) in files.items()
    ]
    manifest = json.dumps({"schema_version": 1, "version": version, "files": listed}).encode()
    path = folder / f"rpi-cam-update_{version}_20261121_090000.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        members = {"update_manifest.json": (manifest, 0o644)}
        members |= {f"payload/{name}": item for name, item in files.items()}
        for name, (content, mode) in members.items():
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(content), mode
            archive.addfile(header, io.BytesIO(content))
    return path
