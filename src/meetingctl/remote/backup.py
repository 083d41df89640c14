"""Backups of devices: fetch one, and put one back."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from meetingctl.core import layout
from meetingctl.core.device_backup import (
    LARGEST_TOTAL_BYTES,
    Backup,
    BackupFile,
    add_file,
    backup_name,
    open_files,
    read_backup,
    write_backup,
)
from meetingctl.core.errors import MeetingctlError, TooLarge, UsageError
from meetingctl.core.plan import Step
from meetingctl.core.secret import Secret
from meetingctl.core.untrusted_tar import BROKEN
from meetingctl.remote import sealed
from meetingctl.remote.command import CappedOutput
from meetingctl.remote.staging import open_staging
from meetingctl.remote.visit import Answer, Privilege, Visit, explain_failure

_PROGRAM = "backup_far.py"
_ROOT = "/"
_CONFIG = layout.CONFIG_DIR[1:]
_VERSION = "VERSION"
_UNKNOWN_VERSION = "0"  # of a device without a VERSION file
_ARCHIVE = "config.tar"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A backup that was written: where, and what its manifest says."""

    path: Path
    size_bytes: int
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the configuration as it is on the device."""

    mode: int
    sha256: str
    owner: str


async def fetch_backup(visit: Visit, folder: Path, *, include_logs: bool, passphrase: Secret | None) -> Fetched:
    """Take a backup of a device and write it below `folder`, whole or not at all; only you may read it.

    Raises: AuthError when sudo refuses, NotFound for a device without config.env, TooLarge, MeetingctlError.
    """
    folders = [_CONFIG, *([layout.LOG_DIR[1:]] if include_logs else [])]
    request = {"action": "pack", "root": _ROOT, "folders": folders, "version_file": layout.VERSION_FILE[1:]}
    with tempfile.TemporaryFile() as stream:
        async with open_staging(visit, _PROGRAM) as staging:
            await staging.put("request.json", json.dumps(request).encode())
            await _receive(visit, f"python3 -I {staging.folder}/{_PROGRAM} {staging.folder}/request.json", stream)
        return await asyncio.to_thread(_finish, stream, folder, visit, include_logs, passphrase)


async def _receive(visit: Visit, line: str, stream: IO[bytes]) -> None:
    errors, received_bytes = CappedOutput(), 0

    def take(chunk: bytes) -> None:
        nonlocal received_bytes
        received_bytes += len(chunk)
        visit.heard()
        if received_bytes <= LARGEST_TOTAL_BYTES:
            stream.write(chunk)

    outcome = await visit.stream(line, stdout=take, stderr=errors.write, privilege=Privilege.needed)
    if outcome.exit_code:
        raise explain_failure(str(visit.target), visit.login.user, Answer(outcome.exit_code, "", errors.text))
    if received_bytes > LARGEST_TOTAL_BYTES:
        raise TooLarge(f"{visit.target}: over {LARGEST_TOTAL_BYTES >> 30} GiB", hint="leave out --include-logs")


def _finish(stream: IO[bytes], folder: Path, visit: Visit, include_logs: bool, passphrase: Secret | None) -> Fetched:
    """Write the archive from what was received."""
    now_s = time.time()
    path = folder / (backup_name(now_s) + (sealed.SUFFIX if passphrase else ""))
    try:
        versions = [file.content for file in _received(stream) if file.name == _VERSION]
        version = versions[0].decode("utf-8", "replace").strip() if versions else ""
        names = [file.name for file in _received(stream) if file.name != _VERSION]
        with tempfile.TemporaryFile() as plain:
            manifest = write_backup(
                plain,
                names,
                lambda: (file for file in _received(stream) if file.name != _VERSION),
                version=version or _UNKNOWN_VERSION,
                created_s=now_s,
                include_logs=include_logs,
            )
            plain.seek(0)
            return Fetched(path, _place(plain, path, passphrase), manifest)
    except BROKEN as exc:
        raise MeetingctlError(f"{visit.target}: its answer is no whole archive: {exc}") from exc
    except OSError as exc:
        raise MeetingctlError(f"cannot write {path}: {(exc.strerror or str(exc)).lower()}") from exc


def _received(stream: IO[bytes]) -> Iterator[BackupFile]:
    """Read the files of what a device sent, from the start."""
    stream.seek(0)
    for name, header, file in open_files(stream, _VERSION):
        yield BackupFile(name, header.mode, f"{header.uname}:{header.gname}", file.read(), header.mtime)


def _place(plain: IO[bytes], path: Path, passphrase: Secret | None) -> int:
    """Write the archive beside its place, then rename it; return its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".rpi-cam-backup.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            if passphrase:
                sealed.seal(plain, out, passphrase)
            else:
                shutil.copyfileobj(plain, out)
            out.flush()
            os.fsync(out.fileno())
            size_bytes = out.tell()
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return size_bytes


