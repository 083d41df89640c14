"""The backup of a device: an archive with a manifest, its configuration, and if wanted its logs. Build it, verify it.

`backup_manifest.json` says schema_version 1, the version of the device, created_at, include_logs and the files;
`etc/rpi-cam/...` and `var/log/rpi-cam/...` are the files. Source: the backups of the devices in the field, which are
read alike. Nothing of an archive is believed: names, kinds, sizes and numbers are checked while it is read.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from meetingctl.core import layout
from meetingctl.core.errors import InvalidInput, NotFound, TooLarge
from meetingctl.core.untrusted_tar import Kind, Readable, naming_broken, open_file, open_stream, unpack

MANIFEST_NAME = "backup_manifest.json"
SCHEMA_VERSION = 1
CONFIG_PREFIX = f"{layout.CONFIG_DIR[1:]}/"
LOG_PREFIX = f"{layout.LOG_DIR[1:]}/"
NEEDED_FILE = layout.CONFIG_ENV[1:]

LARGEST_CONFIG_BYTES = 16 << 20  # all files of the configuration together
LARGEST_TOTAL_BYTES = 2 << 30
LARGEST_LOG_BYTES = 64 << 20  # of a longer one a device sends the end
MOST_MEMBERS = 20_000
_LARGEST_MANIFEST_BYTES = 4 << 20
# Files that hold a credential of the device are for root alone, whatever an archive says.
_ROOT_ONLY = frozenset({layout.MEETING_JSON[1:], layout.ONVIF_CONF[1:]})
_HINT = "take another backup: meetingctl remote backup TARGET"
_KIND = Kind(
    "backup",
    _HINT,
    MOST_MEMBERS,
    LARGEST_TOTAL_BYTES,
    highest_ratio=200,  # text of logs reaches 30
    ratio_counts_from_bytes=32 << 20,
    packings=("gzip",),
)


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A file: its name without the leading slash, its rights, `user:group`, and its content."""

    name: str
    mode: int
    owner: str
    content: bytes
    modified_s: float = 0.0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def safe_mode(self) -> int:
        """The mode that it gets on a device: nothing for others, nothing but reading and writing."""
        return self.mode & (0o600 if self.name in _ROOT_ONLY else 0o660) | 0o600


@dataclass(frozen=True, slots=True)
class Backup:
    """A verified archive: the manifest, the files of the configuration, and the names of the logs."""

    version: str
    created_at: str
    include_logs: bool
    config: tuple[BackupFile, ...]
    logs: tuple[str, ...]

    def text(self, device_path: str) -> str | None:
        """Return a file of the configuration as text; None when it is not in the backup."""
        found = next((file for file in self.config if f"/{file.name}" == device_path), None)
        return None if found is None else found.content.decode("utf-8-sig", "surrogateescape")


def backup_name(moment_s: float) -> str:
    """Return the file name of a backup that is taken now."""
    return f"rpi-cam-backup_{time.strftime('%Y%m%d_%H%M%S', time.gmtime(moment_s))}.tar.gz"


