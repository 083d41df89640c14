"""A file that changes together with a row: as it was when the transaction does not come to its end.

Before the change the old file gets a second name, and a note beside it says where it belongs and what the row will
say. A transaction that fails puts the old file back at once; after a crash `recover_files` does it at the next start,
unless the row says that the transaction had come to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from meetingctl.core.paths import write_atomic
from meetingctl.server.uploads import UPLOAD_PREFIX

NOTE = ".note"
# The checksum that the row of a file has, by the name below the data directory; None without a row.
ChecksumOf = Callable[[str], str | None]


@contextlib.contextmanager
def restored_on_failure(data_dir: Path, path: Path, folder: Path, *, sha256: str | None) -> Iterator[None]:
    """Keep the file at `path` in `folder` (same file system) until the block has gone well.

    `sha256` is what the row says afterwards, None when it goes. Raises: OSError before the block begins.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = folder / f"{UPLOAD_PREFIX}{secrets.token_hex(8)}"
    note = aside.with_name(aside.name + NOTE)
    try:
        os.link(path, aside, follow_symlinks=False)
    except FileNotFoundError:
        pass
    try:
        facts = {"name": path.relative_to(data_dir).as_posix(), "sha256": sha256, "existed": aside.exists()}
        write_atomic(note, json.dumps(facts), mode=0o600)
        yield
    except BaseException:
        _put_back(path, aside)
        raise
    finally:
        # When both names are one file, putting it back does nothing and leaves this one.
        aside.unlink(missing_ok=True)
        note.unlink(missing_ok=True)


def recover_files(data_dir: Path, folder: Path, checksum_of: ChecksumOf, *, older_than_s: float) -> list[str]:
    """Finish or undo what a crash interrupted; return the names of files that were put back.

    Notes that are younger than `older_than_s` may belong to another process that still works.
    """
    restored = []
    for note in sorted(folder.glob(f"{UPLOAD_PREFIX}*{NOTE}")):
        if time.time() - note.lstat().st_mtime < older_than_s:
            continue
        aside = note.with_name(note.name.removesuffix(NOTE))
        try:
            facts = json.loads(note.read_text())
            name, wanted, existed = str(facts["name"]), facts["sha256"], bool(facts["existed"])
        except (ValueError, KeyError, TypeError):
            continue
        if checksum_of(name) != wanted:
            if existed == aside.exists():
                _put_back(data_dir / name, aside)
            restored.append(name)
        aside.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
    return restored


def _put_back(path: Path, aside: Path) -> None:
    if aside.exists():
        aside.replace(path)
    else:
        path.unlink(missing_ok=True)
