"""The update package of a camera: its manifest, what it asks of the device, and every check before it is applied.

A package is `rpi-cam-update_<version>_<YYYYmmdd_HHMMSS>.tar.gz`, or the folder it unpacks to:

    update_manifest.json
    update_manifest.sig                      optional
    payload/opt/rpi-cam-webmanager/…
    payload/usr/local/bin/…

Source: seed 002 section 9.2.2quater and the contract of the device operations.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from meetingctl.core.errors import InvalidInput
from meetingctl.core.layout import RELEASE_FACTS_DIR_NAME, WEB_UNIT
from meetingctl.core.update_archive import (
    ALLOWED_PREFIXES,
    MANIFEST_NAME,
    PAYLOAD,
    SIGNATURE_NAME,
    clean_name,
    copy_member,
    open_members,
    read_capped,
)

SCHEMA_VERSION = "1"
PROGRAM_PREFIX = ALLOWED_PREFIXES[0]
DEPENDENCIES_PATH = f"{PROGRAM_PREFIX}/DEPENDENCIES.json"
REQUIREMENTS_PATH = f"{PROGRAM_PREFIX}/requirements.txt"
VERSION_PATH = f"{PROGRAM_PREFIX}/VERSION"
_SMALL_FILES = (DEPENDENCIES_PATH, REQUIREMENTS_PATH, VERSION_PATH)
WHEELS_PREFIX = f"{PROGRAM_PREFIX}/wheels/"
LARGEST_MANIFEST_BYTES = 8 * 1024 * 1024
_LARGEST_SMALL_FILE_BYTES = 1024 * 1024
# Made on the device; a package that brought them would break the release.
_OWN_FOLDERS = (f"{PROGRAM_PREFIX}/venv", f"{PROGRAM_PREFIX}/{RELEASE_FACTS_DIR_NAME}")

_VERSION = re.compile(
    r"v?(\d{1,9}(?:\.\d{1,9})*)(?:[-._]?(dev|alpha|beta|a|b|rc)[-._]?(\d{0,9}))?", re.IGNORECASE | re.ASCII
)
_STAGES = {"dev": 0, "alpha": 1, "a": 1, "beta": 2, "b": 2, "rc": 3}
_FINAL = (4, 0)
_PLATFORM_WORD = re.compile(r"[A-Za-z0-9._-]{1,20}")
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[A-Za-z0-9._,-]+\])?==[A-Za-z0-9.!+_-]+((?: --hash=sha256:[0-9a-f]{64})+)"
)
_MOST_NAMES = 500
_MOST_REMARKS = 50
_LONGEST_FOREIGN_TEXT = 140
_SHA256 = re.compile(r"[0-9a-f]{64}")
_APT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]+")
_PIP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@_.-]{0,200}")

VersionKey = tuple[tuple[int, ...], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as the manifest lists it; `path` is relative to the root of the device."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UpdateManifest:
    """What a package says of itself. Units are without the suffix `.service`."""

    version: str
    files: tuple[ListedFile, ...]
    created_at: str = ""
    requires_reboot: bool = False
    required_packages: tuple[str, ...] = ()
    restart_services: tuple[str, ...] = (WEB_UNIT,)
    allow_reapply: bool = False
    warnings: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Write it as the JSON object that devices read."""
        facts = {
            "schema_version": SCHEMA_VERSION,
            "version": self.version,
            "created_at": self.created_at,
            "requires_reboot": self.requires_reboot,
            "required_packages": list(self.required_packages),
            "restart_services": list(self.restart_services),
            "allow_reapply": self.allow_reapply,
            "files": [{"path": file.path, "size": file.size_bytes, "sha256": file.sha256} for file in self.files],
        }
        return (json.dumps(facts, indent=1) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What DEPENDENCIES.json asks of the device; an empty one when the package has none."""

    apt_packages: tuple[str, ...] = ()
    pip_packages: tuple[str, ...] = ()
    requirements_file: str = ""
    built_for: Mapping[str, str] = field(default_factory=dict)  # "python" (3.13) and "architecture" (arm64), of ours
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was read to its end. `problems` are reasons against it that do not depend on the device."""

    path: Path
    manifest: UpdateManifest
    manifest_bytes: bytes
    dependencies: Dependencies
    total_bytes: int
    problems: tuple[str, ...] = ()
    signature: bytes = b""
    requirements: bytes = b""

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def apt_packages(self) -> tuple[str, ...]:
        """Return what apt must have installed, of the manifest and of DEPENDENCIES.json, each once."""
        return tuple(dict.fromkeys((*self.manifest.required_packages, *self.dependencies.apt_packages)))

    @property
    def has_program(self) -> bool:
        """Say whether it carries meetingctl itself with pinned requirements."""
        paths = {file.path for file in self.manifest.files}
        wheel = f"{WHEELS_PREFIX}meetingctl-"
        return REQUIREMENTS_PATH in paths and any(path.startswith(wheel) and path.endswith(".whl") for path in paths)


@dataclass(frozen=True, slots=True)
class Findings:
    """The verdict on a package for one device; it may be applied when there is no error."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    same_version: bool = False
    reapply_allowed: bool = False

    def refuse_errors(self, name: str) -> None:
        """Raise the errors together. Raises: InvalidInput."""
        if self.errors:
            raise InvalidInput(f"{name}: {'; '.join(self.errors)}", hint=f"meetingctl device update check {name}")


@dataclass(slots=True)
class _Found:
    """What was met while reading."""

    manifest: bytes | None = None
    signature: bytes = b""
    small: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)


def version_rank(text: str) -> VersionKey | None:
    """Return what orders versions as PEP 440 does (`2.0` equals `2`, `2.0rc1` comes before it); None for other text."""
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        return None
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    stage = (_STAGES[match[2].lower()], int(match[3] or 0)) if match[2] else _FINAL
    return tuple(numbers), stage


def read_package(path: Path) -> Package:
    """Read a tar or an unpacked folder to its end, and compare every file with the manifest.

    Raises: NotFound, TooLarge, InvalidInput when it is no such package, or unsafe to look at any further.
    """
    found = _Found()
    with open_members(path) as members:
        for member in members:
            if member.name == MANIFEST_NAME:
                found.manifest = read_capped(member, LARGEST_MANIFEST_BYTES)
            elif member.name == SIGNATURE_NAME:
                found.signature = read_capped(member, 4096)
            elif member.name.startswith(f"{PAYLOAD}/"):
                name = member.name.removeprefix(f"{PAYLOAD}/")
                digest = hashlib.sha256()
                if name in _SMALL_FILES:
                    content = found.small[name] = read_capped(member, _LARGEST_SMALL_FILE_BYTES)
                    digest.update(content)
                    size_bytes = len(content)
                else:
                    size_bytes = copy_member(member, digest.update)
                found.files[name] = (size_bytes, digest.hexdigest())
            else:
                raise InvalidInput(
                    f"{member.name}: a package has {MANIFEST_NAME} and {PAYLOAD}/ only", hint=_REBUILD_HINT
                )
    if found.manifest is None:
        raise InvalidInput(f"{path.name}: no {MANIFEST_NAME}", hint=_REBUILD_HINT)
    manifest = parse_update_manifest(found.manifest)
    return Package(
        path,
        manifest,
        found.manifest,
        parse_dependencies(found.small.get(DEPENDENCIES_PATH)),
        sum(size for size, _ in found.files.values()),
        cut_remarks([*_wrong_version(manifest, found.small), *_compare(manifest.files, found.files)]),
        found.signature,
        found.small.get(REQUIREMENTS_PATH, b""),
    )


_REBUILD_HINT = "build the package again with meetingctl builder bundle"


def cut_remarks(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the first remarks, each cut, and how many more there are: a package may provoke any number."""
    found = [
        line if len(line) <= 2 * _LONGEST_FOREIGN_TEXT else f"{line[: 2 * _LONGEST_FOREIGN_TEXT]}…" for line in lines
    ]
    more = len(found) - _MOST_REMARKS
    return (*found[:_MOST_REMARKS], f"and {more} more") if more > 0 else tuple(found)


def find_loose_requirements(package: Package) -> list[str]:
    """Return the lines of requirements.txt that are not one pinned wheel of this package.

    A line may otherwise name an address, another index or a file of the device.
    """
    hashes = {file.sha256 for file in package.manifest.files if file.path.startswith(WHEELS_PREFIX)}
    loose = []
    for line in package.requirements.decode("utf-8", "replace").splitlines():
        match = _REQUIREMENT.fullmatch(line.rstrip())
        if line.strip() and (match is None or not hashes & set(re.findall(r"[0-9a-f]{64}", match[1]))):
            loose.append(f"requirements.txt: {line[:_LONGEST_FOREIGN_TEXT]!r} is not a pinned wheel of the package")
    return loose


def check_package(package: Package, installed_version: str, *, force: bool = False) -> Findings:
    """Judge a package for a device that has `installed_version`, empty when it has none yet.

    An equal version needs `force` or the package's own leave; a lower one is never applied.
    """
    errors = list(package.problems)
    warnings = [*package.manifest.warnings, *package.dependencies.warnings]
    wanted, present = version_rank(package.version), version_rank(installed_version)
    if installed_version and present is None:
        warnings.append(f"the installed version {installed_version[:40]!r} is not a number, so it is not compared")
    is_same = wanted is not None and wanted == present
    is_allowed = force or package.manifest.allow_reapply
    if wanted is None:
        errors.append(f"version {package.version[:40]!r} is not dotted numbers")
    elif present is not None and wanted < present:
        errors.append(f"version {package.version} is older than the installed {installed_version}")
    elif is_same and not is_allowed:
        errors.append(f"version {package.version} is installed already; --force applies it again")
    return Findings(tuple(errors), tuple(dict.fromkeys(warnings)), is_same, is_same and is_allowed)


def parse_update_manifest(content: bytes) -> UpdateManifest:
    """Read update_manifest.json. Raises: InvalidInput with the first field that is missing or wrong."""
    facts = _json_object(content, MANIFEST_NAME)
    if str(facts.get("schema_version")) != SCHEMA_VERSION or isinstance(facts.get("schema_version"), bool):
        raise _wrong("schema_version", f"is {str(facts.get('schema_version'))[:20]!r}, not {SCHEMA_VERSION}")
    version = facts.get("version")
    if not isinstance(version, str) or not version.strip() or len(version) > 64:
        raise _wrong("version", "is missing")
    packages, ignored = _names(facts.get("required_packages"), _APT_NAME, "required_packages")
    units, wrong_units = _names(facts.get("restart_services"), _UNIT_NAME, "restart_services")
    return UpdateManifest(
        version=version.strip(),
        files=_listed_files(facts.get("files")),
        created_at=_plain_text(facts.get("created_at")),
        requires_reboot=_flag(facts, "requires_reboot"),
        required_packages=packages,
        restart_services=tuple(dict.fromkeys(unit.removesuffix(".service") for unit in units)) or (WEB_UNIT,),
        allow_reapply=_flag(facts, "allow_reapply"),
        warnings=(*ignored, *wrong_units),
    )


def parse_dependencies(content: bytes | None) -> Dependencies:
    """Read DEPENDENCIES.json; names that are none are left out with a warning. Raises: InvalidInput."""
    if content is None:
        return Dependencies(warnings=("no DEPENDENCIES.json in the package",))
    facts = _json_object(content, "DEPENDENCIES.json")
    if str(facts.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
        raise InvalidInput(f"DEPENDENCIES.json: schema_version is not {SCHEMA_VERSION}", hint=_REBUILD_HINT)
    apt, ignored_apt = _names(facts.get("apt_packages"), _APT_NAME, "apt_packages")
    pip, ignored_pip = _names(facts.get("pip_packages"), _PIP_NAME, "pip_packages")
    requirements = facts.get("python_requirements_file") or ""
    if not isinstance(requirements, str) or (
        requirements and PurePosixPath(clean_name(requirements)).name != requirements
    ):
        raise InvalidInput("DEPENDENCIES.json: python_requirements_file is not a file name", hint=_REBUILD_HINT)
    built_for = facts.get("built_for")
    if not isinstance(built_for, dict):
        built_for = {}
    known = {
        name: str(built_for[name])
        for name in ("python", "architecture")
        if _PLATFORM_WORD.fullmatch(str(built_for.get(name) or "")[:40])
    }
    return Dependencies(apt, pip, requirements, known, (*ignored_apt, *ignored_pip))


def _compare(listed: Iterable[ListedFile], found: Mapping[str, tuple[int, str]]) -> Iterable[str]:
    """Yield what is against the files: each must be listed, allowed, there and whole."""
    paths = set()
    for file in listed:
        paths.add(file.path)
        if reason := refuse_path(file.path):
            yield reason
        elif (there := found.get(file.path)) is None:
            yield f"{file.path}: listed, but not in the package"
        elif there[0] != file.size_bytes:
            yield f"{file.path}: has {there[0]} bytes, not {file.size_bytes}"
        elif there[1] != file.sha256:
            yield f"{file.path}: its sha256 is another one than listed"
    for name in sorted(found.keys() - paths):
        yield f"{name}: in the package, but not listed"


def _wrong_version(manifest: UpdateManifest, small: Mapping[str, bytes]) -> Iterable[str]:
    """Compare the manifest with the file that tells the version once it is installed: the next update goes by that."""
    if (content := small.get(VERSION_PATH)) is not None:
        text = content.decode("utf-8", "replace").strip()
        if text != manifest.version:
            yield f"the manifest says version {manifest.version[:40]!r}, the file VERSION {text[:40]!r}"


def refuse_path(path: str) -> str:
    """Return why a file may not go there, empty when it may."""
    if path == "etc" or path.startswith("etc/"):
        return f"{path}: a package never changes the configuration"
    if not any(path.startswith(f"{prefix}/") for prefix in ALLOWED_PREFIXES):
        return f"{path}: only {' and '.join(ALLOWED_PREFIXES)} may be changed"
    if any(path == folder or path.startswith(f"{folder}/") for folder in _OWN_FOLDERS):
        return f"{path}: made on the device, not by a package"
    return ""


def _listed_files(value: Any) -> tuple[ListedFile, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong("files", "is missing or empty")
    files: dict[str, ListedFile] = {}
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise _wrong("files", "has an entry without a path")
        path = clean_name(entry["path"])
        size, sha256 = entry.get("size"), entry.get("sha256")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise _wrong("files", f"has no size for {path}")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256.lower()):
            raise _wrong("files", f"has no sha256 for {path}")
        if path in files:
            raise _wrong("files", f"lists {path} twice")
        files[path] = ListedFile(path, size, sha256.lower())
    for path in files:
        if folder := next((str(parent) for parent in PurePosixPath(path).parents if str(parent) in files), None):
            raise _wrong("files", f"lists {folder} as a file and as a folder")
    return tuple(files.values())


def _names(value: Any, pattern: re.Pattern[str], field_name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names of a list, or of text with commas and spaces, each once, and warnings for those left out."""
    if value is None:
        return (), ()
    words = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(words, list):
        raise _wrong(field_name, "is neither a list nor text")
    if len(words) > _MOST_NAMES:
        raise _wrong(field_name, f"has {len(words)} names, more than {_MOST_NAMES}")
    good: dict[str, None] = {}
    warnings = []
    for word in words:
        if isinstance(word, str) and len(word) <= _LONGEST_FOREIGN_TEXT and pattern.fullmatch(word):
            good[word] = None
        elif word != "":
            warnings.append(f"{field_name}: {str(word)[:60]!r} is no name and was ignored")
    return tuple(good), cut_remarks(warnings)


def _plain_text(value: Any) -> str:
    """Return a time as text, without what a terminal would take for commands."""
    return "".join(letter for letter in str(value or "")[:40] if letter.isprintable())


def _flag(facts: Mapping[str, Any], name: str) -> bool:
    value = facts.get(name, False)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "is neither true nor false")
    return bool(value)


def _json_object(content: bytes, name: str) -> dict[str, Any]:
    try:
        facts = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InvalidInput(f"{name}: no JSON", hint=_REBUILD_HINT) from None
    if not isinstance(facts, dict):
        raise InvalidInput(f"{name}: no JSON object", hint=_REBUILD_HINT)
    return facts


def _wrong(name: str, what: str) -> InvalidInput:
    return InvalidInput(f"{MANIFEST_NAME}: {name} {what}", hint=_REBUILD_HINT)
