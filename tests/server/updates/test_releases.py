"""Publish releases, read them back, and look for what should not be there."""

from __future__ import annotations

import base64
import json
import shutil
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from makers import ARCHIVE, add_channel, form, manifest, publish
from planes import CODE, Fleet, MakeFleet

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import audit, current_releases, release_history, releases
from meetingctl.server.updates.releases import STAGING, published_root, recover
from meetingctl.server.updates.verify import find_faults, find_orphans

NAMED = {"device_type": "rpi", "distribution": "trixie", "version": "1.0.0"}
PUBLISH = "/api/admin/updates/publish"


def faults(fleet: Fleet) -> list[dict[str, str]]:
    with fleet.database.read() as connection:
        return find_faults(fleet.data_dir, connection)


def test_a_release_is_published_with_everything_that_belongs_to_it(any_fleet: Fleet) -> None:
    fleet = any_fleet
    reply = publish(fleet)
    assert reply["path"] == "rpi/trixie/1.0.0"
    assert reply["size_bytes"] == len(ARCHIVE)
    assert fleet.call("GET", reply["archive_url"]).content == ARCHIVE
    assert json.loads(fleet.call("GET", reply["manifest_url"]).content)["version"] == "1.0.0"
    found = fleet.call("GET", "/api/admin/updates/verify", params=NAMED).json()
    assert found["ok"] is found["sha256_match"] is found["archive_exists"] is found["manifest_exists"] is True
    assert "missing_files" not in found
    assert [row["action"] for row in fleet.rows(sa.select(release_history))] == ["publish"]
    assert [row["version"] for row in fleet.rows(sa.select(current_releases))] == ["1.0.0"]
    assert fleet.rows(sa.select(audit).where(audit.c.action == "release.publish"))
    assert faults(fleet) == []


def test_the_same_bytes_again_are_fine_and_others_are_not(fleet: Fleet) -> None:
    publish(fleet)
    again = publish(fleet, manifest=manifest(created_at="2027-01-01T00:00:00Z"))
    assert again["message"] == "Release was published before"
    for changes in ({"archive": b"other"}, {"manifest": manifest(notes="other notes")}):
        answer = fleet.call("POST", PUBLISH, key=fleet.admin, **form(**changes))
        assert (answer.status_code, answer.json()["error"]) == (409, "VERSION_EXISTS")
    assert fleet.call("GET", "/published/rpi/trixie/1.0.0/app.tar.gz").content == ARCHIVE
    assert len(fleet.rows(sa.select(release_history))) == 1
    assert faults(fleet) == []


