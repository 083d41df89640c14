"""Recordings on a device, by what `meetingctl device record` says and does there."""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meetingctl.core.clock import iso_text
from meetingctl.core.errors import Conflict, MeetingctlError, NotFound, SomeFailed
from meetingctl.core.plan import Step
from meetingctl.remote.copy import Sent, download
from meetingctl.remote.visit import Privilege, Visit, explain_failure

Row = dict[str, Any]
_ANSWER_BYTES = 16 * 1024 * 1024
_MISSING_CODE = 127
_YEAR_10000_S = 253_402_300_800


async def ask_device(visit: Visit, *words: str, privilege: Privilege) -> Any:
    """Run a `meetingctl device` command on the device and return its JSON.

    Raises: MeetingctlError with the device's own reason and hint, NotFound for a device without the program.
    """
    line = shlex.join(["meetingctl", "device", *words, "--json"])
    answer = await visit.answer(line, privilege=privilege, cap_bytes=_ANSWER_BYTES)
    if answer.exit_code == _MISSING_CODE:
        raise NotFound(
            f"{visit.target}: has no meetingctl", hint=f"meetingctl remote install {visit.target} --check-only"
        )
    try:
        value = json.loads(answer.stdout)
    except (ValueError, RecursionError):
        if answer.exit_code:
            raise explain_failure(str(visit.target), visit.login.user, answer) from None
        raise MeetingctlError(f"{visit.target}: no answer that makes sense: {answer.stdout[:80]!r}") from None
    if isinstance(value, dict) and value.get("ok") is False and isinstance(value.get("error"), dict):
        raise MeetingctlError(f"{visit.target}: {value['error'].get('message')}", hint=value["error"].get("hint"))
    if answer.exit_code not in {0, SomeFailed.exit_code}:
        raise explain_failure(str(visit.target), visit.login.user, answer)
    return value


async def list_recordings(visit: Visit, *, only: str = "all", sort: str = "date-desc", search: str = "") -> list[Row]:
    """Return the recordings of a device; `modified_iso` is in UTC. Raises: MeetingctlError."""
    words = ["record", "list", "--only", only, "--sort", sort, *(["--search", search] if search else [])]
    rows = await ask_device(visit, *words, privilege=Privilege.wanted)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise MeetingctlError(f"{visit.target}: its answer is no list of recordings")
    return [{**row, "modified_iso": _utc_text(row.get("modified"))} for row in rows]


def _utc_text(at_s: object) -> str | None:
    """Write seconds since 1970 as ISO 8601; the device itself writes its own local time without a zone. Pure."""
    if isinstance(at_s, int | float) and 0 <= at_s < _YEAR_10000_S:
        return iso_text(int(at_s * 1000))
    return None


def choose_recordings(rows: Iterable[Row], names: Sequence[str], target: str) -> list[Row]:
    """Return the rows of the names, in their order. Pure. Raises: NotFound, Conflict for the one being written."""
    by_name = {str(row["name"]): row for row in rows}
    for name in names:
        if name not in by_name:
            raise NotFound(f"{target}: no recording {name[:80]!r}", hint=f"meetingctl remote recordings list {target}")
        if by_name[name].get("state") == "recording":
            raise Conflict(f"{target}: {name} is being written", hint="try again when the next one has begun")
    return [by_name[name] for name in dict.fromkeys(names)]


def plan_get(rows: Iterable[Row], present: Mapping[str, int]) -> list[Step]:
    """Decide which recordings are fetched; `present` are the files here with their sizes. Pure."""
    return [
        Step("fetch", row["name"], "not here" if row["name"] not in present else "another size here", {"row": row})
        for row in rows
        if present.get(row["name"]) != row.get("size_bytes")
    ]


def plan_remove(rows: Iterable[Row], *, force: bool) -> list[Step]:
    """Decide which recordings are deleted: locked ones are skipped without `force`. Pure."""
    return [
        Step("delete", row["name"], "locked, and asked for by force" if row.get("locked") else "asked for")
        for row in rows
        if force or not row.get("locked")
    ]


async def fetch_recording(visit: Visit, row: Row, folder: Path, sent: Sent) -> Path:
    """Copy a recording here, whole or not at all. Raises: NotFound, MeetingctlError, TransportLost."""
    path = str(row.get("path") or "")
    if not path.startswith("/") or posixpath.basename(path) != row["name"] or "/" in row["name"]:
        raise MeetingctlError(f"{visit.target}: {path[:140]!r} is no place of a recording")
    return await download(visit, path, folder / row["name"], sent)


async def remove_recordings(visit: Visit, names: Sequence[str], *, force: bool) -> dict[str, Any]:
    """Delete recordings with their thumbnails; returns deleted, skipped_locked and failed. Raises: MeetingctlError."""
    words = ["record", "delete", "--yes", *(["--force"] if force else []), *names]
    done = await ask_device(visit, *words, privilege=Privilege.needed)
    if not isinstance(done, dict):
        raise MeetingctlError(f"{visit.target}: its answer makes no sense")
    return done
