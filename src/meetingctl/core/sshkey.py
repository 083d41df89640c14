"""SSH public keys: one line of text or the blob of the wire, and the fingerprint that people compare.

Sources: RFC 4253 section 6.6 (blob), RFC 5656 section 3.1 (ECDSA), RFC 8709 (Ed25519), OpenSSH PROTOCOL.u2f (sk-*).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
from dataclasses import dataclass

from meetingctl.core.errors import InvalidInput

LONGEST_LINE = 16 * 1024
_RSA_BITS = range(2048, 16384 + 1)
_CURVES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}  # bytes of an uncompressed point
_ED25519_BYTES = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key as the wire carries it; the comment of its line is no part of it."""

    blob: bytes

    @property
    def kind(self) -> str:
        """The key type, for example `ssh-ed25519`."""
        length = int.from_bytes(self.blob[:4], "big")
        return self.blob[4 : 4 + length].decode("ascii", "replace")

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and 43 characters, as `ssh-keygen -l` writes it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return f"SHA256:{digest.rstrip('=')}"

    @property
    def text(self) -> str:
        """Key type and Base64, as a line of known_hosts ends."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


def parse_fingerprint(text: str) -> str:
    """Return a fingerprint in its one spelling; the prefix may be absent. Raises: InvalidInput."""
    body = text.strip().removeprefix("SHA256:").rstrip("=")
    with contextlib.suppress(ValueError, binascii.Error):
        if len(base64.b64decode(f"{body}=", validate=True)) == hashlib.sha256().digest_size:
            return f"SHA256:{body}"
    raise InvalidInput(f"not a SHA256 fingerprint: {text[:80]!r}", hint="ssh-keygen -l -f ssh_host_ed25519_key.pub")


def parse_public_key(line: str) -> tuple[PublicKey, str]:
    """Read one line of an OpenSSH `.pub` file strictly; return the key and its comment.

    Nothing may stand before the key type, so no option can ride along. Raises: InvalidInput.
    """
    text = line.strip(" \t\r\n")
    if len(line) > LONGEST_LINE or not text.isprintable():
        raise InvalidInput("Invalid public key", hint="give one line of a .pub file")
    kind, _, rest = text.partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
        _check_blob(kind, blob)
    except ValueError as exc:
        raise InvalidInput("Invalid public key", hint=f"{exc}; make one with: ssh-keygen -t ed25519") from None
    return PublicKey(blob), comment.strip()


def _check_blob(kind: str, blob: bytes) -> None:
    """Check that a blob is one whole key of its kind. Raises: ValueError with the reason."""
    fields = _split_fields(blob)
    if not kind.isascii() or fields[0] != kind.encode():
        raise ValueError("the type does not match the key")
    match kind:
        case "ssh-ed25519":
            is_whole = len(fields) == 2 and len(fields[1]) == _ED25519_BYTES
        case "sk-ssh-ed25519@openssh.com":
            is_whole = len(fields) == 3 and len(fields[1]) == _ED25519_BYTES
        case "ssh-rsa":
            is_whole = len(fields) == 3 and _is_strong_rsa(fields[1], fields[2])
        case "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521":
            is_whole = len(fields) == 3 and _is_point(kind.rpartition("-")[2], fields[1], fields[2])
        case "sk-ecdsa-sha2-nistp256@openssh.com":
            is_whole = len(fields) == 4 and _is_point("nistp256", fields[1], fields[2])
        case _:
            raise ValueError("the key type is not accepted")
    if not is_whole:
        raise ValueError("the key is cut, or too weak")


def _split_fields(blob: bytes) -> list[bytes]:
    fields = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            raise ValueError("the key is cut")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    if not fields:
        raise ValueError("the key is empty")
    return fields


def _is_strong_rsa(exponent: bytes, modulus: bytes) -> bool:
    e, n = int.from_bytes(exponent, "big", signed=True), int.from_bytes(modulus, "big", signed=True)
    return e >= 3 and e % 2 == 1 and n > 0 and n.bit_length() in _RSA_BITS


def _is_point(curve: str, named: bytes, point: bytes) -> bool:
    return named == curve.encode() and len(point) == _CURVES[curve] and point[0] == 4
