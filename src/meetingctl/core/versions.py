"""Versions of releases and the manifest that describes one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from meetingctl.core.errors import InvalidInput, UnsafeName
from meetingctl.core.ids import is_name

MANIFEST_CAP_BYTES = 1024 * 1024
VERSION_MAX = 64
NOTES_MAX = 4000
RELEASE_FILES = ("manifest.json", "manifest.sig", "CHANGELOG.md")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".zip")
FIRST_VERSION = "1.0.0"
_TOKEN = re.compile(r"[0-9]+|[A-Za-z]+")
_LAST_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_END = (1, 0, "")

VersionKey = tuple[tuple[int, int, str], ...]


def version_key(text: str) -> VersionKey:
    """Return what orders versions: numbers by value, `1.0-rc1` before `1.0` before `1.0.1`; a first `v` is left out."""
    tokens = _TOKEN.findall(text[1:] if re.match(r"[vV][0-9]", text) else text)
    parts = [(2, int(token), "") if token.isdigit() else (0, 0, token.lower()) for token in tokens]
    return (*parts, _END)


def newest_first(versions: Iterable[str]) -> list[str]:
    """Sort versions; those of equal rank by their text, so that the order is always the same."""
    return sorted(versions, key=lambda version: (version_key(version), version), reverse=True)


def suggest_next(versions: Iterable[str]) -> str:
    """Return the newest version with its last number one higher, `1.0.0` when there is none (decision D-SUGGEST)."""
    ordered = newest_first(versions)
    if not ordered:
        return FIRST_VERSION
    newest = ordered[0]
    if not _LAST_NUMBER.search(newest):
        return f"{newest[: VERSION_MAX - 2]}.1"
    return _LAST_NUMBER.sub(lambda found: str(int(found[0]) + 1).zfill(len(found[0])), newest)[:VERSION_MAX]


def check_name(text: str, what: str) -> str:
    """Return a device type, distribution or file name that is safe in a path. Raises: UnsafeName."""
    if not is_name(text) or text.endswith("."):
        raise UnsafeName(f"Invalid {what}", hint="use letters, digits, dots, dashes and underscores")
    return text


def check_version(text: str) -> str:
    """Return a version that is safe in a path. Raises: InvalidInput."""
    if text.startswith("-"):
        raise UnsafeName("Invalid version", hint="a version begins with a letter or a digit")
    if len(text) > VERSION_MAX:
        raise InvalidInput("Invalid version", hint=f"a version has at most {VERSION_MAX} characters")
    return check_name(text, "version")


def check_archive_name(text: str) -> str:
    """Return the name of an archive. Raises: InvalidInput for another suffix and for the names beside it."""
    check_name(text, "archive name")
    if text in RELEASE_FILES or not text.lower().endswith(ARCHIVE_SUFFIXES):
        raise InvalidInput("Invalid archive name", hint=f"an archive ends in {', '.join(ARCHIVE_SUFFIXES)}")
    return text


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a release says of itself; `created_at` is ISO 8601 with `Z`, empty when the writer left it out."""

    version: str
    device_type: str
    distribution: str
    archive: str
    sha256: str
    size_bytes: int
    notes: str = ""
    created_at: str = ""

    def to_bytes(self) -> bytes:
        """Write it as the contract's JSON object."""
        facts = {
            "version": self.version,
            "device_type": self.device_type,
            "distribution": self.distribution,
            "archive": self.archive,
            "sha256": self.sha256,
            "size": self.size_bytes,
            "notes": self.notes,
            "created_at": self.created_at,
        }
        return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest. Raises: InvalidInput with the name of the first field that is missing or wrong."""
    if len(content) > MANIFEST_CAP_BYTES:
        raise InvalidInput("Invalid manifest", hint="a manifest has at most 1 MiB")
    try:
        facts = json.loads(content)
        json.dumps(facts, ensure_ascii=False).encode()  # half a surrogate pair is no text: nobody could send it on
    except (ValueError, RecursionError):
        raise InvalidInput("Invalid manifest: no JSON") from None
    if not isinstance(facts, dict):
        raise InvalidInput("Invalid manifest: no JSON object")
    size_bytes = facts.get("size")
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or not 0 <= size_bytes < 2**63:
        raise InvalidInput("Invalid manifest: size")
    sha256 = _text(facts, "sha256").lower()
    if not _SHA256.fullmatch(sha256):
        raise InvalidInput("Invalid manifest: sha256")
    return Manifest(
        version=check_version(_text(facts, "version")),
        device_type=check_name(_text(facts, "device_type"), "device_type"),
        distribution=check_name(_text(facts, "distribution"), "distribution"),
        archive=check_archive_name(_text(facts, "archive")),
        sha256=sha256,
        size_bytes=size_bytes,
        notes=_notes(facts),
        created_at=_text(facts, "created_at", needed=False),
    )


def _notes(facts: dict[str, Any]) -> str:
    text = _text(facts, "notes", needed=False)
    if len(text) > NOTES_MAX:
        raise InvalidInput(
            "Invalid manifest: notes", hint=f"at most {NOTES_MAX} characters; put more into CHANGELOG.md"
        )
    return text


def _text(facts: dict[str, Any], name: str, *, needed: bool = True) -> str:
    value = facts.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or "\0" in value or (needed and not value):
        raise InvalidInput(f"Invalid manifest: {name}")
    return value
