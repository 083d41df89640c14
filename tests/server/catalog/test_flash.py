"""The storage tree over HTTP: uploads, lists, refusals, and what a crash leaves."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from planes import CODE, Fleet, MakeFleet

from meetingctl.server.catalog.orphans import find_orphans, sweep_uploads
from meetingctl.server.db.schema import audit, distribution_files

UPLOAD = "/api/flash/upload"


def make_place(fleet: Fleet, device_type: str = "rpi", distribution: str = "d1") -> Path:
    for path, names in (
        ("create-type", {"devicetype": device_type}),
        ("create-distribution", {"devicetype": device_type, "distribution": distribution}),
    ):
        answer = fleet.call("POST", f"/api/flash/{path}", key=fleet.admin, json=names)
        assert answer.json() == {"success": True, **names}
    return fleet.data_dir / "storage" / device_type / distribution


def upload(fleet: Fleet, name: str = "a.bin", content: bytes = b"one", **rest):
    data = {"devicetype": "rpi", "distribution": "d1"} | rest.pop("data", {})
    key = rest.pop("key", None) or fleet.key("operator")
    return fleet.call("POST", UPLOAD, key=key, data=data, files={"file": (name, content)}, **rest)


def orphans(fleet: Fleet) -> list[str]:
    with fleet.database.read() as connection:
        return find_orphans(fleet.data_dir, connection)


def test_upload_replaces_and_records(any_fleet: Fleet) -> None:
    folder = make_place(any_fleet)
    for content in (b"one", b"the second"):
        assert upload(any_fleet, content=content).json() == {"success": True, "file": "a.bin"}
        assert (folder / "a.bin").read_bytes() == content
    rows = any_fleet.rows(distribution_files.select())
    assert [(row["size_bytes"], row["sha256"]) for row in rows] == [(10, hashlib.sha256(b"the second").hexdigest())]
    actions = [row["action"] for row in any_fleet.rows(audit.select()) if row["action"].startswith("storage.")]
    assert actions == ["storage.create-type", "storage.create-distribution", "storage.upload", "storage.upload"]
    assert orphans(any_fleet) == []
    any_fleet.device(device_type="rpi", distribution="d1")
    listed = any_fleet.call("GET", "/api/flash/cam-1/distribution-files", code=CODE).json()
    assert listed == {"devicetype": "rpi", "distribution": "d1", "files": ["a.bin"]}
    gone = any_fleet.call("DELETE", "/api/flash/rpi/d1/a.bin", key=any_fleet.admin)
    assert gone.json() == {"success": True}
    assert not (folder / "a.bin").exists()
    assert any_fleet.rows(distribution_files.select()) == []
    again = any_fleet.call("DELETE", "/api/flash/rpi/d1/a.bin", key=any_fleet.admin)
    assert (again.status_code, again.json()["error"]) == (404, "File not found")


def test_lists_show_folders_on_both_paths(fleet: Fleet) -> None:
    make_place(fleet)
    viewer = fleet.key("viewer")
    for family in ("flash", "devices"):
        assert fleet.call("GET", f"/api/{family}/device-types", key=viewer).json() == {"device_types": ["rpi"]}
    for path in ("/api/flash/rpi/distributions", "/api/devices/device-types/rpi/distributions"):
        assert fleet.call("GET", path, key=viewer).json() == {"distributions": ["d1"]}
        missing = fleet.call("GET", path.replace("rpi", "nope"), key=viewer)
        assert (missing.status_code, missing.json()["error"]) == (404, "Device type not found")


@pytest.mark.parametrize("name", ["../x", "..", ".hidden", "a/b", "a\\b", "a%2fb", "a b", "x" * 129, "é", "a.", "a\n"])
def test_bad_file_names_are_refused(fleet: Fleet, name: str) -> None:
    folder = make_place(fleet)
    answer = upload(fleet, name=name)
    assert (answer.status_code, answer.json()["error"]) == (400, "Invalid file name")
    assert list(folder.iterdir()) == []
    assert [p for p in (fleet.data_dir / "storage").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("place", [{"devicetype": ".."}, {"distribution": "../d1"}, {"devicetype": "/etc"}])
def test_bad_places_are_refused(fleet: Fleet, place: dict[str, str]) -> None:
    make_place(fleet)
    assert upload(fleet, data=place).status_code == 404


@pytest.mark.parametrize(
    "word", ["device-types", "upload", "Create-Type", "create-distribution", "..", "a/b", ".x", ""]
)
def test_bad_and_reserved_types_are_refused(fleet: Fleet, word: str) -> None:
    answer = fleet.call("POST", "/api/flash/create-type", key=fleet.admin, json={"devicetype": word})
    assert (answer.status_code, answer.json()["error"]) == (400, "Invalid device type")


def test_creating_twice_is_a_conflict(fleet: Fleet) -> None:
    make_place(fleet)
    names = {"devicetype": "rpi", "distribution": "d1"}
    first = fleet.call("POST", "/api/flash/create-type", key=fleet.admin, json=names)
    second = fleet.call("POST", "/api/flash/create-distribution", key=fleet.admin, json=names)
    third = fleet.call("POST", "/api/flash/create-distribution", key=fleet.admin, json=names | {"devicetype": "x"})
    texts = [answer.json()["error"] for answer in (first, second, third)]
    assert texts == ["Device type already exists", "Distribution already exists", "Device type not found"]


def test_planted_links_are_never_followed(fleet: Fleet, tmp_path: Path) -> None:
    folder = make_place(fleet)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    (folder / "link.bin").symlink_to(outside / "secret")
    (folder.parent / "d2").symlink_to(outside)
    assert upload(fleet, name="link.bin").status_code == 400
    assert upload(fleet, data={"distribution": "d2"}).status_code == 404
    assert fleet.call("DELETE", "/api/flash/rpi/d2/secret", key=fleet.admin).status_code == 400
    assert fleet.call("GET", "/api/flash/rpi/distributions", key=fleet.admin).json() == {"distributions": ["d1"]}
    (folder / "distrib.json").symlink_to(outside / "secret")
    fleet.device(device_type="rpi", distribution="d1")
    assert fleet.call("GET", "/api/devices/cam-1/distrib-json", key=fleet.admin).status_code == 404
    assert (outside / "secret").read_text() == "s"
    assert "storage/rpi/d1/link.bin: no record" in orphans(fleet)


def test_caps_and_quota(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(flash_file_max_mib=1, storage_quota_mib=2)
    folder = make_place(fleet)
    big = upload(fleet, content=b"x" * (1024**2 + 1))
    assert (big.status_code, big.json()["error"]) == (413, "File too large")
    assert upload(fleet, name="1", content=b"x" * 1024**2).status_code == 200
    assert upload(fleet, name="2", content=b"x" * (1024**2 - 10)).status_code == 200
    full = upload(fleet, name="3", content=b"x" * 11)
    assert (full.status_code, full.json()["error"]) == (507, "Storage full")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert orphans(fleet) == []


def test_roles(fleet: Fleet) -> None:
    make_place(fleet)
    assert upload(fleet, key=fleet.key("viewer")).status_code == 403
    assert fleet.call("POST", UPLOAD, files={"file": ("a", b"x")}).status_code == 401
    assert fleet.call("DELETE", "/api/flash/rpi/d1/a", key=fleet.key("operator")).status_code == 403


def test_forms_without_their_parts(fleet: Fleet) -> None:
    make_place(fleet)
    key = fleet.key("operator")
    no_file = fleet.call("POST", UPLOAD, key=key, data={"devicetype": "rpi"}, files={"x": (None, "y")})
    assert (no_file.status_code, no_file.json()["error"]) == (400, "Missing file")
    no_place = fleet.call("POST", UPLOAD, key=key, files={"file": ("a", b"x")})
    assert (no_place.status_code, no_place.json()["error"]) == (400, "Missing devicetype or distribution")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    cut = fleet.call(
        "POST", UPLOAD, key=key, content=b'--b\r\nContent-Disposition: form-data; name="file"', headers=headers
    )
    assert cut.status_code == 400
    assert fleet.call("POST", UPLOAD, key=key, json={}).status_code == 415


def test_distrib_json_is_kept_as_sent(any_fleet: Fleet) -> None:
    make_place(any_fleet)
    any_fleet.device(device_type="rpi", distribution="d1")
    path = "/api/devices/cam-1/distrib-json"
    operator = any_fleet.key("operator")
    missing = any_fleet.call("GET", path, code=CODE)
    assert (missing.status_code, missing.json()["error"]) == (404, "distrib.json not found")
    for content in (b'{ "a": [1, 2] }', b'"text"', b"[]"):
        assert any_fleet.call("PUT", path, key=operator, content=content).json() == {"success": True}
        assert any_fleet.call("GET", path, code=CODE).content == content
    for content in (b"", b"{", b"NaN", b"\xff", b"[" * 100_000):
        bad = any_fleet.call("PUT", path, key=operator, content=content)
        assert (bad.status_code, bad.json()["error"]) == (400, "Invalid JSON")
    assert any_fleet.call("PUT", path, key=operator, content=b'"' + b"x" * 262_144 + b'"').status_code == 413
    assert any_fleet.call("GET", path, code=CODE).content == b"[]"
    assert orphans(any_fleet) == []


def test_leftovers_are_reported_and_swept(fleet: Fleet) -> None:
    folder = make_place(fleet)
    upload(fleet)
    incoming = fleet.data_dir / "storage" / ".incoming"
    (incoming / ".upload-dead").write_bytes(b"half")
    (folder / "planted").write_bytes(b"x")
    (folder / "a.bin").write_bytes(b"changed")
    expected = {
        "storage/rpi/d1/planted: no record",
        "storage/rpi/d1/a.bin: other size than recorded",
        "storage/.incoming/.upload-dead: left by an upload",
    }
    assert set(orphans(fleet)) == expected
    assert sweep_uploads(fleet.data_dir) == []
    old_s = time.time() - 7200
    os.utime(incoming / ".upload-dead", (old_s, old_s))
    assert sweep_uploads(fleet.data_dir) == ["storage/.incoming/.upload-dead"]
    (folder / "a.bin").unlink()
    assert "storage/rpi/d1/a.bin: the file is missing" in orphans(fleet)


def test_a_note_that_a_kill_cut_off_is_swept_too(tmp_path: Path) -> None:
    """What `write_atomic` was writing has the name of the note, with a dot before it and letters behind."""
    incoming = tmp_path / "storage" / ".incoming"
    incoming.mkdir(parents=True)
    (incoming / "..upload-dead.note.4ykkvwqp").write_bytes(b"{")
    assert sweep_uploads(tmp_path) == []
    assert sweep_uploads(tmp_path, older_than_ms=-1000) == ["storage/.incoming/..upload-dead.note.4ykkvwqp"]
    assert list(incoming.iterdir()) == []
