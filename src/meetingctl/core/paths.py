"""Files: the one safe way to join a name to a root, atomic writes, and where things live by default."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from meetingctl.core.errors import InvalidInput, MeetingctlError, TooLarge, UnsafeName

NO_HOME = Path("/nonexistent")  # as Debian writes it for users without a home
SMALL_TEXT_BYTES = 64 * 1024
PIPE_WAIT_S = 30.0
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def safe_join(root: Path, *parts: str) -> Path:
    """Join names that came from outside to a root, and refuse everything that could leave it.

    Each part is one plain file name. Raises: UnsafeName for separators, `..`, a leading dot, escapes, NUL, look-alike
    letters, more than 128 characters, or a symbolic link on the way.
    """
    path = root
    for part in parts:
        if not _PART.fullmatch(part) or part.endswith("."):
            raise UnsafeName("Invalid path", hint="names have letters, digits, dots, dashes and underscores")
        path = path / part
        if path.is_symlink():
            raise UnsafeName("Invalid path", hint="symbolic links are not followed")
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnsafeName("Invalid path")
    return path


def read_small_text(path: Path, *, limit_bytes: int = SMALL_TEXT_BYTES, wait_s: float = PIPE_WAIT_S) -> str:
    """Read a text file that a person named: a secret, a key, settings.

    Pipes such as `<(pass show x)` and /dev/null are files too.
    Raises: InvalidInput for folders, disks and text that is not UTF-8; TooLarge over the limit, so for what has no end;
    MeetingctlError for a pipe that does not end within `wait_s`; OSError for a file that cannot be opened.
    """
    quoted = shlex.quote(str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if not any(is_kind(mode) for is_kind in (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISCHR)):
            raise InvalidInput(f"{path}: not a file that holds text", hint=f"ls -ld {quoted}")
        content = _read_within(descriptor, path, limit_bytes + 1, time.monotonic() + wait_s)
    finally:
        os.close(descriptor)
    if len(content) > limit_bytes:
        raise TooLarge(f"{path}: over {limit_bytes} bytes, too much for such a file", hint=f"ls -ld {quoted}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{path}: byte {exc.start + 1} is not UTF-8 text", hint=f"file {quoted}") from exc


def _read_within(descriptor: int, path: Path, most_bytes: int, deadline_s: float) -> bytes:
    """Read to the end, at most so many bytes. Raises: MeetingctlError at the deadline, which only a pipe reaches."""
    content = bytearray()
    while len(content) < most_bytes:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
        if not ready:
            raise MeetingctlError(f"{path}: did not end in time", hint="write the text to a file first")
        chunk = os.read(descriptor, most_bytes - len(content))
        if not chunk:
            break
        content += chunk
    return bytes(content)


def write_atomic(path: Path, content: bytes | str, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Replace a file in one step: temporary file in the same folder, fsync, rename, fsync of the folder.

    `owner` is user and group id; without it the file belongs to the writer.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def home_of(env: Mapping[str, str]) -> Path:
    """Return the home directory that the environment or the user database names; a service may have none."""
    if home := env.get("HOME"):
        return Path(home)
    try:
        return Path("~").expanduser()
    except RuntimeError:
        return NO_HOME


def user_config_dir(env: Mapping[str, str]) -> Path:
    """Return `$XDG_CONFIG_HOME/meetingctl`."""
    return Path(env.get("XDG_CONFIG_HOME") or home_of(env) / ".config") / "meetingctl"


def user_cache_dir(env: Mapping[str, str]) -> Path:
    """Return `$XDG_CACHE_HOME/meetingctl`."""
    return Path(env.get("XDG_CACHE_HOME") or home_of(env) / ".cache") / "meetingctl"


def default_data_dir(env: Mapping[str, str]) -> Path:
    """Return where a server keeps its data: systemd's state directory, or `$XDG_DATA_HOME/meetingctl`."""
    if state := env.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])
    return Path(env.get("XDG_DATA_HOME") or home_of(env) / ".local" / "share") / "meetingctl"
