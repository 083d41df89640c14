"""A file under a passphrase: what is in a backup opens the doors of its device.

Layout: the magic, 16 bytes of salt, then pieces of at most 1 MiB, each with its length (4 bytes, the highest bit marks
the last one) and sealed with AES-256-GCM. The nonce is the number of the piece, the length word is authenticated with
it: pieces cannot be left out, swapped or added. The key comes from the passphrase by scrypt, n 2^15, r 8, p 1.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

from meetingctl.core.errors import AuthError, InvalidInput
from meetingctl.core.secret import Secret

SUFFIX = ".sealed"
_MAGIC = b"meetingctl sealed 1\n"
_PIECE_BYTES = 1 << 20
_SALT_BYTES = 16
_TAG_BYTES = 16
_LAST = 1 << 31
_SHORTEST = 8


def is_sealed(path: Path) -> bool:
    """Say whether a file is one of these."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def check_passphrase(passphrase: Secret) -> Secret:
    """Return a passphrase that is long enough. Raises: InvalidInput."""
    if len(passphrase.reveal()) < _SHORTEST:
        raise InvalidInput(f"a passphrase of under {_SHORTEST} characters", hint="use a longer one")
    return passphrase


def seal(source: IO[bytes], out: IO[bytes], passphrase: Secret) -> None:
    """Write what `source` has from here on, sealed."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = os.urandom(_SALT_BYTES)
    out.write(_MAGIC + salt)
    cipher = AESGCM(_key(passphrase, salt))
    number, piece = 0, source.read(_PIECE_BYTES)
    while True:
        following = source.read(_PIECE_BYTES)
        word = (len(piece) | (0 if following else _LAST)).to_bytes(4, "big")
        out.write(word + cipher.encrypt(number.to_bytes(12, "big"), piece, word))
        if not following:
            return
        number, piece = number + 1, following


def unseal(source: IO[bytes], out: IO[bytes], passphrase: Secret) -> None:
    """Write what a sealed file holds. Raises: AuthError for a wrong passphrase, InvalidInput for a damaged file."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if source.read(len(_MAGIC)) != _MAGIC:
        raise InvalidInput("not a sealed file")
    cipher = AESGCM(_key(passphrase, source.read(_SALT_BYTES)))
    number, is_last = 0, False
    while not is_last:
        word = source.read(4)
        if len(word) != 4:
            raise InvalidInput("the sealed file is cut off")
        length = int.from_bytes(word, "big")
        is_last = bool(length & _LAST)
        piece = source.read(min(length & ~_LAST, _PIECE_BYTES) + _TAG_BYTES)
        try:
            out.write(cipher.decrypt(number.to_bytes(12, "big"), piece, word))
        except (InvalidTag, ValueError) as exc:
            if number == 0:
                raise AuthError("the passphrase is wrong, or the file is damaged") from exc
            raise InvalidInput(f"the sealed file is damaged in its piece {number + 1}") from exc
        number += 1
    if source.read(1):
        raise InvalidInput("the sealed file goes on behind its end")


def _key(passphrase: Secret, salt: bytes) -> bytes:
    text = passphrase.reveal().encode()
    return hashlib.scrypt(text, salt=salt, n=1 << 15, r=8, p=1, maxmem=64 << 20, dklen=32)
