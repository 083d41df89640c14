"""Passwords: argon2id, a bounded number at a time, and the same work for accounts that do not exist.

Accounts of the original come with bcrypt; the first login that succeeds replaces such a hash.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from meetingctl.core.errors import Busy, InvalidInput

LEAST_CHARACTERS = 8
MOST_BYTES = 1024
# OWASP Password Storage Cheat Sheet: argon2id, 19 MiB, two passes, one lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# The hash of no password: checking one against it takes as long as against any other.
_NOBODY = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"
# A cost above 13 takes seconds: somebody else's hash must not keep a core busy for longer.
_BCRYPT = re.compile(r"\$2[aby](\$(?:0[4-9]|1[0-3])\$[./A-Za-z0-9]{53})")
_BCRYPT_BYTES = 72  # it never looked at more
_AT_ONCE = max(1, (os.cpu_count() or 1) // 2)  # each takes 19 MiB and a core; the other half answers requests
_MOST_WAITING = 4  # each holds a thread that other requests need
_WAIT_S = 5.0
_slots = threading.BoundedSemaphore(_AT_ONCE)
_queue = threading.BoundedSemaphore(_AT_ONCE + _MOST_WAITING)


@contextlib.contextmanager
def hashing_slot() -> Iterator[None]:
    """Hold one of the few places where passwords are hashed. Raises: Busy when too many wait, or none gets free."""
    if not _queue.acquire(blocking=False):
        raise Busy("Busy", retry_after_s=1)
    try:
        if not _slots.acquire(timeout=_WAIT_S):
            raise Busy("Busy", retry_after_s=1)
        try:
            yield
        finally:
            _slots.release()
    finally:
        _queue.release()


def check_strength(password: str) -> None:
    """Raises: InvalidInput for a password that is too short, or too long to be one."""
    if len(password) < LEAST_CHARACTERS:
        raise InvalidInput("Password too short", hint=f"use {LEAST_CHARACTERS} characters or more")
    if len(password.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise InvalidInput("Password too long", hint=f"use at most {MOST_BYTES} bytes")


def hash_password(password: str) -> str:
    """Return the hash to store; takes some 25 ms. Raises: InvalidInput, Busy."""
    check_strength(password)
    with hashing_slot():
        return _HASHER.hash(password.encode("utf-8", "surrogatepass"))


def is_known_hash(stored: str) -> bool:
    """Say whether a password can be compared with this hash."""
    return stored.startswith("$argon2id$") or _BCRYPT.fullmatch(stored) is not None


def is_right(stored: str | None, password: str) -> bool:
    """Compare a password with a stored hash, inside `hashing_slot`; without one the work is done all the same.

    Hashes of other schemes than argon2 and bcrypt never match: their owners get a new password from an administrator.
    """
    given = password.encode("utf-8", "surrogatepass")[: MOST_BYTES + 1]
    if stored is not None and (old := _BCRYPT.fullmatch(stored)) is not None:
        return len(given) <= MOST_BYTES and _is_right_by_bcrypt(old.group(1), given)
    is_argon2 = stored is not None and stored.startswith("$argon2")
    try:
        _HASHER.verify(stored if stored is not None and is_argon2 else _NOBODY, given)
    except (VerificationError, InvalidHashError):
        return False
    return is_argon2 and len(given) <= MOST_BYTES


def _is_right_by_bcrypt(stored: str, given: bytes) -> bool:
    """Compare with a hash without its prefix: `2y` and `2b` are the same, and so is `2a` but for faults long gone."""
    import bcrypt

    try:
        return bcrypt.checkpw(given[:_BCRYPT_BYTES], f"$2b{stored}".encode("ascii"))
    except ValueError:  # a NUL in the password
        return False


def is_outdated(stored: str) -> bool:
    """Say whether a hash was made with another scheme or other parameters than today's."""
    return _BCRYPT.fullmatch(stored) is not None or _HASHER.check_needs_rehash(stored)
