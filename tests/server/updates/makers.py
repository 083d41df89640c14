"""Releases for tests: archives, manifests and the form that publishes them."""

from __future__ import annotations

import hashlib
from typing import Any

from meetingctl.core.versions import Manifest

ARCHIVE = b"not really an archive, nothing ever opens it"


def manifest(version: str = "1.0.0", archive: bytes = ARCHIVE, **changes: Any) -> bytes:
    facts: dict[str, Any] = {
        "version": version,
        "device_type": "rpi",
        "distribution": "trixie",
        "archive": "app.tar.gz",
        "sha256": hashlib.sha256(archive).hexdigest(),
        "size_bytes": len(archive),
        "notes": f"what is new in {version}",
        "created_at": "2026-11-21T00:00:00Z",
    }
    return Manifest(**{**facts, **changes}).to_bytes()


def form(version: str = "1.0.0", archive: bytes = ARCHIVE, **changes: Any) -> dict[str, Any]:
    """Return the keyword arguments of the request that publishes a version."""
    content = changes.pop("manifest", manifest(version, archive))
    name = changes.pop("name", "app.tar.gz")
    files = {"manifest": ("manifest.json", content), "archive": (name, archive)}
    if "signature" in changes:
        files["signature"] = ("manifest.sig", changes.pop("signature"))
    return {"data": {"device_type": "rpi", "distribution": "trixie", "version": version} | changes, "files": files}


def publish(fleet: Any, version: str = "1.0.0", **changes: Any) -> Any:
    answer = fleet.call("POST", "/api/admin/updates/publish", key=fleet.admin, **form(version, **changes))
    assert answer.status_code == 200, answer.text
    return answer.json()


def add_channel(fleet: Any, target_version: str, **changes: Any) -> Any:
    body = {"device_type": "rpi", "distribution": "trixie", "channel": "default", "target_version": target_version}
    answer = fleet.call("POST", "/api/admin/update-channels", key=fleet.admin, json=body | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()["item"]
