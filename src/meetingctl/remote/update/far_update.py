"""Staging of an update on a device: the text of this module is sent and started with the device's own Python.

It knows nothing of the rest of the program, needs only the standard library of Python 3.9, and reads its request from a
JSON file: `python3 -I far_update.py request.json`. The answer is one JSON object; `error` in it says what failed.

Uploads lie in a folder of the user who logged in, each under its SHA-256. Releases that are there already give every
file that is the same: it becomes another name of that file, or a copy where the file system or the mode wants one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1024 * 1024
STALE_S = 7 * 86_400
_VERSION_BYTES = 200


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Say what runs here, which of the files are here already, and what was uploaded of the others."""
    web, releases = Path(request["web"]), Path(request["releases"])
    version = ""
    with contextlib.suppress(OSError), (web / "VERSION").open("rb") as file:
        version = file.read(_VERSION_BYTES).decode("utf-8", "replace").strip().partition("\n")[0]
    present = [item["path"] for item in request["files"] if find(request, item)]
    return {
        "place": "link" if web.is_symlink() else "folder" if web.is_dir() else "none",
        "version": version,
        "has_program": os.access(request["program"], os.X_OK),
        "python": list(sys.version_info[:2]),
        "arch": architecture(),
        "boot_id": Path(request["boot_id"]).read_text(encoding="ascii").strip(),
        "free_bytes": free_bytes(releases),
        "uploads_free_bytes": free_bytes(Path(request["uploads"])),
        "present": present,
        "uploads": {path.name: path.stat().st_size for path in plain_files(Path(request["uploads"]))},
    }


def stage(request: dict[str, Any]) -> dict[str, Any]:
    """Put the package together in the staging folder; its manifest comes last. Uploads that are damaged are removed."""
    folder, uploads = Path(request["staging_folder"]), Path(request["uploads"])
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_stale(folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    damaged = []
    for item in request["files"]:
        place = folder / "payload" / item["path"]
        if is_same(place, item):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        source = find(request, item)
        if source is not None:
            take(source, place, item)
            continue
        upload = uploads / item["sha256"]
        if is_same(upload, item):
            copy(upload, place, item)
        else:
            forget(upload)
            damaged.append(item["path"])
    if damaged:
        return {"damaged": damaged}
    manifest = folder / "update_manifest.json"
    temporary = manifest.with_name(".manifest")
    temporary.write_text(request["manifest"], encoding="utf-8")
    temporary.replace(manifest)
    os.sync()
    return {"folder": str(folder), "damaged": []}


def clean(request: dict[str, Any]) -> dict[str, Any]:
    """Remove the staging folder, the uploads of this package, and what earlier ones left."""
    shutil.rmtree(request["staging_folder"], ignore_errors=True)
    with contextlib.suppress(OSError):  # another package is put together there
        Path(request["staging_folder"]).parent.rmdir()
    own = {item["sha256"] for item in request["files"]}
    for path in plain_files(Path(request["uploads"])):
        if path.name[:64] in own or time.time() - path.lstat().st_mtime > STALE_S:
            forget(path)
    return {}


def find(request: dict[str, Any], item: dict[str, Any]) -> Path | None:
    """Return a file of the staging folder or of a release that is the wanted one."""
    staged = Path(request["staging_folder"], "payload", item["path"])
    if is_same(staged, item):
        return staged
    prefix = request["program_prefix"]
    inside = item["path"][len(prefix) :] if item["path"].startswith(prefix) else f"{request['system']}/{item['path']}"
    for folder in folders(request):
        if is_same(folder / inside, item):
            return folder / inside
    return None


def folders(request: dict[str, Any]) -> Iterator[Path]:
    """Yield the folder that runs, then the other releases."""
    web, releases = Path(request["web"]), Path(request["releases"])
    if web.is_dir():
        yield web.resolve()
    if releases.is_dir():
        names = sorted(entry.name for entry in os.scandir(releases) if entry.is_dir(follow_symlinks=False))
        yield from (releases / name for name in names if not name.startswith("."))


def is_same(path: Path, item: dict[str, Any]) -> bool:
    """Say whether a plain file has this size and content."""
    try:
        facts = path.lstat()
        return stat.S_ISREG(facts.st_mode) and facts.st_size == item["size"] and sha256_of(path) == item["sha256"]
    except OSError:
        return False


def take(source: Path, place: Path, item: dict[str, Any]) -> None:
    """Give a file of a release another name, or copy it."""
    if stat.S_IMODE(source.lstat().st_mode) == item["mode"]:
        with contextlib.suppress(OSError):
            forget(place)
            os.link(source, place, follow_symlinks=False)
            return
    copy(source, place, item)


def copy(source: Path, place: Path, item: dict[str, Any]) -> None:
    """Copy a file, and compare what was copied."""
    temporary = place.with_name(f".{place.name}.part"[-255:])
    forget(temporary)
    digest = hashlib.sha256()
    with source.open("rb") as here, temporary.open("xb") as there:
        while chunk := here.read(CHUNK_BYTES):
            digest.update(chunk)
            there.write(chunk)
        os.fchmod(there.fileno(), item["mode"])
    if digest.hexdigest() != item["sha256"]:
        raise ValueError(f"{item['path']}: changed while it was copied")
    temporary.replace(place)


def forget(path: Path) -> None:
    """Remove what stands in the way of a new file."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def remove_stale(folder: Path) -> None:
    """Remove staging folders of other packages that nobody has touched for days."""
    for other in folder.parent.iterdir():
        if other != folder and time.time() - other.lstat().st_mtime > STALE_S:
            shutil.rmtree(other, ignore_errors=True)


def plain_files(folder: Path) -> list[Path]:
    """Return the plain files of a folder, none when there is no such folder."""
    if not folder.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def architecture() -> str:
    """Return dpkg's name of the architecture, or the kernel's."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["dpkg", "--print-architecture"], stdout=subprocess.PIPE, check=True, timeout=20, text=True
        ).stdout.strip()
    return platform.machine()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def main() -> None:
    """Read the request, answer it."""
    actions = {"look": look, "stage": stage, "clean": clean}
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        answer = actions[request["action"]](request)
    except (OSError, ValueError) as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
