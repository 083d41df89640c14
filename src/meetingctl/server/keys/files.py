"""authorized_keys files for sshd's `AuthorizedKeysFile`, one for each SSH user, renewed after every change.

Source: `ygs-KeysSync.sh` of the original did this after each change of a key. Here changes that come together cause one
renewal, a failure is tried again, and a file changes in one step.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import groupby
from pathlib import Path

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.paths import safe_join, write_atomic
from meetingctl.server.keys.store import usable_keys
from meetingctl.server.state import ServerState

log = logging.getLogger(__name__)
EVERY_S = 30.0
GATHER_S = 0.2
_HEAD = "# written by meetingctl; changes are lost\n"


def write_files(state: ServerState, folder: Path) -> list[str]:
    """Bring the folder in line with the tables; return the names of the files that changed. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    options = f"{state.settings.authorized_keys_options} ".lstrip()
    changed, kept = [], set()
    with state.database.read() as connection:
        for user, rows in groupby(usable_keys(connection), key=lambda row: str(row["ssh_user"])):
            lines = [f"{options}{_plain(row['pubkey'])} {row['device_key']}\n" for row in rows]
            kept.add(user)
            path = safe_join(folder, user)
            content = (_HEAD + "".join(lines)).encode()
            if _read(path) != content:
                write_atomic(path, content, mode=0o644)
                changed.append(user)
    for path in sorted(folder.iterdir()):
        # Only what we wrote: somebody may keep other files beside ours.
        if path.name not in kept and (_read(path) or b"").startswith(_HEAD.encode()):
            path.unlink()
            changed.append(path.name)
    return changed


async def keep_files(state: ServerState) -> None:
    """Write the files after each change and now and then, until cancelled; without a folder do nothing."""
    folder = state.settings.authorized_keys_dir
    if folder is None:
        return
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def note_change() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(changed.set)

    state.changes.listen(note_change)
    problem = ""
    while True:
        changed.clear()
        try:
            for name in await asyncio.to_thread(write_files, state, folder):
                log.info("authorized keys written", extra={"user": name})
            problem = ""
        except (OSError, MeetingctlError) as exc:
            if str(exc) != problem:
                log.error("authorized keys not written, trying again", extra={"folder": folder, "error": str(exc)})
            problem = str(exc)
        try:
            await asyncio.wait_for(changed.wait(), EVERY_S)
            await asyncio.sleep(GATHER_S)
        except TimeoutError:
            pass


def _plain(line: str) -> str:
    """Return type and key without the comment, which is a device's own text."""
    return " ".join(line.split()[:2])


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
