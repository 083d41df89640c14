"""Which wheels a device needs, judged by its own markers: pip judges those of another Python by the one it runs in."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from meetingctl.core.errors import InvalidInput, MeetingctlError

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file; `project` is normalized, `requires` are its requirements as they are written."""

    path: Path
    project: str
    version: str
    requires: tuple[str, ...] = ()


@dataclass(slots=True)
class Closure:
    """What is needed: extras asked for by project, and requirements that no wheel at hand meets."""

    extras: dict[str, set[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def read_wheel(path: Path) -> Wheel:
    """Read name, version and requirements. Raises: InvalidInput."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        project, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = HeaderParser().parsestr(archive.read(name).decode())
    except (InvalidWheelFilename, zipfile.BadZipFile, StopIteration, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path.name}: not a wheel: {exc}", hint=f"ls -l {path.parent}") from exc
    return Wheel(path, str(project), str(version), tuple(metadata.get_all("Requires-Dist", [])))


def find_closure(wheels: Mapping[str, Wheel], roots: Iterable[str], markers: Mapping[str, str]) -> Closure:
    """Follow requirements from the roots (`meetingctl[device]`) over the wheels at hand.

    Raises: MeetingctlError when a wheel at hand is of a version that another one excludes.
    """
    from packaging.requirements import Requirement

    closure = Closure()
    waiting = [(Requirement(text), "") for text in roots]
    while waiting:
        requirement, asker = waiting.pop()
        project = _normal(requirement.name)
        wheel = wheels.get(project)
        if wheel is None:
            plain = f"{requirement.name}{_extras_text(requirement)}{requirement.specifier}"
            if plain not in closure.missing:
                closure.missing.append(plain)
            continue
        if not requirement.specifier.contains(wheel.version, prereleases=True):
            raise MeetingctlError(
                f"{asker} needs {requirement.name}{requirement.specifier}, the package has {wheel.version}",
                hint="delete the older wheels in --find-links, or pin versions with --wheel",
            )
        known = closure.extras.get(project)
        new = set(requirement.extras) - (known or set())
        if known is not None and not new:
            continue
        closure.extras[project] = (known or set()) | new
        waiting += [(found, wheel.project) for found in _applying(wheel, {*new} or {""}, markers)]
    return closure


def _applying(wheel: Wheel, extras: set[str], markers: Mapping[str, str]) -> list[Requirement]:
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in wheel.requires]
    return [
        requirement
        for requirement in found
        if requirement.marker is None
        or any(requirement.marker.evaluate({**markers, "extra": extra}) for extra in {*extras, ""})
    ]


def _extras_text(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _normal(name: str) -> str:
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))
