"""The systemd unit of the server."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable
from pathlib import Path

UNIT_PATH = Path("/etc/systemd/system/meetingctl.service")

# What ProtectHome= and PrivateTmp= hide from the server.
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - nothing is written there

_UNIT = """\
[Unit]
Description=meetingctl fleet server
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={program} serve all
DynamicUser=yes
StateDirectory=meetingctl
StateDirectoryMode=0700
ConfigurationDirectory=meetingctl
EnvironmentFile=-/etc/meetingctl/server.env
Restart=on-failure
RestartSec=2
# 1: could not start (a port is taken), 2 and 78: options or configuration are invalid. Trying again does not help.
RestartPreventExitStatus=1 2 78
TimeoutStopSec=30
LimitNOFILE=65536
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def which_meetingctl() -> Path:
    """Return the program that this process was started as, or the one beside its interpreter."""
    started = Path(sys.argv[0])
    if started.name == "meetingctl" and started.is_file():
        return started.resolve()
    return Path(sys.executable).with_name("meetingctl")


def render_unit(program: Path) -> str:
    """Write the unit for a program path."""
    return _UNIT.format(program=program)


def program_files() -> list[Path]:
    """Return what the server needs to read: the program, its interpreter, its libraries and this package."""
    interpreter = Path(sys.executable)
    return [which_meetingctl(), interpreter, interpreter.resolve(), Path(sys.prefix), Path(__file__).resolve()]


def find_unreadable(paths: Iterable[Path]) -> str | None:
    """Say why the unit's user, who is nobody in particular, could not read a path; None when nothing is in the way."""
    for path in paths:
        for folder in _HIDDEN:
            if path.is_relative_to(folder):
                return f"{path} is below {folder}, which the unit hides from the server"
        for folder in reversed(path.parents):
            if not stat.S_IMODE(folder.stat().st_mode) & stat.S_IXOTH:
                return f"{path} is below {folder}, which only its owner may enter"
    return None
