"""The contract's endpoints about updates: keys of the replies, and each documented error with its code."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Any

import pytest
from cases import Slice, check_reply, matching
from planes import Fleet, missing

from meetingctl.core.clock import now_ms
from meetingctl.core.versions import Manifest
from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.identity.keys import create_key

UPDATES = matching("/api/admin/update|/device-update|/published/")
FULL_DISK = "tests/contract/test_updates_api.py::test_a_disk_that_is_full"
SLICE = Slice(UPDATES, {"DISK_FULL": FULL_DISK})
ARCHIVE = b"archive"
NAMED = {"device_type": "rpi", "distribution": "trixie", "version": "1.0"}
CHANNEL = {"device_type": "rpi", "distribution": "trixie", "channel": "default", "target_version": "1.0"}


def release_form(archive: bytes = ARCHIVE, sha256: str | None = None, **fields: str) -> dict[str, Any]:
    facts = Manifest(
        "1.0",
        "rpi",
        "trixie",
        "app.zip",
        sha256 or hashlib.sha256(archive).hexdigest(),
        len(archive),
        created_at="2026-11-21T00:00:00Z",
    )
    files = {"manifest": ("manifest.json", facts.to_bytes()), "archive": ("app.zip", archive)}
    return {"data": {**NAMED, **fields}, "files": files}


GOOD: dict[str, dict[str, Any]] = {
    "POST /api/admin/update-channels": {"json": {**CHANNEL, "channel": "beta"}},
    "PUT /api/admin/update-channels/{id}": {"json": {"active": 0}},
    "POST /api/admin/updates/publish": release_form(),
    "GET /api/admin/updates/verify": {"params": NAMED},
    "GET /api/admin/updates/versions": {"params": NAMED},
    "GET /api/admin/updates/download": {"params": NAMED},
    "GET /api/admin/updates/release-notes": {"params": NAMED},
    "GET /api/admin/device-updates/export": {"params": {"format": "json"}},
}
BAD: dict[tuple[str, str], dict[str, Any]] = {
    ("POST /api/admin/update-channels", "VALIDATION_FAILED"): {"json": {}},
    ("POST /api/admin/update-channels", "CHANNEL_EXISTS"): {"json": CHANNEL},
    ("PUT /api/admin/update-channels/{id}", "VALIDATION_FAILED"): {"json": {"active": "x"}},
    ("PUT /api/admin/update-channels/{id}", "CHANNEL_EXISTS"): {"json": {"channel": "taken"}},
    ("POST /api/admin/updates/publish", "VALIDATION_FAILED"): release_form(version=".."),
    ("POST /api/admin/updates/publish", "VERSION_EXISTS"): release_form(b"other"),
    ("POST /api/admin/updates/publish", "SHA256_MISMATCH"): release_form(sha256="0" * 64),
    ("POST /api/admin/updates/publish", "FILE_TOO_LARGE"): release_form(b"x" * (1024**2 + 1)),
    ("GET /api/admin/device-updates/export", "VALIDATION_FAILED"): {"params": {}},
}


@pytest.fixture
def ready(make_fleet: Any) -> Fleet:
    fleet: Fleet = make_fleet(updates_archive_max_mib=1)
    fleet.device("cam-1", device_type="rpi", distribution="trixie")
    assert call(fleet, "POST /api/admin/updates/publish").status_code == 200
    for name in ("default", "taken"):
        body = {**CHANNEL, "channel": name}
        assert call(fleet, "POST /api/admin/update-channels", json=body).status_code == 200
    return fleet


def call(fleet: Fleet, endpoint: str, *, row: str = "1", **rest: Any) -> Any:
    method, path = endpoint.split(" ", 1)
    path = path.replace("{id}", row).replace("{device_type}/{distribution}/{version}", "rpi/trixie/1.0")
    path = path.replace("{file}", "app.zip" if row == "1" else "nothing.zip")
    return fleet.call(method, path, **({"key": fleet.admin} | GOOD.get(endpoint, {}) | rest))


@pytest.mark.parametrize("endpoint", UPDATES)
def test_replies_have_the_documented_keys(ready: Fleet, endpoint: str) -> None:
    answer = call(ready, endpoint)
    check_reply(endpoint, answer, added=frozenset({"signature"}), optional=frozenset({"missing_files", "csv", "items"}))
    if answer.headers["content-type"] == "application/json":
        assert answer.json()["ok"] is True
    else:
        assert answer.content == ARCHIVE


@pytest.mark.parametrize(("endpoint", "status", "code"), SLICE.errors())
def test_documented_error(ready: Fleet, endpoint: str, status: int, code: str) -> None:
    sent: dict[str, Any] = BAD.get((endpoint, code), {})
    if code == "AUTH_MISSING":
        sent = {"key": None}
    elif code == "AUTH_DENIED":
        sent = {"key": "mk_0_wrong"}
    elif code == "AUTH_EXPIRED":
        past = now_ms() - 1000
        made = ready.write(
            lambda connection: create_key(connection, SYSTEM, name="old", role="admin", expires_at_ms=past)
        )
        sent = {"key": made.text}
    elif code == "FORBIDDEN":
        sent = {"key": ready.key("sshd")}
    elif status == 404:
        sent = {"row": "99", "params": {**NAMED, "version": "9", "distribution": "none"}}
    elif code == "VALIDATION_FAILED" and not sent:
        sent = {"params": {**NAMED, "version": "../.."} if "versions" not in endpoint else {}}
    answer = call(ready, endpoint, **sent)
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text


@pytest.mark.real
def test_a_disk_that_is_full(ready: Fleet) -> None:
    published = ready.data_dir / "published"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", published], capture_output=True).returncode:
        missing("the right to mount a tmpfs")
    try:
        answer = call(ready, "POST /api/admin/updates/publish", **release_form(b"x" * 300_000, version="2.0"))
        assert (answer.status_code, answer.json()["error"]) == (507, "DISK_FULL")
        assert [path for path in published.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", "-l", published], check=True)
    shown = call(ready, "GET /api/admin/updates/versions").json()
    assert shown["versions"] == ["1.0"]
