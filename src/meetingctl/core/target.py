"""What an operator may write where a command says TARGET.

cam-7                    a device, by key or name
pi@10.0.0.7[:2222]       an address, without the registry (`pi@[fd00::7]:22` for IPv6)
tag:lobby                every device with the tag
@site-a                  every device of the group
--all                    every device of the fleet
-                        targets from standard input, one a line
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meetingctl.core.errors import InvalidInput
from meetingctl.core.ids import NAME_PATTERN, is_device_key
from meetingctl.core.net import parse_endpoint

_LABEL = re.compile(NAME_PATTERN[1:-1])
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")


@dataclass(frozen=True, slots=True)
class DeviceTarget:
    """One device of the registry, by key or name."""

    key: str

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class AddressTarget:
    """One address, reached without the registry. `port` is the SSH port."""

    user: str
    host: str
    port: int = 22

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != 22 else "")


@dataclass(frozen=True, slots=True)
class TagTarget:
    """Every device that carries a tag."""

    tag: str

    def __str__(self) -> str:
        return f"tag:{self.tag}"


@dataclass(frozen=True, slots=True)
class GroupTarget:
    """Every device of a named group."""

    group: str

    def __str__(self) -> str:
        return f"@{self.group}"


@dataclass(frozen=True, slots=True)
class AllTarget:
    """The whole fleet."""

    def __str__(self) -> str:
        return "--all"


@dataclass(frozen=True, slots=True)
class StdinTarget:
    """Targets on standard input, one a line."""

    def __str__(self) -> str:
        return "-"


Target = DeviceTarget | AddressTarget | TagTarget | GroupTarget | AllTarget | StdinTarget


def parse_target(text: str) -> Target:
    """Read one TARGET. `str()` of the result gives the text back. Raises: InvalidInput."""
    if text == "--all":
        return AllTarget()
    if text == "-":
        return StdinTarget()
    if text.startswith("tag:") and _LABEL.fullmatch(text[4:]):
        return TagTarget(text[4:])
    if text.startswith("@") and _LABEL.fullmatch(text[1:]):
        return GroupTarget(text[1:])
    user, at, endpoint = text.rpartition("@")
    if at and _USER.fullmatch(user):
        host, port = parse_endpoint(endpoint, default_port=22)
        if port:
            return AddressTarget(user, host, port)
    if is_device_key(text):
        return DeviceTarget(text)
    raise InvalidInput(
        f"not a target: {text[:140]!r}",
        hint="use a device key or user@host[:port], for example cam-7 or pi@192.0.2.7:2222",
    )
