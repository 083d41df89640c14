"""The file in the data directory that lets the command line on the same machine work at once."""

from __future__ import annotations

import re
from pathlib import Path

from meetingctl.core.paths import write_atomic

NAME = "credentials.toml"
_HEAD = "# Written by the server; the administrator's key of this machine. Keep it private.\n"


def write_credentials(data_dir: Path, server_url: str, api_key: str) -> None:
    """Write address and key, readable by the owner only."""
    content = f'{_HEAD}[default]\nserver_url = "{server_url}"\napi_key = "{api_key}"\n'
    write_atomic(data_dir / NAME, content, mode=0o600)


def keep_address(data_dir: Path, server_url: str) -> None:
    """Correct the address in an existing file, when the server listens somewhere else this time."""
    path = data_dir / NAME
    if not path.exists():
        return
    text = path.read_text()
    corrected = re.sub(r'(?m)^server_url = ".*"$', f'server_url = "{server_url}"', text)
    if corrected != text:
        write_atomic(path, corrected, mode=0o600)
