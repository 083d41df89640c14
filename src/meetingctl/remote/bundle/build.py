"""From wheels, units and rules to the one file: laid out, listed, packed the same way each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meetingctl import __version__
from meetingctl.core import layout
from meetingctl.core.errors import InvalidInput, MeetingctlError, NotFound
from meetingctl.core.paths import read_small_text
from meetingctl.core.update_archive import MANIFEST_NAME, PAYLOAD, SIGNATURE_NAME
from meetingctl.core.update_package import (
    PROGRAM_PREFIX,
    ListedFile,
    UpdateManifest,
    parse_dependencies,
    read_package,
    version_rank,
)
from meetingctl.remote.bundle.closure import Closure, Wheel
from meetingctl.remote.bundle.platform import Platform
from meetingctl.remote.bundle.repack import repack_program
from meetingctl.remote.bundle.wheels import Pip, collect_wheels, fetch_pip

RESTARTED_UNITS = tuple(unit for unit in layout.UNITS if unit != layout.RECOVERY_UNIT)
_COMMAND = f'#!/bin/sh\nexec {layout.PROGRAM} "$@"\n'
_COMMAND_PATH = "usr/local/bin/meetingctl"
_KEY_HINT = "openssl genpkey -algorithm ed25519 -out FILE"
_DATA_FOLDER = "share/meetingctl/packaging"


Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is built. `created_s` is the time of every file in the package, in seconds since the epoch."""

    platform: Platform
    version: str = __version__
    created_s: int = 0
    required_packages: tuple[str, ...] = ()
    restart_services: tuple[str, ...] = RESTARTED_UNITS
    requires_reboot: bool = False
    allow_reapply: bool = False

    def __post_init__(self) -> None:
        """Check the version. Raises: InvalidInput."""
        if version_rank(self.version) is None:
            raise InvalidInput(f"version {self.version[:40]!r} is not dotted numbers", hint="use for example 1.4.0")

    @property
    def file_name(self) -> str:
        stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(self.created_s))
        return f"rpi-cam-update_{self.version}_{stamp}.tar.gz"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the parts come from: a source checkout, or what is installed; `wheel` is a ready wheel of the program."""

    packaging: Path
    checkout: Path | None = None
    wheel: Path | None = None

    def describe(self) -> str:
        return str(self.wheel or self.checkout or "the installed program")


def find_sources(wheel: Path | None = None) -> Sources:
    """Find the units and rules of this program. Raises: NotFound."""
    if wheel is not None and not wheel.is_file():
        raise NotFound(f"{wheel}: no such file", hint="pip wheel --no-deps .")
    checkout = Path(__file__).parents[4]
    if (checkout / "pyproject.toml").is_file() and (checkout / "packaging/systemd").is_dir():
        return Sources(checkout / "packaging", checkout, wheel)
    installed = Path(sys.prefix) / _DATA_FOLDER
    if not (installed / "systemd").is_dir():
        raise NotFound(f"{installed}: no units there", hint="run it in a checkout of the source")
    return Sources(installed, None, wheel)


def build_bundle(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    *,
    env: Mapping[str, str],
    pip_options: Sequence[str] = (),
    key: Path | None = None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Build the package into the folder `out`, signed with the private key of a file, and return its facts.

    Raises: InvalidInput, MeetingctlError.
    """
    sign = read_signing_key(key) if key is not None else None
    pip = Pip({**env, "SOURCE_DATE_EPOCH": str(recipe.created_s)}, pip_options)
    with tempfile.TemporaryDirectory(prefix="meetingctl-bundle-") as name:
        payload = Path(name, PAYLOAD)
        program_folder = payload / PROGRAM_PREFIX
        wheels = program_folder / "wheels"
        wheels.mkdir(parents=True)
        program = _program_wheel(sources, pip, wheels, tell)
        needed, closure = collect_wheels(pip, program, recipe.platform, wheels, tell)
        fetch_pip(pip, recipe.platform, wheels)
        (program_folder / "requirements.txt").write_text(write_requirements(needed, closure))
        (program_folder / "VERSION").write_text(f"{recipe.version}\n")
        _lay_out_packaging(sources.packaging, program_folder, recipe.platform)
        command = payload / _COMMAND_PATH
        command.parent.mkdir(parents=True)
        command.write_text(_COMMAND)
        command.chmod(0o755)
        out.mkdir(parents=True, exist_ok=True)
        path = out / recipe.file_name
        tell(f"packing {path.name}")
        pack(payload, recipe, path, sign)
    return _facts(path, recipe, needed)


