"""A private key in PuTTY's format, version 3.

Source: appendix C of PuTTY's manual, "PPK file format".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import textwrap
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.sshkey import PublicKey, parse_public_key

# What puttygen itself uses by default.
MEMORY_KIB = 8192
PASSES = 13
_SALT_BYTES = 16
_BLOCK_BYTES = 16


def convert(private_pem: bytes, *, comment: str, passphrase: str) -> bytes:
    """Return a PPK file that the passphrase opens. Raises: MeetingctlError `Conversion failed`."""
    try:
        private = serialization.load_ssh_private_key(private_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise MeetingctlError(
            "Conversion failed", hint="the file must hold an OpenSSH key without a passphrase"
        ) from exc
    encoding, formats = serialization.Encoding, serialization.PublicFormat
    line = private.public_key().public_bytes(encoding.OpenSSH, formats.OpenSSH).decode()
    key, _ = parse_public_key(line)
    return _encode(key, _private_blob(private), comment, passphrase, os.urandom(_SALT_BYTES))


def _encode(key: PublicKey, private: bytes, comment: str, passphrase: str, salt: bytes) -> bytes:
    from argon2.low_level import Type, hash_secret_raw

    derived = hash_secret_raw(passphrase.encode(), salt, PASSES, MEMORY_KIB, 1, 80, Type.ID)
    cipher_key, vector, mac_key = derived[:32], derived[32:48], derived[48:]
    padding = -len(private) % _BLOCK_BYTES
    padded = private + hashlib.sha1(private, usedforsecurity=False).digest()[:padding]
    parts = (key.kind.encode(), b"aes256-cbc", comment.encode(), key.blob, padded)
    mac = hmac.new(mac_key, b"".join(map(_string, parts)), hashlib.sha256).hexdigest()
    encryptor = Cipher(algorithms.AES(cipher_key), modes.CBC(vector)).encryptor()
    public_lines, private_lines = _lines(key.blob), _lines(encryptor.update(padded) + encryptor.finalize())
    text = [
        f"PuTTY-User-Key-File-3: {key.kind}",
        "Encryption: aes256-cbc",
        f"Comment: {comment}",
        f"Public-Lines: {len(public_lines)}",
        *public_lines,
        "Key-Derivation: Argon2id",
        f"Argon2-Memory: {MEMORY_KIB}",
        f"Argon2-Passes: {PASSES}",
        "Argon2-Parallelism: 1",
        f"Argon2-Salt: {salt.hex()}",
        f"Private-Lines: {len(private_lines)}",
        *private_lines,
        f"Private-MAC: {mac}",
    ]
    return ("\r\n".join(text) + "\r\n").encode()


def _private_blob(private: Any) -> bytes:
    """Return the private half as PuTTY keeps it. Raises: MeetingctlError for a kind that PuTTY has no format for."""
    match private:
        case ed25519.Ed25519PrivateKey():
            return _string(private.private_bytes_raw())
        case ec.EllipticCurvePrivateKey():
            return _mpint(private.private_numbers().private_value)
        case rsa.RSAPrivateKey():
            numbers = private.private_numbers()
            return b"".join(map(_mpint, (numbers.d, numbers.p, numbers.q, numbers.iqmp)))
    raise MeetingctlError("Conversion failed", hint="use an Ed25519, ECDSA or RSA key")


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _mpint(value: int) -> bytes:
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _lines(blob: bytes) -> list[str]:
    return textwrap.wrap(base64.b64encode(blob).decode(), 64)
