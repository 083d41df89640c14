"""A file that changes together with a row: put back when the transaction fails after the file has changed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from meetingctl.server.uploads import UPLOAD_PREFIX


@contextlib.contextmanager
def restored_on_failure(path: Path, folder: Path) -> Iterator[None]:
    """Keep the file at `path` by a second name in `folder` (same file system) until the block has gone well.

    A crash leaves that name behind, which the sweeper of uploads removes. Raises: OSError before the block begins.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside: Path | None = folder / f"{UPLOAD_PREFIX}{secrets.token_hex(8)}"
    try:
        os.link(path, str(aside), follow_symlinks=False)
    except FileNotFoundError:
        aside = None
    try:
        yield
    except BaseException:
        if aside is None:
            path.unlink(missing_ok=True)
        else:
            aside.replace(path)
        raise
    finally:
        if aside is not None:
            # When both names are one file, the replacement above does nothing and leaves this one.
            aside.unlink(missing_ok=True)
