"""The texts that make a device one of the fleet: meeting.json, the keys of config.env, its name in /etc/hosts. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meetingctl.core.errors import InvalidInput, MeetingctlError
from meetingctl.core.secret import Secret

HEARTBEAT_S = 60
MASKED_TOKEN = "********"  # noqa: S105 - what stands for the code where others may read
OWN_ADDRESS = "127.0.1.1"
_HOST_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Membership:
    """What a device has to know to belong to a fleet."""

    device_key: str
    token: Secret
    api_url: str
    tunnel_host: str
    tunnel_port: int


@dataclass(frozen=True, slots=True)
class EnvSyntax:
    """How config.env is read and changed: text -> values, and text with changes -> text that keeps all the rest."""

    read: Callable[[str], Mapping[str, str]]
    merge: Callable[[str, Mapping[str, str]], str]


def host_name_of(device_key: str) -> str:
    """Return the host name of a device: its key as a host name may be. Raises: InvalidInput when nothing is left."""
    name = re.sub(r"[^a-z0-9-]+", "-", device_key.lower()).strip("-")[:63].rstrip("-")
    if not name:
        raise InvalidInput(f"no host name can be made of {device_key!r}", hint="give one with --hostname NAME")
    return name


def check_host_name(name: str) -> str:
    """Return a host name that was given. Raises: InvalidInput."""
    if not _HOST_NAME.fullmatch(name):
        raise InvalidInput(
            f"not a host name: {name[:80]!r}", hint="1 to 63 lower-case letters, digits and dashes, as in cam-7"
        )
    return name


def read_meeting(text: str | None) -> Mapping[str, Any]:
    """Read meeting.json; none, or a broken one, is empty."""
    try:
        document = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, Mapping) else {}


def is_provisioned(text: str | None, member: Membership) -> bool:
    """Say whether meeting.json holds this membership, and a token was consumed for it."""
    document = read_meeting(text)
    same = document.get("device_key") == member.device_key and document.get("token_code") == _code(document, member)
    return same and document.get("provisioned") is True


def write_meeting(text: str | None, member: Membership, *, provisioned: bool) -> str:
    """Return meeting.json with this membership; keys that are not ours stay, and so does a heartbeat that was set."""
    document = dict(read_meeting(text))
    code = _code(document, member)
    if not code:
        raise MeetingctlError("the device has no token code", hint="give it with --token-file FILE or --token-stdin")
    changed = {
        "enabled": True,
        "api_url": member.api_url,
        "device_key": member.device_key,
        "token_code": code,
        "heartbeat_interval": document.get("heartbeat_interval", HEARTBEAT_S),
        "auto_connect": document.get("auto_connect", True),
        "provisioned": provisioned,
        "tunnel_host": member.tunnel_host,
        "tunnel_port": member.tunnel_port,
        "tunnel_ssl": False,
    }
    if all(document.get(key) == value for key, value in changed.items()) and text:
        return text
    return json.dumps({**document, **changed}, indent=2, ensure_ascii=False) + "\n"


def write_config(text: str, member: Membership, syntax: EnvSyntax, *, provisioned: bool) -> str:
    """Return config.env with the keys of this membership; a device that never was told so records."""
    values = syntax.read(text)
    changes = {
        "MEETING_ENABLED": "yes",
        "MEETING_API_URL": member.api_url,
        "MEETING_DEVICE_KEY": member.device_key,
        "MEETING_TOKEN_CODE": MASKED_TOKEN,
        "MEETING_PROVISIONED": "yes" if provisioned else "no",
    }
    if "RECORD_ENABLE" not in values:
        changes["RECORD_ENABLE"] = "yes"
    if all(values.get(key) == value for key, value in changes.items()):
        return text
    return syntax.merge(text, changes)


def write_hosts(text: str, name: str) -> str:
    """Return /etc/hosts with the name of this machine; every other line stays byte for byte."""
    lines = text.splitlines(keepends=True)
    own = [number for number, line in enumerate(lines) if line.split("#")[0].split()[:1] == [OWN_ADDRESS]]
    if any(name in lines[number].split("#")[0].split()[1:2] for number in own):
        return text
    written = f"{OWN_ADDRESS}\t{name}\n"
    if own:
        lines[own[0]] = written
        return "".join(line for number, line in enumerate(lines) if number not in own[1:])
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines, written])


def _code(document: Mapping[str, Any], member: Membership) -> Any:
    """Return the code that was given, else the one that is there for the same key."""
    if member.token:
        return member.token.reveal()
    return document.get("token_code") if document.get("device_key") == member.device_key else None
