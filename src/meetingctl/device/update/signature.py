"""The signature of a package, where the owner of the device wants one.

`update_manifest.sig` is 64 raw bytes of ed25519 over update_manifest.json, which holds the hash of every file. openssl
verifies it: it is on every device, also before the first installation.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from meetingctl.core import layout
from meetingctl.core.update_package import Package
from meetingctl.device.system import CODE_MISSING, System

_TIMEOUT_S = 20.0


def find_wrong_signature(system: System, package: Package) -> str:
    """Return what is wrong with the signature; empty when it is right, or when no key is configured."""
    key = system.path(layout.UPDATE_KEY)
    if not key.exists():
        return ""
    if not package.signature:
        return f"not signed, and {layout.UPDATE_KEY} asks for a signature"
    with tempfile.TemporaryDirectory(prefix="meetingctl-signature-") as folder:
        manifest, signature = Path(folder, "manifest"), Path(folder, "signature")
        manifest.write_bytes(package.manifest_bytes)
        signature.write_bytes(package.signature)
        ran = system.run(
            "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(key), "-rawin",
            "-in", str(manifest), "-sigfile", str(signature), timeout_s=_TIMEOUT_S,
        )  # fmt: skip
    if ran.code == CODE_MISSING:
        return "the signature cannot be verified: openssl is not installed"
    return "" if ran.ok else f"its signature is not by the key in {layout.UPDATE_KEY}"
