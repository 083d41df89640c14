"""Configuration files of devices: where they are, read and written there, JSON by dotted path, differences.

What a key of config.env may hold is not known here: the caller brings the text that is to be written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from meetingctl.core.errors import InvalidInput, MeetingctlError, NotFound
from meetingctl.core.layout import CONFIG_DIR
from meetingctl.remote.staging import Staging, privilege_for

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_SECRET_NAME = re.compile(r"pass|psk|secret|token|credential|private_?key|api_?key", re.IGNORECASE)
MASK = "***"
_URL_LOGIN = re.compile(r"(?P<head>://[^\s/@:]*):\S*@")


@dataclass(frozen=True, slots=True)
class FarFile:
    """A file as it is on the device; `text` is empty and `sha256` None when it is not there."""

    path: str
    text: str = ""
    sha256: str | None = None


def file_path(name: str) -> str:
    """Return the path of `--file`: a name is below /etc/rpi-cam, an absolute path stands for itself.

    Raises: InvalidInput for anything but *.env and *.json.
    """
    path = name if name.startswith("/") else f"{CONFIG_DIR}/{name}"
    if not name.startswith("/") and not _PLAIN_NAME.fullmatch(name):
        raise InvalidInput(f"not a file below {CONFIG_DIR}: {name[:100]!r}", hint="use for example --file meeting.json")
    if PurePosixPath(path).suffix not in {".env", ".json"}:
        raise InvalidInput(f"{name}: neither config.env nor a JSON file", hint="use for example --file meeting.json")
    privilege_for(path, "nobody")
    return path


async def read_file(staging: Staging, path: str) -> FarFile:
    """Read a configuration file. Raises: AuthError, MeetingctlError."""
    privilege = privilege_for(path, staging.visit.login.user)
    answer = await staging.request({"action": "read", "paths": [path]}, privilege=privilege)
    try:
        facts = answer["files"][path]
        return FarFile(path) if facts is None else FarFile(path, str(facts["text"]), str(facts["sha256"]))
    except (KeyError, TypeError) as exc:
        raise MeetingctlError(f"{staging.visit.target}: its answer makes no sense: {exc!r}") from exc


async def write_file(staging: Staging, file: FarFile, text: str) -> str | None:
    """Replace a file that was read before, and return the path of the copy of the old one.

    Raises: AuthError, MeetingctlError also when somebody else has changed it since.
    """
    privilege = privilege_for(file.path, staging.visit.login.user)
    request = {"action": "write", "path": file.path, "text": text, "expect": file.sha256}
    backup = (await staging.request(request, privilege=privilege)).get("backup")
    return None if backup is None else str(backup)


def parse_json(text: str, path: str) -> Any:
    """Read a JSON file; an empty one is an empty object. Raises: MeetingctlError."""
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as exc:
        raise MeetingctlError(f"{path}: not JSON: {exc}", hint="meetingctl remote config push TARGET FILE") from exc


def render_json(value: Any) -> str:
    """Write a JSON file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def find_path(document: Any, path: str) -> Any:
    """Return the value at a dotted path; numbers index arrays. Raises: NotFound."""
    value = document
    for step in path.split("."):
        value = _child(value, step, path)
    return value


def set_path(document: Any, path: str, text: str) -> Any:
    """Return the document with another value at a dotted path; objects on the way are made. Pure.

    A text stays a text where one stands, and where nothing stands and it is no JSON; else it is read as JSON and must
    have the type of what stands there. Raises: InvalidInput, NotFound for an array without this index.
    """
    head, _, rest = path.partition(".")
    if not head:
        raise InvalidInput(f"not a path: {path[:100]!r}", hint="use for example ethernet.gateway or networks.0.ssid")
    if isinstance(document, list):
        old = _child(document, head, path)
        changed = list(document)
        changed[int(head)] = set_path(old, rest, text) if rest else _parse_value(path, old, text)
        return changed
    if not isinstance(document, Mapping):
        raise InvalidInput(f"{path}: nothing can stand below {str(document)[:40]!r}")
    old = document.get(head)
    value = set_path({} if old is None else old, rest, text) if rest else _parse_value(path, old, text)
    return {**document, head: value}


def unset_path(document: Any, path: str) -> Any:
    """Return the document without what stands at a dotted path. Pure. Raises: NotFound."""
    head, _, rest = path.partition(".")
    old = _child(document, head, path)
    if isinstance(document, list):
        index = int(head)
        return [*document[:index], *([unset_path(old, rest)] if rest else []), *document[index + 1 :]]
    if rest:
        return {**document, head: unset_path(old, rest)}
    return {key: value for key, value in document.items() if key != head}


def flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    """Return the plain values of a document by dotted path; an empty object or array is one. Pure."""
    if isinstance(document, Mapping) and document:
        pairs = [(str(key), value) for key, value in document.items()]
    elif isinstance(document, list) and document:
        pairs = [(str(number), value) for number, value in enumerate(document)]
    else:
        return {prefix: document}
    found: dict[str, Any] = {}
    for name, value in pairs:
        found |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return found


def diff_values(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what differs, by name: the values of both sides, secrets as `***`; None where there is none. Pure."""
    names = [*old, *(name for name in new if name not in old)]
    return [
        {"key": name, "old": mask(name, old.get(name)), "new": mask(name, new.get(name))}
        for name in names
        if old.get(name) != new.get(name) or (name in old) != (name in new)
    ]


def mask(name: str, value: Any) -> Any:
    """Return a value as it may be shown: `***` for one whose name is that of a secret, and for a password in a URL."""
    if value not in (None, "") and _SECRET_NAME.search(name) and not isinstance(value, bool):
        return MASK
    return _URL_LOGIN.sub(rf"\g<head>:{MASK}@", value) if isinstance(value, str) else value


def split_words(
    words: Sequence[str], *, is_key: Any, takes_value: bool
) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Divide words into targets and keys with their values: `KEY=VALUE` words, or one `KEY [VALUE]` at the end. Pure.

    The key is the first word that is one; when none is, it is the last word, or the last but one before a value.
    """
    pairs = [word.split("=", 1) for word in words if "=" in word]
    if takes_value and pairs and "=" in words[-1] and not any(is_key(word) for word in words):
        return [word for word in words if "=" not in word], [(name, value) for name, value in pairs]
    first = next((index for index, word in enumerate(words) if is_key(word)), None)
    if first is None:
        first = max(0, len(words) - (2 if takes_value else 1))
    tail = list(words[first:])
    if not takes_value:
        return list(words[:first]), [(name, None) for name in tail]
    if len(tail) > 2:
        raise InvalidInput(f"too many words after {tail[0]}", hint="write several keys as KEY=VALUE")
    return list(words[:first]), [(tail[0], tail[1] if len(tail) == 2 else None)] if tail else []


def _parse_value(path: str, old: Any, text: str) -> Any:
    if isinstance(old, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        if old is None:
            return text
        value = text
    if old is not None and not _is_alike(old, value):
        raise InvalidInput(f"{path} is {text[:80]!r}, but {json.dumps(old)[:80]} stands there: another kind of value")
    return value


def _is_alike(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return isinstance(old, bool) and isinstance(new, bool)
    if isinstance(old, int | float):
        return isinstance(new, int | float)
    return isinstance(new, type(old))


def _child(value: Any, step: str, path: str) -> Any:
    if isinstance(value, Mapping) and step in value:
        return value[step]
    if isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
        return value[int(step)]
    raise NotFound(f"no {step!r} on the way to {path!r}")