def write_backup(
    out: IO[bytes],
    names: Iterable[str],
    files: Callable[[], Iterator[BackupFile]],
    *,
    version: str,
    created_s: float,
    include_logs: bool,
) -> dict[str, Any]:
    """Write an archive and return its manifest; the same files at the same time give the same bytes.

    `files` yields the files of `names`, one at a time. Raises: NotFound when config.env is not among them.
    """
    listed = sorted(names)
    if NEEDED_FILE not in listed:
        raise NotFound(f"no /{NEEDED_FILE} to back up", hint="meetingctl device check --repair")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "version": version,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created_s)),
        "include_logs": include_logs,
        "files": listed,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
    with (
        gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=created_s, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        add_file(archive, BackupFile(MANIFEST_NAME, 0o644, "root:root", text, created_s))
        for file in files():
            add_file(archive, file)
    return manifest


def add_file(archive: tarfile.TarFile, file: BackupFile) -> None:
    """Append a file to a tar archive."""
    header = tarfile.TarInfo(file.name)
    header.uname, _, header.gname = file.owner.partition(":")
    header.mode, header.size, header.mtime = file.mode, len(file.content), int(file.modified_s)
    archive.addfile(header, io.BytesIO(file.content))


def read_backup(path: Path) -> Backup:
    """Read and verify an archive; logs are looked at and not kept.

    Raises: InvalidInput for what is no backup or is incomplete, TooLarge, OSError for a file that cannot be opened.
    """
    manifest: Mapping[str, Any] | None = None
    config: list[BackupFile] = []
    logs: list[str] = []
    config_bytes = 0
    with path.open("rb") as packed, naming_broken(f"{path.name}: not a whole archive", _HINT):
        for name, header, file in open_files(unpack(packed, _KIND)):
            if name == MANIFEST_NAME:
                manifest = _parse_manifest(file.read(_LARGEST_MANIFEST_BYTES + 1))
            elif name.startswith(LOG_PREFIX):
                logs.append(name)
            else:
                owner = f"{header.uname or 'root'}:{header.gname or 'root'}"
                config.append(BackupFile(name, header.mode, owner, file.read(), header.mtime))
                config_bytes += len(config[-1].content)
                if config_bytes > LARGEST_CONFIG_BYTES:
                    raise TooLarge(f"{path.name}: a configuration of over {LARGEST_CONFIG_BYTES >> 20} MiB")
    if manifest is None:
        raise InvalidInput(f"{path.name}: no {MANIFEST_NAME} in it, so it is no backup", hint=_HINT)
    return _complete(path.name, manifest, config, logs)


def _complete(archive: str, manifest: Mapping[str, Any], config: list[BackupFile], logs: list[str]) -> Backup:
    """Compare what is listed with what is there. Raises: InvalidInput."""
    names, listed = {file.name for file in config}, set(manifest["files"])
    if NEEDED_FILE not in listed:
        raise InvalidInput(f"{archive}: its manifest does not list {NEEDED_FILE}", hint=_HINT)
    if missing := sorted(listed - names - set(logs)):
        raise InvalidInput(f"{archive}: {missing[0]} is listed and not in it", hint=_HINT)
    if unlisted := sorted(names - listed):
        raise InvalidInput(f"{archive}: {unlisted[0]} is in it and not listed", hint=_HINT)
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    if both := sorted(names & folders):
        raise InvalidInput(f"{archive}: {both[0]} is a file and a folder in it", hint=_HINT)
    return Backup(
        str(manifest["version"]),
        str(manifest.get("created_at") or ""),
        bool(manifest.get("include_logs")),
        tuple(sorted(config, key=lambda file: file.name)),
        tuple(sorted(logs)),
    )


def _parse_manifest(content: bytes) -> Mapping[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{MANIFEST_NAME}: not JSON", hint=_HINT) from exc
    if not isinstance(facts, dict) or str(facts.get("schema_version")) != str(SCHEMA_VERSION):
        raise InvalidInput(f"{MANIFEST_NAME}: schema_version is not {SCHEMA_VERSION}", hint=_HINT)
    if not isinstance(facts.get("version"), str) or not facts["version"]:
        raise InvalidInput(f"{MANIFEST_NAME}: no version", hint=_HINT)
    files = facts.get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise InvalidInput(f"{MANIFEST_NAME}: files is no list of names", hint=_HINT)
    return {**facts, "files": [check_name(name) for name in files]}


def check_name(text: str, own: str = MANIFEST_NAME) -> str:
    """Return the name of a member; `own` is the one outside the two folders. Raises: InvalidInput."""
    name = text.removeprefix("./")
    parts = PurePosixPath(name).parts
    is_plain = name.isprintable() and name == "/".join(parts) and ".." not in parts and not name.startswith("/")
    if not is_plain or len(os.fsencode(name)) > 255:
        raise InvalidInput(f"unsafe name in the backup: {text[:140]!r}", hint=_HINT)
    if name != own and not name.startswith((CONFIG_PREFIX, LOG_PREFIX)):
        raise InvalidInput(f"{name}: a backup has only {CONFIG_PREFIX} and {LOG_PREFIX}", hint=_HINT)
    return name


def open_files(plain: Readable, own: str = MANIFEST_NAME) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
    """Yield the regular files of a tar archive that is not packed, each good until the next; folders are passed over.

    Raises: InvalidInput, TooLarge; what is in BROKEN and OSError for what is no whole archive.
    """
    names: set[str] = set()
    total_bytes = 0
    with open_stream(plain, _KIND) as archive:
        for header in archive:
            if header.isdir():
                continue
            name = check_name(header.name, own)
            file = open_file(archive, header, name, _KIND)
            if name in names or len(names) >= MOST_MEMBERS:
                raise InvalidInput(f"{name}: twice in the backup, or one of over {MOST_MEMBERS}", hint=_HINT)
            names.add(name)
            total_bytes += header.size
            limit_bytes = LARGEST_LOG_BYTES if name.startswith(LOG_PREFIX) else LARGEST_CONFIG_BYTES
            if header.size > limit_bytes or total_bytes > LARGEST_TOTAL_BYTES:
                raise TooLarge(f"{name}: {header.size} bytes are too many for a file of a backup", hint=_HINT)
            yield name, header, file
