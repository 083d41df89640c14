"""The package that is installed, as far as the operator's side has to know it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from meetingctl.core.errors import InvalidInput
from meetingctl.core.update_package import WHEELS_PREFIX, read_package

# The member that holds this program, as tar's wildcards name it.
OWN_WHEEL = "*/wheels/meetingctl-*-py3-none-any.whl"
_REBUILD = "meetingctl builder bundle"
# dpkg's name of an architecture -> how platform tags of wheels end.
_MACHINES = {"arm64": "aarch64", "armhf": "armv7l", "amd64": "x86_64", "i386": "i686"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A package file; `wheels` are the names of all wheels in it."""

    path: Path
    version: str
    sha256: str
    size_bytes: int
    unpacked_bytes: int
    wheels: Sequence[str]

    @property
    def name(self) -> str:
        """What the file is called on the device: its hash, so that two packages are never mixed up."""
        return f"{self.sha256}.tar.gz"


def read_bundle(path: Path) -> Bundle:
    """Read a package file. Raises: NotFound, TooLarge, InvalidInput for one that is damaged or not of this program."""
    if path.is_dir():
        raise InvalidInput(f"{path}: a folder; one package file is sent", hint=_REBUILD)
    package = read_package(path)
    if package.problems:
        raise InvalidInput(f"{path}: {package.problems[0]}", hint=_REBUILD)
    if not package.has_program:
        raise InvalidInput(f"{path}: holds no wheel of this program with its requirements", hint=_REBUILD)
    wheels = [PurePosixPath(file.path).name for file in package.manifest.files if file.path.startswith(WHEELS_PREFIX)]
    size_bytes = path.stat().st_size
    return Bundle(path, package.version, _sha256_of(path), size_bytes, package.total_bytes, sorted(wheels))


def misfits(wheels: Sequence[str], python: tuple[int, int], arch: str) -> list[str]:
    """Return the wheels that are not for this Python and architecture (dpkg's name). Pure."""
    return [name for name in wheels if name.endswith(".whl") and not _fits(name, python, arch)]


def _fits(name: str, python: tuple[int, int], arch: str) -> bool:
    pythons, abi, platforms = ["", "", *name.removesuffix(".whl").split("-")][-3:]
    machine = _MACHINES.get(arch, arch)
    if platforms != "any" and not any(platform.endswith(machine) for platform in platforms.split(".")):
        return False
    return any(_fits_python(tag, abi, python) for tag in pythons.split("."))


def _fits_python(tag: str, abi: str, python: tuple[int, int]) -> bool:
    number = tag[2:]
    if not number.isdigit() or number[0] != str(python[0]):
        return False
    minor = int(number[1:]) if number[1:] else 0
    return minor <= python[1] if tag.startswith("py") or "abi3" in abi.split(".") else minor == python[1]


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
