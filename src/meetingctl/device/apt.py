"""What dpkg has and what apt can bring: their answers read, and the calls that change packages.

Another apt that holds the lock is waited for, its locks are never removed. Nobody is asked anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import APT_LISTS_DIR, DPKG_DIR
from meetingctl.device.system import Ran, System

# A slow link needs minutes for the lists of a distribution.
REFRESH_TIMEOUT_S = 600.0
# A Pi with a slow card needs long for a hundred packages, and the wait for another apt counts too. To end dpkg in the
# middle leaves half a package, so it is only ended when there is no hope.
INSTALL_TIMEOUT_S = 2400.0
_LOCK_WAIT_S = 600
_ASK_TIMEOUT_S = 60.0
_SHOWN_ERROR = 300
_SHOWN_NAMES = 200
# A changed configuration file stays as it is, and nobody is asked about a new default.
_KEEP_CONFIG = ("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")
_PROVIDED = re.compile(r"(?:^|, )([a-z0-9][a-z0-9+.-]+)")

# "absent": nothing was fetched yet, so apt knows no package at all. "unasked": apt here is that of another system.
Lists = Literal["read", "absent", "unasked"]


class AptState(NamedTuple):
    """Names that are not installed: those that apt can bring, and those that no archive has.

    Unless lists were `read` nobody knows what can be had, and all of them count as missing.
    """

    missing: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    lists: Lists = "read"


def read_state(system: System, names: Iterable[str]) -> AptState | None:
    """Ask dpkg what is not installed, and apt which of it can be. None where dpkg cannot be asked."""
    installed = read_installed(system)
    if installed is None:
        return None
    absent = tuple(name for name in dict.fromkeys(names) if name not in installed)
    if not system.is_live:
        return AptState(absent, lists="unasked")
    if not _has_lists(system):
        return AptState(absent, lists="absent")
    offered = read_offered(system, absent)
    return AptState(
        tuple(name for name in absent if name in offered), tuple(name for name in absent if name not in offered)
    )


def read_installed(system: System) -> set[str] | None:
    """Return all that is installed and what it provides, also below another root. None where dpkg cannot be asked."""
    folder = system.path(DPKG_DIR)
    if not (folder / "status").exists():
        return None
    shown = "--showformat=${Package}\t${db:Status-Abbrev}\n${Provides}\n"
    ran = system.run("dpkg-query", "--show", f"--admindir={folder}", shown, timeout_s=_ASK_TIMEOUT_S)
    return parse_installed(ran.out) if ran.ok else None


def read_offered(system: System, names: Iterable[str]) -> set[str]:
    """Return those of the packages that some archive has."""
    wanted = tuple(names)
    if not wanted:
        return set()
    return parse_candidates(system.run("apt-cache", "policy", "--", *wanted, timeout_s=_ASK_TIMEOUT_S).out)


def is_interrupted(system: System) -> bool:
    """Say whether dpkg was ended in the middle of its work."""
    return bool(system.run("dpkg", "--audit", timeout_s=_ASK_TIMEOUT_S).out.strip())


def fetch_lists(system: System) -> None:
    """Fetch the lists of what the archives have. Raises: MeetingctlError with apt's last word."""
    _check(_run_apt(system, "update", timeout_s=REFRESH_TIMEOUT_S), "apt-get update", REFRESH_TIMEOUT_S)


def install(system: System, names: Iterable[str]) -> None:
    """Install packages, without those that are only recommended. Raises: MeetingctlError with apt's last word."""
    wanted = tuple(names)
    words = ("--yes", "--no-install-recommends", *_KEEP_CONFIG, "install", "--", *wanted)
    ran = _run_apt(system, *words, timeout_s=INSTALL_TIMEOUT_S)
    shown = f"apt-get install --no-install-recommends {' '.join(wanted)[:_SHOWN_NAMES]}"
    _check(ran, "apt-get install", INSTALL_TIMEOUT_S, hint=shown)


def finish_interrupted(system: System) -> None:
    """Configure what dpkg had only unpacked. Raises: MeetingctlError with its last word."""
    words = ("DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
    ran = system.run("env", *words, timeout_s=INSTALL_TIMEOUT_S)
    _check(ran, "dpkg --configure -a", INSTALL_TIMEOUT_S)


def parse_installed(text: str) -> set[str]:
    """Read pairs of lines, a package with its state and what it provides; one that is on hold is installed too."""
    found = set()
    lines = text.splitlines()
    for row, provides in zip(lines[::2], lines[1::2], strict=False):
        name, _, state = row.partition("\t")
        if state[1:2] == "i":
            found |= {name, *_PROVIDED.findall(provides)}
    return found


def parse_candidates(text: str) -> set[str]:
    """Read `apt-cache policy`: the names with a version that could be installed."""
    found, name = set(), ""
    for line in text.splitlines():
        if not line.startswith(" "):
            name = line.partition(":")[0]
        elif line.strip().startswith("Candidate:") and line.split()[-1] != "(none)":
            found.add(name)
    return found


def _has_lists(system: System) -> bool:
    return any(system.path(APT_LISTS_DIR).glob("*Packages*"))


def _run_apt(system: System, *words: str, timeout_s: float) -> Ran:
    program = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", f"DPkg::Lock::Timeout={_LOCK_WAIT_S}")
    return system.run(*program, *words, timeout_s=timeout_s)


def _check(ran: Ran, shown: str, timeout_s: float, *, hint: str = "") -> None:
    if ran.ok:
        return
    lines = [line.strip() for line in (ran.err or ran.out).splitlines() if line.strip()]
    reason = lines[-1][:_SHOWN_ERROR] if lines else f"ended with code {ran.code}"
    detail = f"no end after {timeout_s:g} s" if ran.timed_out else reason
    raise MeetingctlError(f"{shown}: {detail}", hint=hint or shown)
