"""Files of this machine onto devices: only what differs is sent, and each file changes in one step."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from meetingctl.core.errors import Conflict, InvalidInput, MeetingctlError, NotFound, TooLarge, UsageError
from meetingctl.core.target import parse_target
from meetingctl.remote.staging import Staging, privilege_for

MAX_FILES = 20_000
MAX_FILE_BYTES = 200 * 1024 * 1024
_LEFT_OUT = {"__pycache__"}
_OWNER = re.compile(r"[a-z_0-9][a-z0-9_-]{0,31}(?::[a-z_0-9][a-z0-9_-]{0,31})?")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to send: where it is here, its name below the folder there, its content's SHA-256."""

    path: Path
    name: str
    sha256: str
    is_executable: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A file on the device; `sha256` is None for what is no plain file."""

    mode: int
    owner: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one file, and why."""

    name: str
    verb: Literal["send", "attributes", "delete"]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the step as the command shows it."""
        return {"file": self.name, "step": self.verb, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Wish:
    """Where the files go, and their attributes; None leaves them as they are."""

    folder: str
    mode: int | None = None
    owner: str | None = None
    is_mirror: bool = False


def split_sources(words: Sequence[str], *, exists: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Divide words into targets and local paths: a path has a slash, begins with a dot, or is no target. Pure.

    Raises: UsageError for a word that can be both.
    """
    targets: list[str] = []
    sources: list[str] = []
    for word in words:
        if "/" in word or word.startswith(".") or not _is_target(word):
            sources.append(word)
        elif "@" not in word and ":" not in word and word != "-" and exists(word):
            raise UsageError(f"{word}: a target, or the file here?", hint=f"write ./{word} for the file")
        else:
            targets.append(word)
    return targets, sources


def list_sources(paths: Iterable[Path]) -> list[Source]:
    """List the files to send; of a folder its contents, `__pycache__` and `*.pyc` left out.

    Raises: NotFound, InvalidInput for a link or a device, TooLarge, Conflict for one name twice.
    """
    found: dict[str, Source] = {}
    for path in paths:
        for file, name in _walk(path):
            if name in found:
                raise Conflict(f"{name}: comes from {found[name].path} and from {file}")
            if len(found) >= MAX_FILES:
                raise TooLarge(f"{path}: over {MAX_FILES} files")
            found[name] = _read_source(file, name)
    return [found[name] for name in sorted(found)]


def plan_deploy(sources: Sequence[Source], found: Mapping[str, Found], wish: Wish) -> list[Step]:
    """Decide what has to be done so that the device has these files. Pure; nothing when all is as wished."""
    steps = []
    for source in sources:
        there = found.get(source.name)
        if there is None:
            steps.append(Step(source.name, "send", "missing"))
        elif there.sha256 != source.sha256:
            steps.append(Step(source.name, "send", "differs" if there.sha256 else "is no plain file"))
        elif reason := _judge_attributes(there, wish):
            steps.append(Step(source.name, "attributes", reason))
    if wish.is_mirror:
        wanted = {source.name for source in sources}
        steps += [Step(name, "delete", "not among the sources") for name in sorted(found) if name not in wanted]
    return steps


async def look(staging: Staging, sources: Sequence[Source], wish: Wish) -> dict[str, Found]:
    """Ask what the device has of these files; with a mirror, of all below the folder."""
    request = {
        "action": "look",
        "root": wish.folder,
        "names": [source.name for source in sources],
        "all": wish.is_mirror,
    }
    privilege = privilege_for(wish.folder, staging.visit.login.user)
    answer = await staging.request(request, privilege=privilege)
    return parse_found(str(staging.visit.target), answer)


def parse_found(target: str, answer: Mapping[str, Any]) -> dict[str, Found]:
    """Read what the far side found. Pure. Raises: MeetingctlError for an answer that is none."""
    try:
        return {
            str(name): Found(int(facts["mode"]), str(facts["owner"]), facts["sha256"] and str(facts["sha256"]))
            for name, facts in answer["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise MeetingctlError(f"{target}: its answer makes no sense: {exc!r}") from exc


async def apply_deploy(staging: Staging, sources: Sequence[Source], steps: Sequence[Step], wish: Wish) -> None:
    """Send what the steps need, then let the device put everything in its place."""
    by_name = {source.name: source for source in sources}
    files = []
    for number, step in enumerate(step for step in steps if step.verb == "send"):
        source = by_name[step.name]
        await staging.put_file(str(number), source.path)
        new_mode = 0o755 if source.is_executable else 0o644
        files.append(
            {
                "name": source.name,
                "staged": str(number),
                "sha256": source.sha256,
                "mode": wish.mode,
                "owner": wish.owner,
                "new_mode": new_mode,
            }
        )
    request = {
        "action": "install",
        "root": wish.folder,
        "files": files,
        "attributes": [
            {"name": step.name, "mode": wish.mode, "owner": wish.owner} for step in steps if step.verb == "attributes"
        ],
        "delete": [step.name for step in steps if step.verb == "delete"],
    }
    await staging.request(request, privilege=privilege_for(wish.folder, staging.visit.login.user))


def parse_mode(text: str) -> int | None:
    """Read `--mode 640`. Raises: InvalidInput."""
    if not text:
        return None
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise InvalidInput(f"not a mode: {text[:20]!r}", hint="use three octal digits, for example 640")
    return int(text, 8)


def parse_owner(text: str) -> str | None:
    """Read `--owner root:www-data`. Raises: InvalidInput."""
    if text and not _OWNER.fullmatch(text):
        raise InvalidInput(f"not an owner: {text[:80]!r}", hint="use USER:GROUP, for example root:www-data")
    return text or None


def _judge_attributes(there: Found, wish: Wish) -> str | None:
    if wish.mode is not None and there.mode != wish.mode:
        return f"mode is {there.mode:03o}, not {wish.mode:03o}"
    if wish.owner and there.owner != wish.owner and there.owner.partition(":")[0] != wish.owner:
        return f"owner is {there.owner}, not {wish.owner}"
    return None


def _is_target(word: str) -> bool:
    try:
        parse_target(word)
    except InvalidInput:
        return False
    return True


def _walk(path: Path) -> list[tuple[Path, str]]:
    if not path.exists():
        raise NotFound(f"no such file here: {path}", hint=f"ls -l {path.parent}")
    if not path.is_dir():
        return [(path, path.resolve().name if path.name in {"", ".."} else path.name)]
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        names = sorted(name for name in files if not name.endswith(".pyc"))
        found += [(Path(folder, name), Path(folder, name).relative_to(path).as_posix()) for name in names]
    return found


def _read_source(path: Path, name: str) -> Source:
    if path.is_symlink() or not path.is_file():
        raise InvalidInput(f"{path}: only plain files are sent", hint=f"ls -l {path}")
    facts = path.stat()
    if facts.st_size > MAX_FILE_BYTES:
        raise TooLarge(f"{path}: over {MAX_FILE_BYTES} bytes", hint=f"meetingctl remote copy {path} TARGET:PATH")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(path, name, digest, bool(facts.st_mode & 0o100))
