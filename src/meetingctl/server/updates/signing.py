"""Detached ed25519 signatures of manifests."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Literal

from meetingctl.core.errors import InvalidInput

SIGNATURE_CAP_BYTES = 64 * 1024
_SIGNATURE_BYTES = 64

SignatureState = Literal["none", "valid", "unverified"]


def check_signature(manifest: bytes, signature: bytes | None, public_keys: Sequence[str]) -> SignatureState:
    """Say what a signature is worth: `unverified` without configured keys.

    `signature` is 64 raw bytes or their base64 or hex text; `public_keys` are 32 bytes each in base64 or hex.
    Raises: InvalidInput when keys are configured and none of them made it, or when it is no signature at all.
    """
    if signature is None:
        return "none"
    raw = _decode(signature, _SIGNATURE_BYTES)
    if raw is None:
        raise InvalidInput("Invalid signature", hint="manifest.sig holds 64 bytes of ed25519, raw, base64 or hex")
    if not public_keys:
        return "unverified"
    if not any(_is_made_by(manifest, raw, key) for key in public_keys):
        raise InvalidInput("Invalid signature", hint="no key of the setting updates_signing_keys made it")
    return "valid"


def _decode(content: bytes, length: int) -> bytes | None:
    if len(content) == length:
        return content
    text = content.strip()
    for decode in (binascii.unhexlify, lambda value: base64.b64decode(value, validate=True)):
        try:
            raw = decode(text)
        except (binascii.Error, ValueError):
            continue
        if len(raw) == length:
            return raw
    return None


def _is_made_by(manifest: bytes, signature: bytes, public_key: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = _decode(public_key.encode(), 32)
    if raw is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, manifest)
    except InvalidSignature:
        return False
    return True
