"""The contract's endpoints about device types and files: keys of the replies, and each documented error."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from cases import Slice, check_reply, matching
from planes import Fleet, MakeFleet, missing

K = "/api/devices/{device_key}"
CATALOG = matching(r" /api/(flash|device-types|devices/device-types)(/|$)|distrib-json")
FAILS = "tests/contract/test_catalog_api.py::test_a_disk_that_fails"
SLICE = Slice(
    CATALOG,
    {
        "Upload failed": FAILS,
        "Cannot create device type": FAILS,
        "Cannot create distribution": FAILS,
        "Delete failed": FAILS,
        "Storage full": "tests/server/catalog/test_flash.py::test_caps_and_quota",
    },
)
TYPE = {"name": "Camera", "serial_prefix": "CAM"}
PLACE = {"devicetype": "rpi", "distribution": "d1"}
FORM = {"data": PLACE, "files": {"file": ("b.bin", b"x")}}
GOOD: dict[str, dict[str, Any]] = {
    f"PUT {K}/distrib-json": {"json": {"a": 1}},
    "POST /api/flash/upload": FORM,
    "POST /api/flash/create-type": {"json": {"devicetype": "new"}},
    "POST /api/flash/create-distribution": {"json": PLACE | {"distribution": "d2"}},
    "POST /api/device-types": {"json": TYPE | {"name": "Other"}},
    "PUT /api/device-types/{id}": {"json": {"platform": "arm"}},
    "POST /api/device-types/{id}/fork": {"json": TYPE | {"name": "Other"}},
}
UNKNOWN: dict[str, Any] = {"change": {"id": "999", "device_key": "nobody", "type": "x", "device_type": "x"}}
BARE: dict[str, Any] = {"change": {"device_key": "bare"}}
BAD: dict[str, dict[str, Any]] = {
    "Device not found": UNKNOWN,
    "Device type not found": UNKNOWN,
    "Device has no device type or distribution": BARE,
    "distrib.json not found": {"change": {"device_key": "empty"}},
    "Body too large": {"content": b'"' + b"x" * 300_000 + b'"', "json": None},
    "Invalid JSON": {"content": b"{", "json": None},
    "Missing file": {"files": {"x": (None, "y")}},
    "Missing devicetype or distribution": {"data": {}},
    "Invalid file name": {"files": {"file": ("../b", b"x")}},
    "File too large": {"files": {"file": ("b", b"x" * (1024**2 + 1))}},
    "Invalid device type": {"json": {"devicetype": "upload"}},
    "Invalid device type or distribution": {"json": {"devicetype": "rpi"}},
    "Device type already exists": {"json": TYPE | {"name": "Fork", "devicetype": "rpi"}},
    "Distribution already exists": {"json": PLACE},
    "File not found": {"change": {"filename": "none"}},
    "Invalid path": {"change": {"filename": "a."}},
    "Missing name or serial_prefix": {"json": {"name": "x"}},
    "Nothing to update": {"json": {}},
    "Device type has no parent": {"change": {"id": "1"}},
}
BAD_AT: dict[tuple[str, str], dict[str, Any]] = {
    ("PUT /api/device-types/{id}", "Device type already exists"): {"json": {"name": "camera"}},
    ("POST /api/flash/upload", "Distribution not found"): {"data": PLACE | {"distribution": "none"}},
    ("POST /api/flash/create-distribution", "Device type not found"): {"json": PLACE | {"devicetype": "none"}},
}


@pytest.fixture
def stocked(make_fleet: MakeFleet) -> Fleet:
    """A fleet with a type and its fork, a distribution with a file, and devices in three states."""
    fleet = make_fleet(flash_file_max_mib=1)
    for path, body in (
        ("/api/flash/create-type", PLACE),
        ("/api/flash/create-distribution", PLACE),
        ("/api/flash/create-distribution", PLACE | {"distribution": "blank"}),
        ("/api/device-types", TYPE),
        ("/api/device-types/1/fork", TYPE | {"name": "Fork"}),
    ):
        assert fleet.call("POST", path, key=fleet.admin, json=body).status_code == 200
    fleet.device(device_type="rpi", distribution="d1")
    fleet.device("empty", device_type="rpi", distribution="blank")
    fleet.device("lost", device_type="rpi", distribution="none")
    fleet.device("bare")
    upload = {"data": PLACE, "files": {"file": ("a.bin", b"x")}}
    assert fleet.call("POST", "/api/flash/upload", key=fleet.admin, **upload).status_code == 200
    assert fleet.call("PUT", "/api/devices/cam-1/distrib-json", key=fleet.admin, json={}).status_code == 200
    return fleet


def send(fleet: Fleet, endpoint: str, change: dict[str, str] | None = None, **rest: Any):
    names = {"id": "2", "device_key": "cam-1", "type": "rpi", "device_type": "rpi", "distribution": "d1"}
    names |= {"filename": "a.bin"} | (change or {})
    method, path = endpoint.split(" ", 1)
    given = {key: value for key, value in (GOOD.get(endpoint, {}) | rest).items() if value is not None}
    return fleet.call(method, path.format(**names), key=fleet.admin, **given)


@pytest.mark.parametrize("endpoint", CATALOG)
def test_reply_has_the_documented_keys(stocked: Fleet, endpoint: str) -> None:
    check_reply(endpoint, send(stocked, endpoint))


@pytest.mark.parametrize(("endpoint", "status", "text"), SLICE.errors())
def test_documented_error(stocked: Fleet, endpoint: str, status: int, text: str) -> None:
    bad = BAD_AT.get((endpoint, text)) or BAD.get(text) or {"change": {"device_key": "lost"}}
    answer = send(stocked, endpoint, **bad)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


@pytest.fixture
def read_only(stocked: Fleet) -> Iterator[Fleet]:
    """A fleet whose storage is on a disk that refuses to be written, as one with a fault does."""
    folder = stocked.data_dir / "storage"
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        missing("the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield stocked
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.real
def test_a_disk_that_fails(read_only: Fleet) -> None:
    for endpoint, text in (
        ("POST /api/flash/upload", "Upload failed"),
        ("POST /api/flash/create-type", "Cannot create device type"),
        ("POST /api/flash/create-distribution", "Cannot create distribution"),
        ("DELETE /api/flash/{device_type}/{distribution}/{filename}", "Delete failed"),
    ):
        answer = send(read_only, endpoint)
        assert (answer.status_code, answer.json()) == (500, {"error": text})
    shown = send(read_only, "GET /api/flash/{device_key}/distribution-files").json()
    assert shown["files"] == ["a.bin", "distrib.json"]
