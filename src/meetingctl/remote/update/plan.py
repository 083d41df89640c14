"""What an update of one device consists of, decided from facts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meetingctl.core.errors import Conflict, InvalidInput, MeetingctlError, NotFound, StorageFull
from meetingctl.core.plan import Step
from meetingctl.remote.recipes.bundle import misfits
from meetingctl.remote.update.source import Source

# What the device itself asks for before it builds a release, and the staged copy.
SPACE_FACTOR = 7
SPARE_BYTES = 64 * 1024 * 1024
PARTIAL = ".part"


@dataclass(frozen=True, slots=True)
class Facts:
    """A device before the update. `present` are files of the package that it has, `uploads` sizes by file name."""

    place: str
    version: str
    has_program: bool
    python: tuple[int, int]
    arch: str
    boot_id: str
    free_bytes: int
    uploads_free_bytes: int
    present: frozenset[str]
    uploads: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Wish:
    """How the update is meant."""

    force: bool = False
    restart: bool = True


def parse_facts(target: str, answer: Mapping[str, Any]) -> Facts:
    """Read what the device's side found. Raises: MeetingctlError for an answer that is none."""
    try:
        major, minor = answer["python"]
        return Facts(
            str(answer["place"]),
            str(answer["version"])[:64],
            bool(answer["has_program"]),
            (int(major), int(minor)),
            str(answer["arch"])[:20],
            str(answer["boot_id"])[:64],
            int(answer["free_bytes"]),
            int(answer["uploads_free_bytes"]),
            frozenset(str(name) for name in answer["present"]),
            {str(name): int(size) for name, size in answer["uploads"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise MeetingctlError(f"{target}: its answer makes no sense: {exc!r}") from exc


def parse_damaged(target: str, answer: Mapping[str, Any]) -> str:
    """Return the name of an upload that arrived damaged, empty when all are whole. Raises: MeetingctlError."""
    damaged = answer.get("damaged")
    if not isinstance(damaged, list):
        raise MeetingctlError(f"{target}: its answer makes no sense: {str(answer)[:80]!r}")
    return str(damaged[0])[:200] if damaged else ""


def refuse_strangers(target: str, facts: Facts) -> None:
    """Refuse a device that has no release of ours. Raises: NotFound, Conflict."""
    hint = f"meetingctl remote install {target}"
    if facts.place == "none":
        raise NotFound(f"{target}: nothing is installed there yet", hint=hint)
    if facts.place == "folder" or not facts.has_program:
        raise Conflict(
            f"{target}: runs the original {facts.version or 'of unknown version'}, not this program", hint=hint
        )


def plan_update(target: str, facts: Facts, source: Source, wish: Wish) -> list[Step]:
    """Decide what has to be done; nothing when the device has the version and `force` is not given.

    Raises: NotFound, Conflict for a device that needs `remote install`; InvalidInput for a package that does not fit;
    StorageFull.
    """
    refuse_strangers(target, facts)
    findings = source.judge(facts.version, force=wish.force)
    if findings.same_version and not findings.reapply_allowed:
        return []
    if findings.same_version and not wish.force and facts.present >= source.files.keys():
        return []  # a package that may be applied again, on a device that has all of it
    if findings.errors:
        raise InvalidInput(f"{target}: {'; '.join(findings.errors)}", hint=f"meetingctl remote facts {target}")
    if wrong := misfits(source.wheels, facts.python, facts.arch):
        python = ".".join(str(part) for part in facts.python)
        raise InvalidInput(
            f"{target}: {wrong[0]} does not fit Python {python} on {facts.arch}",
            hint=f"meetingctl builder bundle --python {python} --arch {facts.arch}",
        )
    missing = missing_files(facts, source)
    _check_space(target, facts, source)
    steps = []
    if missing:
        total_bytes = sum(source.files[name].size_bytes for name in missing)
        steps.append(
            Step(
                "upload",
                f"{len(missing)} of {len(source.files)} files",
                f"{total_bytes} bytes of {source.package.total_bytes} are missing there or differ",
                {"files": missing},
            )
        )
    why = f"{facts.version or 'no version'} runs" if not findings.same_version else "--force"
    steps.append(Step("apply", source.version, why, {"flags": apply_flags(wish)}))
    if wish.restart:
        steps.append(Step("check", "smoke", "what worked before must work afterwards, else the former version returns"))
    return steps


def missing_files(facts: Facts, source: Source) -> list[str]:
    """Return the files that have to be uploaded still, each content once."""
    found: dict[str, str] = {}
    for name, file in source.files.items():
        if name not in facts.present and facts.uploads.get(file.sha256) != file.size_bytes:
            found.setdefault(file.sha256, name)
    return sorted(found.values())


def apply_flags(wish: Wish) -> list[str]:
    """Return the options of `device update apply`."""
    return [
        *(["--force"] if wish.force else []),
        *([] if wish.restart else ["--no-restart", "--no-reboot"]),
    ]


def find_regressions(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the checks that went well before and fail now."""
    was_good = {row["check"] for row in before if row["ok"]}
    return [str(row["check"]) for row in after if row["ok"] is False and row["check"] in was_good]


def job_of(source: Source) -> str:
    """Return what the unit is started for, so that another run knows its own."""
    return f"{source.version} {source.digest[:16]}"


def _check_space(target: str, facts: Facts, source: Source) -> None:
    needed_bytes = source.package.total_bytes * SPACE_FACTOR + SPARE_BYTES
    if facts.free_bytes < needed_bytes:
        raise StorageFull(
            f"{target}: {facts.free_bytes >> 20} MiB free, the update needs {needed_bytes >> 20} MiB",
            hint=f"meetingctl remote run {target} --sudo -- meetingctl device record prune",
        )
    if facts.uploads_free_bytes < source.package.total_bytes + SPARE_BYTES:
        raise StorageFull(
            f"{target}: {facts.uploads_free_bytes >> 20} MiB free in the home of the user",
            hint="log in as another user with --user NAME",
        )
