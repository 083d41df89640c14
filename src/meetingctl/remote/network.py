"""Network profiles of a device: read them, and set wrong ones back to DHCP without cutting the branch that one sits on.

A change is made for the time being only: a timer on the device brings the former profiles back unless somebody who got
in again confirms it, and so does a restart.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meetingctl.core.errors import Busy, MeetingctlError
from meetingctl.core.plan import Step
from meetingctl.remote.visit import Privilege, Visit

FOLDER = "/run/meetingctl-network"
REVERT_UNIT = "meetingctl-network-revert"
CHANGE_UNIT = "meetingctl-network-change"
_BUSY_CODE = 75
# The answer has to leave the device before its address changes.
_LEAVE_S = 1
_SETTLE_S = 30
_FIELDS = {
    "connection.id": "name",
    "connection.uuid": "uuid",
    "connection.type": "type",
    "connection.interface-name": "interface",
    "connection.autoconnect": "autoconnect",
    "ipv4.method": "method",
    "ipv4.addresses": "addresses",
    "ipv4.gateway": "gateway",
    "ipv4.dns": "dns",
    "GENERAL.DEVICES": "device",
}
_TYPES = {"802-3-ethernet": "ethernet", "802-11-wireless": "wifi"}
_UUID = re.compile(r"[0-9a-fA-F-]{36}")
# An access point, and a profile that was switched off, are meant so.
_DELIBERATE = frozenset({"shared", "disabled", "link-local"})


@dataclass(frozen=True, slots=True)
class Profile:
    """A connection of NetworkManager; `device` is empty while it is not in use, `interface` where any would do."""

    name: str
    uuid: str
    type: str = ""
    interface: str = ""
    autoconnect: str = "yes"
    method: str = "auto"
    addresses: str = ""
    gateway: str = ""
    dns: str = ""
    device: str = ""

    @property
    def place(self) -> str:
        return self.device or self.interface

    @property
    def is_static(self) -> bool:
        """Say whether something of the address is fixed."""
        return self.method not in {"auto", *_DELIBERATE} or (
            self.method == "auto" and bool(self.addresses or self.gateway or self.dns)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the profile as the commands show it."""
        return {
            "name": self.name,
            "type": self.type,
            "interface": self.interface or None,
            "device": self.device or None,
            "autoconnect": self.autoconnect == "yes",
            "method": self.method,
            "addresses": [part for part in re.split(r"[,\s]+", self.addresses) if part],
            "gateway": self.gateway or None,
            "dns": [part for part in re.split(r"[,\s]+", self.dns) if part],
        }


@dataclass(frozen=True, slots=True)
class Marks:
    """How far a change on the device has come."""

    names: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_applied(self) -> bool:
        return "applied" in self.names

    @property
    def is_reverted(self) -> bool:
        return "reverting" in self.names


def profiles_line() -> str:
    """Write the line that prints every profile, a block each."""
    fields = ",".join(_FIELDS)
    return f"nmcli --terse --fields {fields} connection show $(nmcli --terse --fields UUID connection show)"


def parse_profiles(text: str) -> list[Profile]:
    """Read the blocks; those of other kinds than Ethernet and Wi-Fi are left out. Pure."""
    found = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {_FIELDS[name]: re.sub(r"\\(.)", r"\1", value) for name, _, value in pairs if name in _FIELDS}
        kind = _TYPES.get(values.get("type", ""))
        if kind and _UUID.fullmatch(values.get("uuid", "")):
            found.append(Profile(**{**values, "type": kind}))
    return found


async def read_profiles(visit: Visit) -> list[Profile]:
    """Ask for the profiles. Raises: MeetingctlError without NetworkManager."""
    return parse_profiles(await visit.ask(profiles_line(), privilege=Privilege.wanted))


def plan_recover(profiles: Sequence[Profile], *, only: Collection[str], keep_wifi: bool) -> list[Step]:
    """Choose the profiles that get their address by DHCP again: facts in, steps out. Pure."""
    return [
        Step("use-dhcp", profile.name, _reason(profile), {"profile": profile})
        for profile in profiles
        if profile.is_static and not (keep_wifi and profile.type == "wifi") and (not only or profile.place in only)
    ]


def _reason(profile: Profile) -> str:
    parts = [profile.addresses, f"gateway {profile.gateway}" if profile.gateway else ""]
    parts += [f"dns {profile.dns}" if profile.dns else ""]
    fixed = ", ".join(filter(None, parts)) or "nothing"
    return f"{profile.place or 'any interface'}: {profile.method} with {fixed}"


