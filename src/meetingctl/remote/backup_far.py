"""Take and restore a backup of a device, run there: this text is sent and started with the device's own Python.

It knows nothing of the rest of the program, and needs only the standard library of Python 3.9. Its request is a JSON
file: `python3 -I backup_far.py request.json`. `pack` writes a tar archive to standard output; `look` and `restore`
answer with one JSON object, `error` in it says what failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import grp
import hashlib
import io
import json
import os
import pwd
import shutil
import stat
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST_FILE_BYTES = 64 << 20  # of a longer log the end is taken
FOLDER_MODE = 0o775
RENAME_EXCHANGE = 2
AT_FDCWD = -100


def pack(request: dict[str, Any]) -> None:
    """Write the regular files below the folders as a tar stream; `VERSION` comes first."""
    root = Path(request["root"])
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        with contextlib.suppress(OSError):
            add(archive, "VERSION", root / request["version_file"])
        for folder in request["folders"]:
            for name in sorted(files_below(root, folder)):
                # Logs are rotated and settings replaced while this runs.
                with contextlib.suppress(FileNotFoundError):
                    add(archive, name, root / name)


def add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    """Append one file with its rights."""
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        file.seek(max(0, facts.st_size - LARGEST_FILE_BYTES))
        content = file.read(LARGEST_FILE_BYTES)
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = len(content), stat.S_IMODE(facts.st_mode), int(facts.st_mtime)
    header.uname, header.gname = owner_names(facts)
    archive.addfile(header, io.BytesIO(content))


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Return mode, owner and SHA-256 of the files below the folder; null for no folder."""
    root, folder = Path(request["root"]), request["folder"]
    owners = {owner: known_owner(owner) for owner in request["owners"]}
    if not (root / folder).is_dir():
        return {"files": None, "owners": owners}
    found = {}
    for name in sorted(files_below(root, folder)):
        path = root / name
        facts = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[name] = {"mode": stat.S_IMODE(facts.st_mode), "owner": ":".join(owner_names(facts)), "sha256": digest}
    return {"files": found, "owners": owners}


def restore(request: dict[str, Any]) -> dict[str, Any]:
    """Put the files of a staged archive in the place of the folder, in one step; the former folder is kept."""
    root, folder = Path(request["root"]), Path(request["folder"])
    target = root / folder
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"/{folder} is no folder")
    with locked(target.parent):
        settle(target)
        kept = free_name(target)
        new = target.with_name(f".{folder.name}.restore")
        owner = target.stat() if target.is_dir() else None
        unpacked = Path(tempfile.mkdtemp(prefix=f".{folder.name}.unpack.", dir=target.parent))
        try:
            unpack(Path(request["staging"], request["archive"]), folder, unpacked, owner)
            sync(target.parent)
            unpacked.rename(new)
        except BaseException:
            shutil.rmtree(unpacked, ignore_errors=True)
            raise
        if target.is_dir():
            swap(new, target, kept)
        else:
            new.rename(target)
        sync(target.parent)
        return {"kept": f"/{kept.relative_to(root)}" if kept.exists() else None}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other restores out; the lock ends with the process. Raises: ValueError when one runs."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError("another restore runs there; try again when it has ended") from None
        yield
    finally:
        os.close(descriptor)


def settle(target: Path) -> None:
    """Tidy after a restore that was cut off: what was being unpacked goes, what may be the former folder is kept."""
    for half in target.parent.glob(f".{target.name}.unpack.*"):
        shutil.rmtree(half)
    whole = target.with_name(f".{target.name}.restore")
    if whole.is_dir():
        whole.rename(free_name(target))


def free_name(target: Path) -> Path:
    """Return a name for the former folder that nothing has yet; its time is UTC."""
    stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime())
    names = (f"{target.name}.backup_restore_{stamp}{end}" for end in ("", *(f"_{n}" for n in range(2, 1000))))
    return next(path for path in map(target.with_name, names) if not os.path.lexists(path))


def unpack(archive_path: Path, folder: Path, new: Path, owner: os.stat_result | None) -> None:
    """Write the files below `new`; folders get owner and mode of the one that they replace."""
    ids = (owner.st_uid, owner.st_gid) if owner else (ids_of("root", "www-data"))
    mode = stat.S_IMODE(owner.st_mode) if owner else FOLDER_MODE
    folders = {new}
    with tarfile.open(archive_path) as archive:
        for header in archive:
            relative = Path(header.name).relative_to(folder)
            if not header.isreg() or ".." in relative.parts:
                raise ValueError(f"unsafe member {header.name}")
            path = new / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.update(parent for parent in path.parents if new in parent.parents)
            content = archive.extractfile(header)
            assert content is not None
            with path.open("xb") as file:
                os.fchown(file.fileno(), *ids_of(header.uname, header.gname))
                os.fchmod(file.fileno(), header.mode)
                shutil.copyfileobj(content, file)
                file.flush()
                os.fsync(file.fileno())
    for made in sorted(folders, reverse=True):
        os.chown(made, *ids)
        made.chmod(mode)
        sync(made)


def swap(new: Path, target: Path, kept: Path) -> None:
    """Exchange the two folders in one step of the file system, so that one of them is always there."""
    library = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(AttributeError):
        if library.renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0:
            new.rename(kept)
            return
    target.rename(kept)
    try:
        new.rename(target)
    except OSError:
        kept.rename(target)
        raise


def files_below(root: Path, folder: str) -> Iterator[str]:
    """Yield the names of regular files below a folder, from the root; links and the rest are left out."""
    for place, folders, names in os.walk(root / folder):
        folders[:] = [name for name in folders if not Path(place, name).is_symlink()]
        for name in names:
            path = Path(place, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(root).as_posix()


def owner_names(facts: os.stat_result) -> tuple[str, str]:
    """Return user and group, as names where there are some."""
    user, group = str(facts.st_uid), str(facts.st_gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(facts.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(facts.st_gid).gr_name
    return user, group


def ids_of(user: str, group: str) -> tuple[int, int]:
    """Return the numbers of a user and a group; root's where this device has no such name."""
    uid = gid = 0
    with contextlib.suppress(KeyError):
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    with contextlib.suppress(KeyError):
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    return uid, gid


def known_owner(text: str) -> str:
    """Return who an owner of an archive is here, as `ids_of` takes it."""
    user, _, group = text.partition(":")
    uid, gid = ids_of(user, group)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(gid).gr_name
    return f"{user}:{group}"


def sync(folder: Path) -> None:
    """Bring a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> None:
    """Read the request, answer it."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if request["action"] == "pack":
        pack(request)
        return
    try:
        answer = {"look": look, "restore": restore}[request["action"]](request)
    except (OSError, ValueError, tarfile.TarError) as exc:
        answer = {"error": str(exc)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
