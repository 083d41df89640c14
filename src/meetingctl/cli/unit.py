"""The systemd unit of the server."""

from __future__ import annotations

import sys
from pathlib import Path

UNIT_PATH = Path("/etc/systemd/system/meetingctl.service")

_UNIT = """\
[Unit]
Description=meetingctl fleet server
Documentation=https://meetingctl.example/docs/operations
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
# 1: could not start (a port is taken), 78: the configuration is invalid. Trying again does not help.
RestartPreventExitStatus=1 78
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
