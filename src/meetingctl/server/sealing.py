"""Secrets that the server must be able to read again: encrypted in the database, the key beside it in a file.

Several API processes on several machines share one database and need one key: setting `sealing_key`.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from meetingctl.core.errors import ConfigError
from meetingctl.core.paths import read_small_text, sync_folder
from meetingctl.core.settings import Settings

FILE_NAME = "sealing.key"


def seal(settings: Settings, data_dir: Path, text: str) -> str:
    """Encrypt a text with the server's sealing key, which is made at its first use. Raises: ConfigError."""
    return _cipher(settings, data_dir, may_make=True).encrypt(text.encode()).decode("ascii")


def unseal(settings: Settings, data_dir: Path, sealed: str) -> str:
    """Return what was sealed. Raises: ConfigError when the key is another one or is gone."""
    try:
        return _cipher(settings, data_dir, may_make=False).decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise ConfigError(
            "a sealed secret does not open with this sealing key",
            hint="bring back the former key, or give the webhook a new secret",
        ) from None


def _cipher(settings: Settings, data_dir: Path, *, may_make: bool) -> Fernet:
    given = settings.sealing_key.reveal()
    path = data_dir / FILE_NAME
    if not given and may_make and not path.exists():
        _make_key(path)
    try:
        return Fernet((given or read_small_text(path).strip()).encode())
    except OSError as exc:
        raise ConfigError(
            f"cannot read {path}: {exc.strerror}", hint="restore it from a backup, or set sealing_key"
        ) from exc
    except ValueError:
        source = "setting sealing_key" if given else str(path)
        raise ConfigError(f"{source} is no sealing key", hint="use 32 bytes in URL-safe base64") from None


def _make_key(path: Path) -> None:
    """Make the key file, whole from the start; of two processes that make it at once one wins."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