def write_requirements(wheels: Iterable[Wheel], closure: Closure) -> str:
    """Return requirements.txt: each wheel with its version and hash, extras where they were asked for."""
    lines = []
    for wheel in sorted(wheels, key=lambda found: found.project):
        extras = sorted(closure.extras.get(wheel.project, ()))
        name = f"{wheel.project}[{','.join(extras)}]" if extras else wheel.project
        lines.append(f"{name}=={wheel.version} --hash=sha256:{_sha256(wheel.path)}\n")
    return "".join(lines)


def read_signing_key(path: Path) -> Sign:
    """Return what signs with an ed25519 private key in PEM. Raises: InvalidInput."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_small_text(path).encode(), password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise InvalidInput(f"{path}: no readable private key: {exc}", hint=_KEY_HINT) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"{path}: not an ed25519 key", hint=_KEY_HINT)
    return key.sign


def pack(payload: Path, recipe: Recipe, path: Path, sign: Sign | None = None) -> None:
    """Write the archive; the same files, recipe and time make the same bytes."""
    files = {file.relative_to(payload).as_posix(): file for file in payload.rglob("*") if file.is_file()}
    manifest = UpdateManifest(
        version=recipe.version,
        files=tuple(ListedFile(name, files[name].stat().st_size, _sha256(files[name])) for name in sorted(files)),
        created_at=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(recipe.created_s)),
        requires_reboot=recipe.requires_reboot,
        required_packages=recipe.required_packages,
        restart_services=recipe.restart_services,
        allow_reapply=recipe.allow_reapply,
    )
    temporary = path.with_name(f".{path.name}.part")
    try:
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=recipe.created_s, compresslevel=6) as packed,
            tarfile.open(mode="w", fileobj=packed, format=tarfile.PAX_FORMAT) as archive,
        ):
            _add(archive, MANIFEST_NAME, io.BytesIO(manifest.to_bytes()), recipe, 0o644)
            if sign is not None:
                _add(archive, SIGNATURE_NAME, io.BytesIO(sign(manifest.to_bytes())), recipe, 0o644)
            for name in sorted(files):
                mode = 0o755 if files[name].stat().st_mode & 0o100 else 0o644
                with files[name].open("rb") as file:
                    _add(archive, f"{PAYLOAD}/{name}", file, recipe, mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, file: io.BufferedIOBase, recipe: Recipe, mode: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header.mode, header.mtime = mode, recipe.created_s
    header.uname = header.gname = "root"
    archive.addfile(header, file)


def _program_wheel(sources: Sources, pip: Pip, folder: Path, tell: Callable[[str], None]) -> Path:
    if sources.wheel is not None:
        return Path(shutil.copy(sources.wheel, folder))
    if sources.checkout is not None:
        tell(f"building the wheel of {sources.checkout}")
        return pip.build(sources.checkout, folder)
    return repack_program(folder)


def _lay_out_packaging(packaging: Path, program_folder: Path, platform: Platform) -> None:
    """Copy units and rules; DEPENDENCIES.json goes to the top and says what the wheels were chosen for."""
    for name in layout.PACKAGED_DIRS:
        shutil.copytree(packaging / name, program_folder / "packaging" / name, copy_function=shutil.copyfile)
    facts = json.loads((packaging / "DEPENDENCIES.json").read_bytes())
    facts["built_for"] = {"python": platform.python, "architecture": platform.architecture}
    content = (json.dumps(facts, indent=2) + "\n").encode()
    parse_dependencies(content)
    (program_folder / "DEPENDENCIES.json").write_bytes(content)


def _facts(path: Path, recipe: Recipe, wheels: Sequence[Wheel]) -> dict[str, Any]:
    """Read the finished package as a device will, and describe it. Raises: MeetingctlError."""
    package = read_package(path)
    if package.problems:
        raise MeetingctlError(f"{path.name}: {package.problems[0]}", hint="meetingctl builder bundle")
    return {
        "file": str(path),
        "version": recipe.version,
        "python": recipe.platform.python,
        "architecture": recipe.platform.architecture,
        "sha256": _sha256(path),
        "size_bytes": path.stat().st_size,
        "files_count": len(package.manifest.files),
        "wheels": [f"{wheel.project} {wheel.version}" for wheel in sorted(wheels, key=lambda found: found.project)],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
