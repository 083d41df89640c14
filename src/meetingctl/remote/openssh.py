"""OpenSSH's own client, told to trust our pins and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.target import Target
from meetingctl.remote.hosts import name_host
from meetingctl.remote.session import KEEPALIVE_MISSES, KEEPALIVE_S, Login
from meetingctl.remote.ways import Route


def find_ssh() -> str:
    """Return the path of `ssh`. Raises: MeetingctlError when it is not installed."""
    path = shutil.which("ssh")
    if path is None:
        raise MeetingctlError("ssh is not installed on this machine", hint="apt install openssh-client")
    return path


def plan_ssh(
    target: Target, route: Route, *, login: Login, known_hosts: Path, command: Sequence[str] = ()
) -> list[str]:
    """Return the argv of an interactive session, or of one command, on a device whose host key is pinned."""
    options = [
        f"HostKeyAlias={name_host(target)}",
        f"UserKnownHostsFile={_quote_path(known_hosts)}",
        "GlobalKnownHostsFile=none",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        f"ServerAliveInterval={KEEPALIVE_S}",
        f"ServerAliveCountMax={KEEPALIVE_MISSES}",
    ]
    if route.way == "tunnel":
        # A shared connection is found by host and port, and a tunnel's port may belong to another device tomorrow.
        options.append("ControlPath=none")
    if login.identity:
        options += [f"IdentityFile={_quote_path(login.identity)}", "IdentitiesOnly=yes"]
    argv = ["ssh", *(word for option in options for word in ("-o", option))]
    argv += ["-p", str(route.port), "-l", login.user, "--", route.host]
    return [*argv, *command]


def _quote_path(path: Path) -> str:
    """Write a path as ssh_config(5) reads it: percent signs are doubled, blanks need quotes."""
    text = str(path).replace("%", "%%")
    return f'"{text}"' if " " in text else text
