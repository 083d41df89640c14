"""Work on files of a device, run there: the text of this module is sent and started with the device's own Python.

It knows nothing of the rest of the program, needs only the standard library of Python 3.9, and reads its request from a
JSON file: `python3 -I far.py request.json`. The answer is one JSON object on standard output; `error` in it says what
failed.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import io
import json
import os
import pwd
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

NEW_FILE_MODE = 0o640
READ_CAP_BYTES = 1024 * 1024
CHUNK_BYTES = 1024 * 1024


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the files below `root`: those in `names`, and all of them when `all` is true."""
    root = Path(request["root"]).expanduser()
    names = set(request["names"])
    if request.get("all"):
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name != "__pycache__"]
            names.update(Path(folder, name).relative_to(root).as_posix() for name in files)
    return {"files": {name: facts for name in sorted(names) if (facts := describe(root / name))}}


def install(request: dict[str, Any]) -> dict[str, Any]:
    """Put staged files below `root`, each in one step; change attributes; delete."""
    root = Path(request["root"]).expanduser()
    for item in request["files"]:
        path = root / item["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(request["staging"], item["staged"])
        if sha256_of(staged) != item["sha256"]:
            raise ValueError(f"{item['name']}: damaged on the way, or changed while it was sent")
        with staged.open("rb") as content:
            replace(path, content, mode=item["mode"], owner=item["owner"], new_mode=item["new_mode"])
    for item in request["attributes"]:
        path = root / item["name"]
        if item["owner"]:
            os.chown(path, *ids_of(item["owner"]))
        if item["mode"] is not None:
            path.chmod(item["mode"])
    for name in request["delete"]:
        (root / name).unlink(missing_ok=True)
    return {}


def read(request: dict[str, Any]) -> dict[str, Any]:
    """Return the texts of files with their attributes; null for one that is not there."""
    found: dict[str, Any] = {}
    for name in request["paths"]:
        path = Path(name).resolve()
        facts = describe(path)
        if facts is not None:
            with path.open("rb") as file:
                content = file.read(READ_CAP_BYTES + 1)
            if len(content) > READ_CAP_BYTES:
                raise ValueError(f"{name}: over {READ_CAP_BYTES} bytes")
            facts["text"] = content.decode("utf-8-sig")
        found[name] = facts
    return {"files": found}


def write(request: dict[str, Any]) -> dict[str, Any]:
    """Replace a file in one step, with a copy of the old one beside it; owner and mode stay unless they are given.

    `expect` is the SHA-256 of the content that the change was made from, null for none: what somebody else wrote
    meanwhile is not lost.
    """
    path = Path(request["path"]).resolve()
    before = describe(path)
    if (before["sha256"] if before else None) != request["expect"]:
        raise ValueError(f"{request['path']}: was changed by somebody else meanwhile")
    backup = None
    if before:
        backup = path.with_name(f"{path.name}.bak-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}")
        mode = int(before["mode"])
        with path.open("rb") as content:
            replace(backup, content, mode=mode, owner=before["owner"], new_mode=mode)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    text = io.BytesIO(request["text"].encode())
    replace(path, text, mode=request.get("mode"), owner=request.get("owner"), new_mode=NEW_FILE_MODE)
    return {"backup": str(backup) if backup else None}


def describe(path: Path) -> dict[str, Any] | None:
    """Return mode, owner and SHA-256 of a file; None when nothing is there. A link has no SHA-256."""
    try:
        facts = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(facts.st_mode):
        raise ValueError(f"{path}: is a folder")
    found: dict[str, Any] = {"mode": stat.S_IMODE(facts.st_mode), "owner": owner_name(facts), "sha256": None}
    if stat.S_ISREG(facts.st_mode):
        found["sha256"] = sha256_of(path)
    return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def replace(path: Path, content: BinaryIO, *, mode: int | None, owner: str | None, new_mode: int) -> None:
    """Write a file beside its place, then rename it; what is not given stays as it was, or is that of the folder."""
    try:
        old: os.stat_result | None = path.lstat()
    except FileNotFoundError:
        old = None
    if old is not None and not stat.S_ISREG(old.st_mode):
        old = None
    kept = old or path.parent.stat()
    ids = ids_of(owner) if owner else (kept.st_uid, kept.st_gid)
    if mode is None:
        mode = stat.S_IMODE(old.st_mode) if old else new_mode
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            try:
                os.fchown(file.fileno(), *ids)
            except PermissionError:
                if owner or old:
                    raise
            os.fchmod(file.fileno(), mode)
            shutil.copyfileobj(content, file, CHUNK_BYTES)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def ids_of(owner: str) -> tuple[int, int]:
    """Return user and group id of `user:group`, names or numbers; without a group that of the user."""
    user, _, group = owner.partition(":")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        if not group:
            return entry.pw_uid, entry.pw_gid
        return entry.pw_uid, int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"no such owner on the device: {owner}") from None


def owner_name(facts: os.stat_result) -> str:
    """Return `user:group` with names where there are some."""
    user, group = str(facts.st_uid), str(facts.st_gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(facts.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(facts.st_gid).gr_name
    return f"{user}:{group}"


def main() -> None:
    """Read the request, answer it."""
    actions = {"look": look, "install": install, "read": read, "write": write}
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        answer = actions[request["action"]](request)
    except (OSError, ValueError) as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