def open_backup(path: Path, passphrase: Secret | None) -> Backup:
    """Read and verify a backup. Raises: UsageError, AuthError, InvalidInput, TooLarge, OSError."""
    if not sealed.is_sealed(path):
        return read_backup(path)
    if passphrase is None:
        raise UsageError(f"{path.name} is sealed", hint="name the file with its passphrase: --passphrase-file FILE")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, path.name.removesuffix(sealed.SUFFIX))
        with path.open("rb") as source, plain.open("wb") as out:
            sealed.unseal(source, out, passphrase)
        return read_backup(plain)


@dataclass(frozen=True, slots=True)
class Found:
    """The configuration of a device: its files, and who owners of a backup are there; a name may be unknown to it."""

    files: Mapping[str, FoundFile]
    owners: Mapping[str, str] = field(default_factory=dict)


async def look(visit: Visit, backup: Backup) -> Found | None:
    """Return the configuration as it is on the device; None without the folder. Raises: AuthError."""
    owners = sorted({file.owner for file in backup.config})
    async with open_staging(visit, _PROGRAM) as staging:
        request = {"action": "look", "root": _ROOT, "folder": _CONFIG, "owners": owners}
        answer = await staging.request(request, privilege=Privilege.needed)
    try:
        if (files := answer["files"]) is None:
            return None
        return Found(
            {name: FoundFile(f["mode"], f["sha256"], f["owner"]) for name, f in files.items()},
            {name: str(there) for name, there in answer["owners"].items()},
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise MeetingctlError(f"{visit.target}: its answer makes no sense: {exc!r}") from exc


def plan_restore(backup: Backup, found: Found | None, *, reboot: bool) -> list[Step]:
    """Decide what a restore does: facts in, steps out. Pure; a device that is as the backup says gets no step."""
    steps = []
    present = found.files if found else {}
    owners = found.owners if found else {}
    for file in backup.config:
        owner = owners.get(file.owner, file.owner)
        there = present.get(file.name)
        if there is None:
            steps.append(Step("write", f"/{file.name}", "not there"))
        elif there.sha256 != file.sha256:
            steps.append(Step("write", f"/{file.name}", "differs"))
        elif there.mode != file.safe_mode:
            steps.append(Step("write", f"/{file.name}", f"mode is {there.mode:04o}, not {file.safe_mode:04o}"))
        elif there.owner != owner:
            steps.append(Step("write", f"/{file.name}", f"belongs to {there.owner}, not {owner}"))
    kept = {file.name for file in backup.config}
    steps += [Step("take-away", f"/{name}", "not in the backup") for name in sorted(present) if name not in kept]
    if steps and found is not None:
        steps.append(Step("keep", layout.CONFIG_DIR, "the former folder stays beside it"))
    if steps and reboot:
        steps.append(Step("reboot", "device", "all of it reads the configuration anew"))
    return steps


async def put_back(visit: Visit, backup: Backup) -> str | None:
    """Replace the configuration of the device in one step; return where the former folder is, None without one.

    Raises: AuthError, MeetingctlError.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in backup.config:
            add_file(archive, replace(file, mode=file.safe_mode))
    async with open_staging(visit, _PROGRAM) as staging:
        await staging.put(_ARCHIVE, content.getvalue())
        request = {"action": "restore", "root": _ROOT, "folder": _CONFIG, "archive": _ARCHIVE}
        kept = (await staging.request(request, privilege=Privilege.needed)).get("kept")
    return None if kept is None else str(kept)