def arm_line(profiles: Sequence[Profile], *, revert_after_s: float) -> str:
    """Write what arms the timer, and only then changes the profiles, both apart from this connection.

    Ends with code 75 while another change waits for its confirmation.
    """
    scripts = {
        "change.sh": _change_script(profiles),
        "revert.sh": _revert_script(profiles),
        "keep.sh": _keep_script(profiles),
    }
    timer = [f"--unit={REVERT_UNIT}", f"--on-active={revert_after_s:.0f}", "--timer-property=AccuracySec=1s"]
    return "\n".join(
        [
            "set -e",
            f"if systemctl is-active --quiet {REVERT_UNIT}.timer; then exit {_BUSY_CODE}; fi",
            "umask 077",
            f"rm -rf -- {FOLDER}",
            f"mkdir -- {FOLDER}",
            *(f"printf %s {shlex.quote(text)} >{FOLDER}/{name}" for name, text in scripts.items()),
            shlex.join(["systemd-run", "--quiet", "--collect", *timer, "sh", f"{FOLDER}/revert.sh"]),
            shlex.join(["systemd-run", "--quiet", "--collect", f"--unit={CHANGE_UNIT}", "sh", f"{FOLDER}/change.sh"]),
        ]
    )


async def arm_change(visit: Visit, profiles: Sequence[Profile], *, revert_after_s: float) -> None:
    """Begin the change. Raises: AuthError, Busy, MeetingctlError."""
    from meetingctl.remote.visit import explain_failure

    answer = await visit.answer(arm_line(profiles, revert_after_s=revert_after_s), privilege=Privilege.needed)
    if answer.exit_code == _BUSY_CODE:
        raise Busy(f"{visit.target}: another change waits to be confirmed", hint="try again when it is over")
    if answer.exit_code:
        raise explain_failure(str(visit.target), visit.login.user, answer)


async def read_marks(visit: Visit) -> Marks:
    """Look how far the change is. Raises: MeetingctlError."""
    text = await visit.ask(f"ls {FOLDER} 2>/dev/null || true", privilege=Privilege.needed)
    return Marks(frozenset(text.split()))


async def keep_change(visit: Visit) -> bool:
    """Stop the timer and write the profiles for good; false when the timer was quicker. Raises: MeetingctlError."""
    lines = [
        f"systemctl stop {REVERT_UNIT}.timer 2>/dev/null",
        f"[ ! -e {FOLDER}/reverting ] || {{ echo reverted; exit 0; }}",
        f"sh {FOLDER}/keep.sh && rm -rf -- {FOLDER} && echo kept",
    ]
    word = (await visit.ask("\n".join(lines), privilege=Privilege.needed)).strip()
    if word not in {"kept", "reverted"}:
        raise MeetingctlError(f"{visit.target}: its answer makes no sense: {word[:80]!r}")
    return word == "kept"


def _change_script(profiles: Sequence[Profile]) -> str:
    settings = {"method": "auto", "addresses": "", "gateway": "", "dns": ""}
    lines = [f"sleep {_LEAVE_S}", *(_modify(profile, settings, "--temporary") for profile in profiles)]
    return "\n".join([*lines, *_renew(profiles), f": >{FOLDER}/applied", ""])


def _revert_script(profiles: Sequence[Profile]) -> str:
    lines = [f": >{FOLDER}/reverting"]
    for profile in profiles:
        names = ("method", "addresses", "gateway", "dns")
        lines.append(_modify(profile, {name: getattr(profile, name) for name in names}))
    return "\n".join([*lines, *_renew(profiles), ""])


def _keep_script(profiles: Sequence[Profile]) -> str:
    settings = {"method": "auto", "addresses": "", "gateway": "", "dns": ""}
    return "\n".join(["set -e", *(_modify(profile, settings) for profile in profiles), ""])


def _modify(profile: Profile, settings: Mapping[str, str], *options: str) -> str:
    pairs = [word for name, value in settings.items() for word in (f"ipv4.{name}", value)]
    return shlex.join(["nmcli", "connection", "modify", *options, "uuid", profile.uuid, *pairs])


def _renew(profiles: Sequence[Profile]) -> Iterator[str]:
    """Let devices take their profile as it is now; a profile that is not in use waits for its turn."""
    for profile in profiles:
        if profile.device:
            reapply = shlex.join(["nmcli", "--wait", f"{_SETTLE_S}", "device", "reapply", profile.device])
            begin = shlex.join(["nmcli", "--wait", f"{_SETTLE_S}", "connection", "up", "uuid", profile.uuid])
            yield f"{reapply} || {begin}"
