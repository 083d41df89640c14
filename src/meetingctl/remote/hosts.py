"""Host keys, pinned by device.

One file in OpenSSH's known_hosts format. A device's entries stand under its key, not under an address, so that its
direct address and its tunnel share one pin; `ssh` finds them through `HostKeyAlias`. Lines that are not ours stay.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from meetingctl.core.errors import Busy, ConfigError, HostKeyChanged, InvalidInput
from meetingctl.core.paths import write_atomic
from meetingctl.core.sshkey import PublicKey
from meetingctl.core.target import AddressTarget, DeviceTarget, Target

LOCK_WAIT_S = 5.0
_LOCK_POLL_S = 0.05

Verdict = Literal["known", "new", "changed"]


def name_host(target: Target) -> str:
    """Return the name that a target's host keys stand under. Raises: InvalidInput for a target of many."""
    match target:
        case DeviceTarget():
            return target.key
        case AddressTarget():
            return target.host if target.port == 22 else f"[{target.host}]:{target.port}"
        case _:
            raise InvalidInput(f"{target}: names more than one device", hint="use a device key or user@host[:port]")


def judge_host_key(pinned: Sequence[PublicKey], offered: PublicKey) -> Verdict:
    """Decide about a key that a host offers: any pinned key is as good as another."""
    if offered in pinned:
        return "known"
    return "changed" if pinned else "new"


def describe_change(target: Target, where: str, pinned: Sequence[PublicKey], offered: PublicKey) -> HostKeyChanged:
    """Build the refusal of a changed key: both fingerprints, and the command that accepts the new one."""
    known = ", ".join(key.fingerprint for key in pinned)
    return HostKeyChanged(
        f"{target}: the host key at {where} is not the pinned one: pinned {known}, offered {offered.fingerprint}; "
        "trust it only if the device itself shows that fingerprint",
        hint=f"meetingctl remote trust {target} --fingerprint {offered.fingerprint}",
    )


def read_pins(text: str, name: str) -> tuple[PublicKey, ...]:
    """Return the keys that a known_hosts text holds for a name. Letter case of names does not count, as in OpenSSH."""
    return tuple(key for names, key in _entries(text) if key and name.lower() in names)


def index_pins(text: str) -> dict[str, tuple[PublicKey, ...]]:
    """Return the keys of every name, in lower case: `read_pins` for many names at once."""
    pins: dict[str, tuple[PublicKey, ...]] = {}
    for names, key in _entries(text):
        for name in names if key else ():
            pins[name] = (*pins.get(name, ()), key) if key else ()
    return pins


def write_pin(text: str, name: str, key: PublicKey) -> str:
    """Return the text with this key as the only one of the name."""
    rest = remove_pins(text, name)
    if rest and not rest.endswith("\n"):
        rest += "\n"
    return f"{rest}{name} {key.text}\n"


def remove_pins(text: str, name: str) -> str:
    """Return the text without the name's keys; a line that names other hosts too keeps those."""
    kept = []
    for line, (names, key) in zip(text.splitlines(keepends=True), _entries(text), strict=True):
        if key is None or name.lower() not in names:
            kept.append(line)
        elif len(names) > 1:
            field, _, rest = line.lstrip().partition(" ")
            others = [other for other in field.split(",") if other.lower() != name.lower()]
            kept.append(f"{','.join(others)} {rest}")
    return "".join(kept)


def _entries(text: str) -> Iterator[tuple[frozenset[str], PublicKey | None]]:
    """Yield names and key of each line; comments, markers and hashed names give no key."""
    for line in text.splitlines():
        words = line.split()
        blob = None
        if len(words) >= 3 and words[0][0] not in "#@|":
            with contextlib.suppress(ValueError, binascii.Error):
                blob = base64.b64decode(words[2], validate=True)
        yield (frozenset(words[0].lower().split(",")), PublicKey(blob)) if blob else (frozenset(), None)


class HostKeys:
    """The file of pinned keys. Changes are atomic, and several commands may change it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[object, dict[str, tuple[PublicKey, ...]]] = (None, {})

    def pinned(self, name: str) -> tuple[PublicKey, ...]:
        """Return the keys pinned for a name. The file is read again only when it changed."""
        try:
            found = self.path.stat()
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            return read_pins(self._read(), name)
        if self._seen[0] != state:
            self._seen = (state, index_pins(self._read()))
        return self._seen[1].get(name.lower(), ())

    def pin(self, name: str, key: PublicKey) -> None:
        """Make this the only key of the name."""
        with self._locked():
            self._write(write_pin(self._read(), name, key))

    def unpin(self, name: str) -> tuple[PublicKey, ...]:
        """Forget the keys of a name, and return them."""
        with self._locked():
            text = self._read()
            if removed := read_pins(text, name):
                self._write(remove_pins(text, name))
        return removed

    def _read(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return ""
        except OSError as exc:
            raise ConfigError(f"cannot read host keys from {self.path}: {exc.strerror}") from exc

    def _write(self, text: str) -> None:
        write_atomic(self.path, text.encode("utf-8", "surrogateescape"), mode=0o600)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline_s = time.monotonic() + LOCK_WAIT_S
        try:
            while not _try_lock(lock):
                if time.monotonic() > deadline_s:
                    raise Busy(f"{self.path}: locked by another command for {LOCK_WAIT_S:g} s", hint="try again")
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
