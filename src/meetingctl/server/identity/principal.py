"""Principals and roles: values and pure rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal


class Role(IntEnum):
    """People's roles, each including the ones below; NONE is nobody in particular."""

    NONE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


# What a key may be limited to. Names of the original's clients.
PERMISSIONS = ("admin:full", "updates:publish", "updates:view", "fleet:view", "fleet:manage", "channels:edit")

ANY = "any"  # asks for no permission in particular
_INCLUDED = {
    "fleet:view": frozenset({"fleet:manage"}),
    "updates:view": frozenset({"updates:publish", "channels:edit"}),
}
# What a route asks of a scoped key when it names nothing narrower.
_OF_ROLE = {Role.NONE: ANY, Role.VIEWER: "fleet:view", Role.OPERATOR: "fleet:manage", Role.ADMIN: "admin:full"}

# What an account may be. `user` is the default, the builder user of the original: builds and publishes, no more.
USER_ROLES = ("admin", "operator", "viewer", "user")
_OF_BUILDER = frozenset({"updates:publish", "updates:view", "channels:edit"})

# What an API key may be: a person's role, or one of two services that see only what they need.
KEY_ROLES = ("viewer", "operator", "admin", "proxy", "sshd")
Service = Literal["proxy", "sshd"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    `kind` is `key`, `user` (a person, by a login or by the token of the account), `device`, `local` (a program on this
    machine), `open` (mode legacy-open) or `anonymous`.

    `name` is what audit records and logs show; `device_key` is set for devices only, `service` for service keys only,
    `user_id` for users, and `session` for those who logged in.
    """

    kind: Literal["key", "user", "device", "local", "open", "anonymous"]
    name: str
    role: Role = Role.NONE
    service: Service | None = None
    device_key: str | None = None
    key_id: str | None = None
    expires_at_ms: int | None = None
    permissions: frozenset[str] | None = None  # None: all that the role has
    device_types: frozenset[str] | None = None  # None: every type
    tags: frozenset[str] | None = None  # None: every tag
    user_id: int | None = None
    user_role: str | None = None  # of a person, as the accounts name it
    session: str | None = None

    def may(self, permission: str) -> bool:
        """Say whether a scoped key holds a permission, or one that includes it; an unscoped one those of its role."""
        held = self.permissions
        if held is None or permission == ANY or "admin:full" in held:
            return True
        return permission in held or not held.isdisjoint(_INCLUDED.get(permission, frozenset()))

    @property
    def is_limited(self) -> bool:
        """Say whether the caller may touch only some devices."""
        return self.device_types is not None or self.tags is not None

    def covers(self, device_type: str | None, tags: Collection[str]) -> bool:
        """Say whether a device of this type with these tags is one that the caller may touch."""
        if self.device_types is not None and device_type not in self.device_types:
            return False
        return self.tags is None or not self.tags.isdisjoint(tags)

    @property
    def is_full_admin(self) -> bool:
        """Whether nothing is out of reach."""
        return self.has_role(Role.ADMIN) and not self.is_limited

    def has_role(self, role: Role) -> bool:
        """Say whether a person's role is at least `role`; a scoped key is no administrator without `admin:full`."""
        return self.role >= role and (role < Role.ADMIN or self.may("admin:full"))

    def is_device(self, device_key: str) -> bool:
        """Say whether the caller is that very device."""
        return self.kind == "device" and self.device_key == device_key

    def may_see_secrets(self, device_key: str) -> bool:
        """Say whether secrets of a device may be shown: to administrators, and to the device about itself."""
        return self.has_role(Role.ADMIN) or self.is_device(device_key)

    @property
    def role_text(self) -> str:
        """The role as the API writes it."""
        return self.user_role or self.service or ("device" if self.kind == "device" else self.role.name.lower())


ANONYMOUS = Principal("anonymous", "anonymous")
LOCAL = Principal("local", "loopback")
OPEN = Principal("open", "anonymous (legacy-open)", Role.ADMIN)


def permission_of(role: Role) -> str:
    """Return what a route for this role asks of a scoped key when it names nothing narrower."""
    return _OF_ROLE[role]


def principal_of_key(
    public_id: str,
    name: str,
    role: str,
    expires_at_ms: int | None,
    *,
    permissions: Iterable[str] | None = None,
    device_types: Iterable[str] | None = None,
    tags: Iterable[str] | None = None,
) -> Principal:
    """Make the principal of an API key from its row."""
    service: Service | None = "proxy" if role == "proxy" else "sshd" if role == "sshd" else None
    level = Role.NONE if service else Role[role.upper()]
    return Principal(
        "key",
        f"key:{name}",
        level,
        service,
        key_id=public_id,
        expires_at_ms=expires_at_ms,
        permissions=_set_of(permissions),
        device_types=_set_of(device_types),
        tags=_set_of(tags),
    )


def _set_of(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def principal_of_user(
    user: Any,  # a row of `users`
    *,
    key_id: str | None = None,
    session: str | None = None,
    expires_at_ms: int | None = None,
) -> Principal:
    """Make the principal of a person from the row of the account."""
    is_builder = user["role"] == "user"
    return Principal(
        "user",
        f"user:{user['username']}",
        Role.OPERATOR if is_builder else Role[user["role"].upper()],
        key_id=key_id,
        expires_at_ms=expires_at_ms,
        permissions=_OF_BUILDER if is_builder else None,
        user_id=user["id"],
        user_role=user["role"],
        session=session,
    )
