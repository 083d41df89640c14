"""The manifest of a build: what it must say before it can be packaged. Pure.

    {"device_type": "rpicam", "distribution": "trixie", "version": "1.4.0", "notes": "...",
     "files": [{"filename": "app.py", "path": "opt/rpi-cam-webmanager/app.py"}, "README.md"],
     "requires_reboot": false, "required_packages": ["jq"], "restart_services": ["rpi-cam-webmanager"]}

Without `files` every uploaded file is packaged at the top of the archive. With a `path` for each file the archive is an
update package that devices of the original apply: `update_manifest.json` and the files below `payload/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from meetingctl.core.errors import InvalidInput, UnsafeName
from meetingctl.core.ids import is_name
from meetingctl.core.versions import check_name, check_version

CAP_BYTES = 256 * 1024
NAMES = ("device_type", "distribution", "version")
# Where the updater of the original lets a package write.
PAYLOAD_ROOTS = ("opt/rpi-cam-webmanager", "usr/local/bin")
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]+")
_UNIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@_.-]*")


@dataclass(frozen=True, slots=True)
class Item:
    """A file of a build and where it goes: at the top of the archive, or to a path of the device."""

    filename: str
    path: str = ""


def check_manifest(value: Any) -> dict[str, Any]:
    """Return a manifest that can be kept, complete or not. Raises: InvalidInput `Invalid manifest` with the reason."""
    if not isinstance(value, dict):
        raise InvalidInput("Invalid manifest", hint="a manifest is a JSON object")
    if len(json.dumps(value, ensure_ascii=False).encode()) > CAP_BYTES:
        raise InvalidInput("Invalid manifest", hint=f"at most {CAP_BYTES // 1024} KiB")
    try:
        for name in NAMES:
            if value.get(name):
                text = _text(value, name)
                check_version(text) if name == "version" else check_name(text, name)
        _text(value, "notes")
        items = list_items(value)
        _words(value, "required_packages", _PACKAGE_NAME)
        _words(value, "restart_services", _UNIT_NAME)
    except InvalidInput as exc:
        kind = UnsafeName if isinstance(exc, UnsafeName) else InvalidInput
        raise kind("Invalid manifest", hint=exc.hint or exc.message) from None
    if items and any(item.path for item in items) and not all(item.path for item in items):
        raise InvalidInput("Invalid manifest", hint="either every file has a path or none")
    return value


def list_missing(manifest: Mapping[str, Any], uploaded: Collection[str]) -> list[str]:
    """Return what is missing before the build can be packaged: names of keys, and `file:NAME`."""
    missing = [name for name in NAMES if not manifest.get(name)]
    wanted = list_items(manifest)
    if not wanted and not uploaded:
        missing.append("files")
    return missing + [f"file:{item.filename}" for item in wanted if item.filename not in uploaded]


def list_items(manifest: Mapping[str, Any]) -> list[Item]:
    """Return the files that a manifest names. Raises: InvalidInput for a name or path that is not allowed."""
    entries = manifest.get("files") or []
    if not isinstance(entries, list):
        raise InvalidInput("Invalid manifest", hint="files is a list")
    items = [_item(entry) for entry in entries]
    if len({item.filename for item in items}) != len(items) or len(
        {item.path or item.filename for item in items}
    ) != len(items):
        raise InvalidInput("Invalid manifest", hint="a file stands twice in files")
    return items


def is_update_package(items: Collection[Item]) -> bool:
    """Say whether the archive is to be one that devices of the original apply."""
    return bool(items) and all(item.path for item in items)


def update_manifest(
    manifest: Mapping[str, Any], files: Collection[tuple[str, int, str]], created_at: str
) -> dict[str, Any]:
    """Return `update_manifest.json`; `files` are (path on the device, bytes, SHA-256)."""
    listed = [{"path": path, "size": size_bytes, "sha256": sha256} for path, size_bytes, sha256 in sorted(files)]
    return {
        "schema_version": "1",
        "version": manifest["version"],
        "created_at": created_at,
        "requires_reboot": bool(manifest.get("requires_reboot")),
        "required_packages": _words(manifest, "required_packages", _PACKAGE_NAME),
        "restart_services": _words(manifest, "restart_services", _UNIT_NAME) or ["rpi-cam-webmanager"],
        "allow_reapply": bool(manifest.get("allow_reapply")),
        "files": listed,
    }


def _item(entry: Any) -> Item:
    if isinstance(entry, str):
        entry = {"filename": entry}
    if not isinstance(entry, dict):
        raise InvalidInput("Invalid manifest", hint="an entry of files is a name, or an object with filename and path")
    filename, path = entry.get("filename") or entry.get("name"), entry.get("path") or ""
    if not isinstance(filename, str) or not is_name(filename) or not isinstance(path, str):
        raise UnsafeName("Invalid manifest", hint="an entry of files has a plain filename")
    path = path.replace("\\", "/").removeprefix("payload/")
    if path and not (path.startswith(tuple(f"{root}/" for root in PAYLOAD_ROOTS)) and _is_plain(path)):
        raise UnsafeName("Invalid manifest", hint=f"a path lies below {' or '.join(PAYLOAD_ROOTS)}")
    return Item(filename, path)


def _is_plain(path: str) -> bool:
    return len(path) <= 240 and all(
        is_name(part) or re.fullmatch(r"\.?[A-Za-z0-9_][\w.-]*", part) for part in path.split("/")
    )


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name, "")
    if not isinstance(found, str) or len(found) > 4000 or "\0" in found:
        raise InvalidInput("Invalid manifest", hint=f"{name} is a text")
    return found


def _words(value: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> list[str]:
    found = value.get(name) or []
    words = re.split(r"[,\s]+", found.strip()) if isinstance(found, str) else found
    if not isinstance(words, list) or len(words) > 200:
        raise InvalidInput("Invalid manifest", hint=f"{name} is a list of names")
    if not all(isinstance(word, str) and pattern.fullmatch(word) for word in words):
        raise InvalidInput("Invalid manifest", hint=f"{name} holds what is no name")
    return list(words)
