"""Passwords: argon2id, a bounded number at a time, and the same work for accounts that do not exist."""

from __future__ import annotations

import contextlib
import os
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


def is_right(stored: str | None, password: str) -> bool:
    """Compare a password with a stored hash, inside `hashing_slot`; without one the work is done all the same.

    Hashes of other schemes than argon2 never match: their owners get a new password from an administrator.
    """
    given = password.encode("utf-8", "surrogatepass")[: MOST_BYTES + 1]
    is_argon2 = stored is not None and stored.startswith("$argon2")
    try:
        _HASHER.verify(stored if stored is not None and is_argon2 else _NOBODY, given)
    except (VerificationError, InvalidHashError):
        return False
    return is_argon2 and len(given) <= MOST_BYTES


def is_outdated(stored: str) -> bool:
    """Say whether a hash was made with other parameters than today's."""
    return _HASHER.check_needs_rehash(stored)