def test_two_at_once_publish_one_release(any_fleet: Fleet) -> None:
    fleet = any_fleet
    calls = [("POST", PUBLISH, {"key": fleet.admin, **form(archive=bytes([n // 2]) * 9)}) for n in range(8)]
    answers = fleet.call_all(calls)
    assert {answer.status_code for answer in answers} <= {200, 409, 503}
    assert any(answer.status_code == 200 for answer in answers)
    assert len(fleet.rows(sa.select(releases))) == len(fleet.rows(sa.select(release_history))) == 1
    assert faults(fleet) == []


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"manifest": manifest("2.0.0")}, 400, "VALIDATION_FAILED"),
        ({"manifest": manifest(device_type="other")}, 400, "VALIDATION_FAILED"),
        ({"manifest": manifest().replace(b"app.tar.gz", b"b.tar.gz")}, 400, "VALIDATION_FAILED"),
        ({"manifest": manifest(size_bytes=1)}, 400, "VALIDATION_FAILED"),
        ({"manifest": manifest(sha256="0" * 64)}, 400, "SHA256_MISMATCH"),
        ({"manifest": b"{"}, 400, "VALIDATION_FAILED"),
        ({"manifest": b"[]"}, 400, "VALIDATION_FAILED"),
        ({"name": "manifest.json"}, 400, "VALIDATION_FAILED"),
        ({"name": "../app.tar.gz"}, 400, "VALIDATION_FAILED"),
        ({"name": "app.exe"}, 400, "VALIDATION_FAILED"),
        ({"version": "..", "manifest": manifest()}, 400, "VALIDATION_FAILED"),
        ({"device_type": "..", "manifest": manifest()}, 400, "VALIDATION_FAILED"),
        ({"archive": b"x" * (1024**2 + 1)}, 413, "FILE_TOO_LARGE"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    make_fleet: MakeFleet, changes: dict[str, Any], status: int, code: str
) -> None:
    fleet = make_fleet(updates_archive_max_mib=1)
    answer = fleet.call("POST", PUBLISH, key=fleet.admin, **form(**changes))
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert fleet.rows(sa.select(releases)) == []
    staging = published_root(fleet.data_dir) / STAGING
    assert not staging.exists() or not list(staging.iterdir())


def test_codes_of_missing_wrong_and_low_credentials(fleet: Fleet) -> None:
    for key, status, code in (
        (None, 401, "AUTH_MISSING"),
        ("mk_wrong", 401, "AUTH_DENIED"),
        (fleet.key("viewer"), 403, "FORBIDDEN"),
    ):
        answer = fleet.call("POST", PUBLISH, key=key, **form())
        assert (answer.status_code, answer.json()["error"]) == (status, code)


def test_a_signature_is_checked_when_a_key_is_configured(make_fleet: MakeFleet) -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    fleet = make_fleet(updates_signing_keys=(base64.b64encode(public).decode(),))
    signature = private.sign(manifest())
    wrong = form(signature=bytes([signature[0] ^ 1]) + signature[1:])
    assert fleet.call("POST", PUBLISH, key=fleet.admin, **wrong).json()["message"] == "Invalid signature"
    publish(fleet, signature=base64.b64encode(signature))
    assert fleet.call("GET", "/api/admin/updates/verify", params=NAMED).json()["signature"] == "valid"
    assert fleet.call("GET", "/published/rpi/trixie/1.0.0/manifest.sig").status_code == 200


def test_without_a_key_a_signature_is_unverified(fleet: Fleet) -> None:
    publish(fleet, signature=b"s" * 64)
    assert fleet.call("GET", "/api/admin/updates/verify", params=NAMED).json()["signature"] == "unverified"


def test_reading_lists_versions_types_and_notes(fleet: Fleet) -> None:
    for version in ("1.0.9", "1.0.10", "1.0.10-rc1"):
        publish(fleet, version)
    named = {"device_type": "rpi", "distribution": "trixie"}
    versions = fleet.call("GET", "/api/admin/updates/versions", params=named).json()
    assert versions["versions"] == ["1.0.10", "1.0.10-rc1", "1.0.9"]
    types = fleet.call("GET", "/api/admin/updates/device-types").json()
    assert types["device_types"]["rpi"] == {
        "distributions": ["trixie"],
        "latest_versions": {"trixie": "1.0.10-rc1"},
    }
    assert (types["total_types"], types["total_versions"]) == (1, 3)
    add_channel(fleet, "1.0.9")
    types = fleet.call("GET", "/api/admin/updates/device-types").json()
    assert types["device_types"]["rpi"]["latest_versions"] == {"trixie": "1.0.9"}
    as_list = fleet.call("GET", "/api/admin/updates/device-types?format=list").json()
    assert as_list["device_types"] == {"rpi": ["trixie"]}
    notes = fleet.call("GET", "/api/admin/updates/release-notes", params={"device_type": "rpi"}).json()
    assert notes["release_notes"] == "what is new in 1.0.10"
    missing = fleet.call("GET", "/api/admin/updates/versions", params={"device_type": "x", "distribution": "y"})
    assert (missing.status_code, missing.json()["error"]) == (404, "NOT_FOUND")
    nothing = fleet.call("GET", "/api/admin/updates/verify", params={**NAMED, "version": "9"})
    assert nothing.status_code == 404
    assert nothing.json()["archive_exists"] is nothing.json()["manifest_exists"] is False


def test_downloads_come_in_ranges_with_headers_that_cache(fleet: Fleet) -> None:
    publish(fleet)
    for path in ("/published/rpi/trixie/1.0.0/app.tar.gz", "/api/admin/updates/download"):
        sent = {"params": NAMED} if "download" in path else {}
        part = fleet.call("GET", path, headers={"range": "bytes=4-9"}, **sent)
        assert (part.status_code, part.content) == (206, ARCHIVE[4:10])
        assert part.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert part.headers["x-content-type-options"] == "nosniff"
        assert part.headers["content-disposition"].startswith("attachment")
        same = fleet.call("GET", path, headers={"if-none-match": part.headers["etag"]}, **sent)
        assert (same.status_code, same.content) == (304, b"")
        assert fleet.call("GET", path, headers={"range": "bytes=999999-"}, **sent).status_code == 416


@pytest.mark.parametrize(
    "path",
    [
        "rpi/trixie/1.0.0/nothing.json",
        "rpi/trixie/1.0.1/manifest.json",
        "rpi/trixie/1.0.0/..%2fmanifest.json",
        "rpi/trixie/%2e%2e/manifest.json",
        "rpi/..%2f..%2f..%2f..%2fetc/1.0.0/passwd",
        ".staging/x/y/z",
        "rpi/trixie/1.0.0/%252e%252e",
        "rpi/trixie/1.0.0/" + "a" * 300,
        "rpi/trixie/1.0.0/manifest.json.",
        "rpi\\trixie/1/2/3",
    ],
)
def test_nothing_else_is_served(fleet: Fleet, path: str) -> None:
    publish(fleet)
    assert fleet.call("GET", f"/published/{path}").status_code == 404


def test_links_in_the_tree_are_not_followed(fleet: Fleet) -> None:
    publish(fleet)
    archive = published_root(fleet.data_dir) / "rpi/trixie/1.0.0/app.tar.gz"
    archive.rename(fleet.data_dir / "elsewhere")
    archive.symlink_to(fleet.data_dir / "elsewhere")
    assert fleet.call("GET", "/published/rpi/trixie/1.0.0/app.tar.gz").status_code == 404
    assert faults(fleet) == [{"name": "rpi/trixie/1.0.0", "fault": "missing: app.tar.gz"}]


def test_private_releases_need_a_credential_or_a_signed_address(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(updates_public_read=False)
    fleet.device("cam-1")
    publish(fleet)
    path = "/published/rpi/trixie/1.0.0/app.tar.gz"
    assert fleet.call("GET", path).status_code == 401
    assert fleet.call("GET", "/api/admin/updates/verify", params=NAMED).json()["error"] == "AUTH_MISSING"
    assert fleet.call("GET", f"{path}?device_key=cam-1", code=CODE).status_code == 200
    url = fleet.call("GET", "/api/admin/updates/verify", params=NAMED, key=fleet.key("viewer")).json()["archive_url"]
    answer = fleet.call("GET", url)
    assert (answer.status_code, answer.headers["cache-control"][:7]) == (200, "private")
    assert fleet.call("GET", url.replace("signature=", "signature=0")).status_code == 401
    assert fleet.call("GET", url.replace("app.tar.gz", "manifest.json")).status_code == 401
    past = now_ms() // 1000 - 10
    assert fleet.call("GET", f"{path}?expires={past}&signature={url[-64:]}").status_code == 401


def test_addresses_never_repeat_a_foreign_host(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    publish(fleet)
    evil = fleet.call("GET", "/api/admin/updates/verify", params=NAMED, headers={"host": "evil.example"}).json()
    assert "evil" not in evil["archive_url"]
    named = make_fleet(public_url="https://fleet.example.org")
    shown = named.call("GET", "/api/admin/updates/verify", params=NAMED).json()
    assert shown["archive_url"] == "https://fleet.example.org/published/rpi/trixie/1.0.0/app.tar.gz"


def test_damage_and_orphans_are_found(fleet: Fleet) -> None:
    publish(fleet)
    publish(fleet, "1.0.1")
    root = published_root(fleet.data_dir)
    (root / "rpi/trixie/1.0.0/app.tar.gz").write_bytes(b"changed")
    (root / "rpi/trixie/1.0.1/manifest.json").unlink()
    shutil.copytree(root / "rpi/trixie/1.0.0", root / "rpi/trixie/7")
    found = fleet.call("GET", "/api/admin/updates/verify-all", key=fleet.key("viewer")).json()
    assert found["intact"] is False
    assert {fault["name"] for fault in found["faults"]} == {f"rpi/trixie/{v}" for v in ("1.0.0", "1.0.1", "7")}
    part = fleet.call("GET", "/api/admin/updates/verify", params={**NAMED, "version": "1.0.1"}).json()
    assert part["missing_files"] == ["manifest.json"]


@pytest.mark.parametrize("with_folder", [True, False])
def test_what_a_crash_leaves_is_removed_at_the_next_start(fleet: Fleet, with_folder: bool) -> None:
    publish(fleet)
    publish(fleet, "1.0.1")
    fleet.write(
        lambda connection: connection.execute(
            releases.update().where(releases.c.version == "1.0.1").values(state="staging")
        )
    )
    root = published_root(fleet.data_dir)
    if not with_folder:
        shutil.rmtree(root / "rpi/trixie/1.0.1")
    (root / STAGING / "left").mkdir()
    with fleet.database.read() as connection:
        assert len(find_orphans(fleet.data_dir, connection)) == 2
    assert fleet.call("GET", "/published/rpi/trixie/1.0.1/manifest.json").status_code == 404
    assert recover(fleet.state, is_alone=False) == []
    assert recover(fleet.state, is_alone=True) == ["rpi/trixie/1.0.1"]
    assert faults(fleet) == []
    publish(fleet, "1.0.1")


def test_a_tool_may_ask_for_the_head_first(fleet: Fleet) -> None:
    answer = fleet.call("POST", "/api/admin/updates/publish", key=fleet.admin, **form("1.0", b"archive"))
    assert answer.status_code == 200, answer.text
    for path in (
        "/published/rpi/trixie/1.0/manifest.json",
        "/api/admin/updates/download?device_type=rpi&distribution=trixie&version=1.0",
    ):
        whole, head = fleet.call("GET", path), fleet.call("HEAD", path)
        assert (head.status_code, head.content) == (200, b""), path
        for name in ("content-length", "etag", "accept-ranges"):
            assert head.headers[name] == whole.headers[name]
