"""Recordings that nobody deletes: the list in locked_recordings.json, shared with the web page of the device."""

from __future__ import annotations

import json
from collections.abc import Iterable

from meetingctl.core.errors import Conflict, NotFound
from meetingctl.core.layout import CONFIG_DIR, LOCKED_RECORDINGS_JSON
from meetingctl.device.system import System

_LOCK_TIMEOUT_S = 5.0


def read_locks(system: System) -> frozenset[str]:
    """Return the base names of locked recordings; none while there is no file.

    Raises: Conflict for a damaged file, because then nobody knows what may be deleted; Forbidden, TooLarge.
    """
    try:
        text = system.read(LOCKED_RECORDINGS_JSON)
    except NotFound:
        return frozenset()
    return parse_locks(text)


def parse_locks(text: str) -> frozenset[str]:
    """Read a JSON list of names; an empty file locks nothing. Raises: Conflict."""
    if not text.strip():
        return frozenset()
    try:
        names = json.loads(text)
    except ValueError as exc:
        raise _damaged(str(exc)) from exc
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _damaged("not a list of names")
    return frozenset(names)


def change_locks(system: System, *, lock: Iterable[str] = (), unlock: Iterable[str] = ()) -> frozenset[str]:
    """Lock and unlock names and return all that are locked now; nothing is written when nothing changes.

    Raises: Conflict for a damaged file, Forbidden, StorageFull, Busy.
    """
    with system.locked(CONFIG_DIR, timeout_s=_LOCK_TIMEOUT_S):
        before = read_locks(system)
        after = (before | frozenset(lock)) - frozenset(unlock)
        if after != before:
            system.write(LOCKED_RECORDINGS_JSON, json.dumps(sorted(after), ensure_ascii=False) + "\n")
    return after


def _damaged(reason: str) -> Conflict:
    return Conflict(
        f"{LOCKED_RECORDINGS_JSON} is damaged ({reason}): nothing is deleted until it is repaired",
        hint=f'correct {LOCKED_RECORDINGS_JSON}: a JSON list such as ["rec_20260117_143025.ts"]',
    )
