"""What a package asks of apt and of Python: what is missing on this device, and the installation of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.system import Ran, System

APT_TIMEOUT_S = 600.0
_ASK_TIMEOUT_S = 60.0
_CANDIDATE = re.compile(r"^(\S+?):(?: [^\n]*)?\n(?:  .*\n)*?  Candidate: (.+)$", re.MULTILINE)
_APT = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=600")


class AptState(NamedTuple):
    """Names that are not installed: those that apt can install, and those that no archive has."""

    missing: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()


def read_apt_state(system: System, names: Iterable[str]) -> AptState:
    """Ask dpkg what is not installed, and apt which of it can be."""
    wanted = tuple(dict.fromkeys(names))
    admin = system.path("/var/lib/dpkg")
    if not wanted or not (admin / "status").exists():
        return AptState()
    ran = system.run(
        "dpkg-query",
        f"--admindir={admin}",
        "--show",
        "--showformat=${Package}\t${db:Status-Abbrev}\n${Provides}\n",
        timeout_s=_ASK_TIMEOUT_S,
    )
    if not ran.ok:
        return AptState()
    present = parse_installed(ran.out)
    absent = tuple(name for name in wanted if name not in present)
    if not absent or not system.is_live:
        return AptState(absent)
    policy = system.run("apt-cache", "policy", *absent, timeout_s=_ASK_TIMEOUT_S)
    candidates = parse_candidates(policy.out)
    return AptState(
        tuple(name for name in absent if name in candidates),
        tuple(name for name in absent if name not in candidates),
    )


def parse_installed(text: str) -> set[str]:
    """Read dpkg-query's lines: a package with its state, then what it provides."""
    found = set()
    lines = text.splitlines()
    for row, provides in zip(lines[::2], [*lines[1::2], ""], strict=False):
        name, _, state = row.partition("\t")
        if state[1:2] == "i":
            found |= {name.split(":")[0], *re.findall(r"(?:^|, )([a-z0-9][a-z0-9+.-]+)", provides)}
    return found


def parse_candidates(text: str) -> set[str]:
    """Read `apt-cache policy`: the names that some archive has."""
    return {name for name, version in _CANDIDATE.findall(text) if version != "(none)"}


def look_again(system: System, state: AptState, say: Callable[[str], None]) -> AptState:
    """Fetch apt's lists on a system that has none yet, so that no package seemed to exist, and ask once more."""
    lists = system.path("/var/lib/apt/lists")
    if not state.unavailable or any(lists.glob("*Packages*")):
        return state
    _fetch_lists(system, say)
    return read_apt_state(system, (*state.missing, *state.unavailable))


def install_packages(system: System, names: Iterable[str], say: Callable[[str], None]) -> None:
    """Install with apt, waiting for another apt instead of removing its locks. Raises: MeetingctlError."""
    wanted = tuple(names)
    _fetch_lists(system, say)
    ran = _apt(system, "install", "--yes", "--no-install-recommends", "--", *wanted)
    if not ran.ok:
        last = " ".join((ran.err or ran.out).split())[-300:]
        detail = f"no end after {APT_TIMEOUT_S:g} s" if ran.timed_out else last
        raise MeetingctlError(
            f"apt-get cannot install {' '.join(wanted)[:200]}: {detail}",
            hint=f"apt-get install --no-install-recommends {' '.join(wanted)[:200]}",
        )


def _fetch_lists(system: System, say: Callable[[str], None]) -> None:
    if not _apt(system, "update").ok:
        say("apt-get update failed, the lists of packages may be old")


def _apt(system: System, *words: str) -> Ran:
    return system.run("env", "DEBIAN_FRONTEND=noninteractive", *_APT, *words, timeout_s=APT_TIMEOUT_S)
