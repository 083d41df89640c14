"""Principals and roles: values and pure rules."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


class Role(IntEnum):
    """People's roles, each including the ones below; NONE is nobody in particular."""

    NONE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


# What a key may be limited to. Names of the original's clients.
PERMISSIONS = ("admin:full", "updates:publish", "updates:view", "fleet:view", "fleet:manage", "channels:edit")

# What an API key may be: a person's role, or one of two services that see only what they need.
KEY_ROLES = ("viewer", "operator", "admin", "proxy", "sshd")
Service = Literal["proxy", "sshd"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    `kind` is `key`, `device`, `local` (a program on this machine), `open` (mode legacy-open) or `anonymous`.

    `name` is what audit records and logs show; `device_key` is set for devices only, `service` for service keys only.
    """

    kind: Literal["key", "device", "local", "open", "anonymous"]
    name: str
    role: Role = Role.NONE
    service: Service | None = None
    device_key: str | None = None
    key_id: str | None = None
    expires_at_ms: int | None = None
    permissions: frozenset[str] | None = None  # None: all that the role has
    device_types: frozenset[str] | None = None  # None: every type
    tags: frozenset[str] | None = None  # None: every tag

    def may(self, permission: str) -> bool:
        """Say whether a scoped key holds a permission; an unscoped one holds those of its role."""
        return self.permissions is None or permission in self.permissions or "admin:full" in self.permissions

    def has_role(self, role: Role) -> bool:
        """Say whether a person's role is at least `role`."""
        return self.role >= role

    def is_device(self, device_key: str) -> bool:
        """Say whether the caller is that very device."""
        return self.kind == "device" and self.device_key == device_key

    def may_see_secrets(self, device_key: str) -> bool:
        """Say whether secrets of a device may be shown: to administrators, and to the device about itself."""
        return self.role >= Role.ADMIN or self.is_device(device_key)

    @property
    def role_text(self) -> str:
        """The role as the API writes it."""
        return self.service or ("device" if self.kind == "device" else self.role.name.lower())


ANONYMOUS = Principal("anonymous", "anonymous")
LOCAL = Principal("local", "loopback")
OPEN = Principal("open", "anonymous (legacy-open)", Role.ADMIN)


def principal_of_key(public_id: str, name: str, role: str, expires_at_ms: int | None) -> Principal:
    """Make the principal of an API key from its row."""
    service: Service | None = "proxy" if role == "proxy" else "sshd" if role == "sshd" else None
    level = Role.NONE if service else Role[role.upper()]
    return Principal("key", f"key:{name}", level, service, key_id=public_id, expires_at_ms=expires_at_ms)
