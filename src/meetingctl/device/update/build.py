"""Turn a package into a release: unpack it next to the others, and give it an environment of its own."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from meetingctl.core import layout
from meetingctl.core.errors import InvalidInput, MeetingctlError, StorageFull
from meetingctl.core.update_archive import PAYLOAD, Member, copy_member, open_members
from meetingctl.core.update_package import PROGRAM_PREFIX, Package
from meetingctl.device.system import System
from meetingctl.device.update.releases import PROGRAM_NAME

SYSTEM_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/system"  # files of the release that lie outside its folder
MANIFEST_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/update_manifest.json"
_VENV_TIMEOUT_S = 120.0
_PIP_TIMEOUT_S = 900.0
_SPACE_FACTOR = 6  # the files, the same installed, and its bytecode
_FULL_BELOW_BYTES = 8 * 1024 * 1024
_SPACE_SPARE_BYTES = 64 * 1024 * 1024
_SETPRIV = "/usr/bin/setpriv"
_SYSTEM_PYTHON = "/usr/bin/python3"


def check_space(system: System, package: Package) -> None:
    """Refuse to begin on a disk that will not hold the release. Raises: StorageFull."""
    free_bytes = _free_bytes(system)
    needed_bytes = package.total_bytes * _SPACE_FACTOR + _SPACE_SPARE_BYTES
    if free_bytes < needed_bytes:
        raise StorageFull(
            f"{layout.WEB_RELEASES_DIR}: {free_bytes >> 20} MiB free, the update needs {needed_bytes >> 20} MiB",
            hint="meetingctl device record prune",
        )


def _free_bytes(system: System) -> int:
    place = system.path(layout.WEB_RELEASES_DIR)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def unpack_package(package: Package, folder: Path) -> None:
    """Write the files of a package into the folder of its release, comparing each with the manifest again.

    Raises: InvalidInput when the package is another one than was checked.
    """
    listed = {file.path: file for file in package.manifest.files}
    with open_members(package.path) as members:
        for member in members:
            name = member.name.removeprefix(f"{PAYLOAD}/")
            if name == member.name:
                continue
            if (file := listed.pop(name, None)) is None or _write_member(member, folder / _place(name)) != file.sha256:
                raise InvalidInput(f"{package.path.name}: {name} changed while it was read", hint="try again")
    if listed:
        raise InvalidInput(f"{package.path.name}: {next(iter(listed))} is gone", hint="try again")
    (folder / MANIFEST_NAME).write_bytes(package.manifest_bytes)


def _place(name: str) -> str:
    if name.startswith(f"{PROGRAM_PREFIX}/"):
        return name.removeprefix(f"{PROGRAM_PREFIX}/")
    return f"{SYSTEM_NAME}/{name}"


def _write_member(member: Member, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    digest = hashlib.sha256()
    is_program = f"/{SYSTEM_NAME}/" in f"{path}/"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:

        def take(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        copy_member(member, take)
        os.fchmod(descriptor, 0o755 if is_program else member.mode)
    return digest.hexdigest()


def choose_python(system: System) -> str:
    """Return the Python of the distribution, which is the one that apt's bindings belong to."""
    return _SYSTEM_PYTHON if Path(_SYSTEM_PYTHON).exists() else "python3"


def build_environment(system: System, folder: Path) -> None:
    """Make the virtual environment of a release from its own wheels, without a network.

    pip comes from its wheel in the package, or from the distribution (python3-venv). Raises: MeetingctlError.
    """
    pip_wheel = next(iter(sorted((folder / "wheels").glob("pip-*.whl"))), None)
    bare = ("--without-pip",) if pip_wheel else ()
    _run(
        system,
        (choose_python(system), "-m", "venv", "--system-site-packages", *bare, str(folder / "venv")),
        _VENV_TIMEOUT_S,
        "apt-get install python3-venv",
    )
    python = str(folder / "venv/bin/python3")
    pip = (python, "-I", f"{pip_wheel}/pip") if pip_wheel else (python, "-I", "-m", "pip")
    _run(
        system,
        (*pip, "--isolated", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "install",
         "--root-user-action=ignore", "--no-warn-script-location", "--ignore-installed", "--no-index",
         "--find-links", str(folder / "wheels"), "--require-hashes", "-r", str(folder / "requirements.txt")),
        _PIP_TIMEOUT_S,
        "build the package for the Python and the architecture of this device: meetingctl builder bundle --help",
    )  # fmt: skip
    program = str(folder / PROGRAM_NAME)
    _run(system, (program, "--version"), 60.0, f"{program} --version")
    os.sync()


def _run(system: System, argv: tuple[str, ...], timeout_s: float, hint: str) -> None:
    # Nothing goes on writing into the folder of a job that was killed.
    dying = (_SETPRIV, "--pdeathsig", "KILL", "--") if Path(_SETPRIV).exists() else ()
    ran = system.run(*dying, *argv, timeout_s=timeout_s)
    if not ran.ok:
        detail = f"no end after {timeout_s:g} s" if ran.timed_out else " ".join((ran.err or ran.out).split())[-300:]
        text = f"{Path(argv[0]).name} {_words(argv)} failed with code {ran.code}: {detail}"
        if os.strerror(errno.ENOSPC) in ran.err + ran.out or _free_bytes(system) < _FULL_BELOW_BYTES:
            raise StorageFull(text, hint="df -h")
        raise MeetingctlError(text, hint=hint)


def _words(argv: tuple[str, ...]) -> str:
    return next((word for word in argv[1:] if word in {"venv", "install"}), argv[-1])
