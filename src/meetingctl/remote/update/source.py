"""The package of an update on this side: read and checked once, unpacked, each file ready to be sent by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from meetingctl.core.errors import InvalidInput
from meetingctl.core.update_archive import PAYLOAD, copy_member, open_members
from meetingctl.core.update_package import WHEELS_PREFIX, Findings, Package, check_package, read_package


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the package: where it goes on the device, and where it lies here."""

    name: str
    size_bytes: int
    sha256: str
    mode: int
    path: Path

    def as_request(self) -> dict[str, Any]:
        """Return it as the device's side reads it."""
        return {"path": self.name, "size": self.size_bytes, "sha256": self.sha256, "mode": self.mode}


@dataclass(frozen=True, slots=True)
class Source:
    """A package that is sound, with its files by their names on the device."""

    package: Package
    files: Mapping[str, SourceFile]
    digest: str

    @property
    def version(self) -> str:
        return self.package.version

    @property
    def wheels(self) -> Sequence[str]:
        """The names of its wheels."""
        return [PurePosixPath(name).name for name in self.files if name.startswith(WHEELS_PREFIX)]

    def judge(self, installed_version: str, *, force: bool) -> Findings:
        """Judge it for a device that has this version."""
        return check_package(self.package, installed_version, force=force)


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Read, check and unpack a package file, or a folder of its form, for as long as it is needed.

    Raises: NotFound, TooLarge, InvalidInput for what no device should get.
    """
    import hashlib

    package = read_package(path)
    if package.problems:
        raise InvalidInput(f"{path}: {'; '.join(package.problems[:5])}", hint=f"meetingctl device update check {path}")
    if not package.has_program:
        raise InvalidInput(f"{path}: does not hold this program", hint="meetingctl builder bundle")
    digest = hashlib.sha256(package.manifest_bytes).hexdigest()
    with TemporaryDirectory(prefix="meetingctl-update-") as folder:
        yield Source(package, _unpack(package, Path(folder)), digest)


def read_text_manifest(source: Source) -> str:
    """Return the manifest as it was in the package. Raises: InvalidInput when it is not UTF-8."""
    try:
        text = source.package.manifest_bytes.decode()
        json.loads(text)
    except ValueError as exc:
        raise InvalidInput(
            f"{source.package.path}: its manifest is not UTF-8", hint="meetingctl builder bundle"
        ) from exc
    return text


def _unpack(package: Package, folder: Path) -> dict[str, SourceFile]:
    """Write each file under its SHA-256; what is the same twice is written once."""
    listed = {file.path: file for file in package.manifest.files}
    files: dict[str, SourceFile] = {}
    with open_members(package.path) as members:
        for member in members:
            if not member.name.startswith(f"{PAYLOAD}/"):
                continue
            name = member.name.removeprefix(f"{PAYLOAD}/")
            place = folder / listed[name].sha256
            with place.open("wb") as file:
                copy_member(member, file.write)
            files[name] = SourceFile(name, member.size_bytes, listed[name].sha256, member.mode, place)
    return files
