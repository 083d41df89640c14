"""The table of device types: fields in three content types, forks, merges and icons."""

from __future__ import annotations

import os

import pytest
from planes import Fleet

from meetingctl.server.catalog.orphans import find_orphans
from meetingctl.server.db.schema import audit, devices

TYPES = "/api/device-types"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
NEW = {"name": "Camera", "serial_prefix": "CAM-1"}


def create(fleet: Fleet, **fields) -> int:
    answer = fleet.call("POST", TYPES, key=fleet.admin, json=NEW | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def listed(fleet: Fleet) -> dict[str, dict]:
    answer = fleet.call("GET", TYPES, key=fleet.key("viewer"))
    return {item["name"]: item for item in answer.json()["device_types"]}


def test_three_content_types_say_the_same(any_fleet: Fleet) -> None:
    extra = {"platform": "arm", "description": "d"}
    whole = NEW | extra | {"services_default": ["ssh", "http"], "tags": ["a", "b"], "default_distribution": "d1"}
    form = whole | {"services_default": "http, ssh", "tags": '["a", "b"]'}
    ways = [
        {"json": whole | {"name": "1"}},
        {"data": form | {"name": "2"}},
        {"data": form | {"name": "3"}, "files": {"icon": ("i.png", PNG)}},
    ]
    for rest in ways:
        assert any_fleet.call("POST", TYPES, key=any_fleet.admin, **rest).json()["success"] is True
    found = listed(any_fleet)
    unlike = {"id", "name", "icon_path", "created_at", "updated_at"}
    shown = [{k: v for k, v in found[name].items() if k not in unlike} for name in "123"]
    assert shown[0] == shown[1] == shown[2]
    assert set(shown[0]["services_default"]) == {"ssh", "http"}
    assert [found[name]["icon_path"] is not None for name in "123"] == [False, False, True]


def test_change_fork_merge_and_delete(any_fleet: Fleet) -> None:
    parent = create(any_fleet, platform="arm", tags="a")
    answer = any_fleet.call(
        "POST", f"{TYPES}/{parent}/fork", key=any_fleet.admin, json={"name": "Fork", "serial_prefix": "F"}
    )
    fork = answer.json()["id"]
    assert listed(any_fleet)["Fork"]["parent_id"] == parent
    assert listed(any_fleet)["Fork"]["platform"] == "arm"
    change = any_fleet.call(
        "PUT", f"{TYPES}/{fork}", key=any_fleet.admin, data={"platform": "riscv", "status": "inactive"}
    )
    assert change.json() == {"success": True}
    any_fleet.device(device_type="Fork")
    assert any_fleet.call("POST", f"{TYPES}/{fork}/merge", key=any_fleet.admin).json() == {"success": True}
    found = listed(any_fleet)
    assert found.keys() == {"Camera"}
    assert (found["Camera"]["platform"], found["Camera"]["serial_prefix"]) == ("riscv", "F")
    assert [row["device_type"] for row in any_fleet.rows(devices.select())] == ["Camera"]
    again = any_fleet.call("POST", f"{TYPES}/{parent}/merge", key=any_fleet.admin)
    assert (again.status_code, again.json()["error"]) == (400, "Device type has no parent")
    assert any_fleet.call("DELETE", f"{TYPES}/{parent}", key=any_fleet.admin).json() == {"success": True}
    assert listed(any_fleet) == {}
    for method, path, rest in (
        ("DELETE", f"{TYPES}/{parent}", {}),
        ("PUT", f"{TYPES}/{parent}", {"json": {"name": "x"}}),
        ("POST", f"{TYPES}/{parent}/fork", {"json": NEW}),
        ("POST", f"{TYPES}/{parent}/merge", {}),
    ):
        gone = any_fleet.call(method, path, key=any_fleet.admin, **rest)
        assert (gone.status_code, gone.json()["error"]) == (404, "Device type not found")
    assert create(any_fleet) > fork
    actions = {row["action"] for row in any_fleet.rows(audit.select())}
    assert {f"device-type.{verb}" for verb in ("create", "fork", "change", "merge", "delete")} <= actions


def test_names_are_unique_whatever_their_case(any_fleet: Fleet) -> None:
    create(any_fleet)
    other = create(any_fleet, name="Other")
    ways = [("POST", TYPES, NEW | {"name": "CAMERA"}), ("PUT", f"{TYPES}/{other}", {"name": "camera"})]
    for method, path, fields in ways:
        answer = any_fleet.call(method, path, key=any_fleet.admin, json=fields)
        assert (answer.status_code, answer.json()["error"]) == (409, "Device type already exists")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x" * 129},
        {"name": "a\nb"},
        {"serial_prefix": "low"},
        {"serial_prefix": "A" * 17},
        {"platform": "p" * 65},
        {"description": "d" * 2001},
        {"services_default": ["nope"]},
        {"services_default": "[["},
        {"tags": ["t"] * 33},
        {"tags": [1]},
        {"parent_id": 999},
        {"parent_id": "-1"},
        {"parent_id": True},
        {"default_distribution": "../x"},
    ],
)
def test_bad_fields(fleet: Fleet, fields: dict) -> None:
    assert fleet.call("POST", TYPES, key=fleet.admin, json=NEW | fields).status_code == 400
    assert listed(fleet) == {}


def test_a_type_is_never_below_itself(fleet: Fleet) -> None:
    top = create(fleet)
    below = create(fleet, name="Below", parent_id=top)
    for parent in (top, below):
        answer = fleet.call("PUT", f"{TYPES}/{top}", key=fleet.admin, json={"parent_id": parent})
        assert answer.status_code == 400


def test_missing_and_empty(fleet: Fleet) -> None:
    answer = fleet.call("POST", TYPES, key=fleet.admin, json={"name": "x"})
    assert (answer.status_code, answer.json()["error"]) == (400, "Missing name or serial_prefix")
    number = create(fleet)
    for rest in ({"json": {}}, {"json": {"unknown": 1}}, {"data": {"unknown": "1"}}):
        answer = fleet.call("PUT", f"{TYPES}/{number}", key=fleet.admin, **rest)
        assert (answer.status_code, answer.json()["error"]) == (400, "Nothing to update")
    assert fleet.call("POST", TYPES, key=fleet.key("operator"), json=NEW).status_code == 403


def test_icons_are_images_by_their_bytes(fleet: Fleet) -> None:
    number = create(fleet)
    images = {"png": PNG, "jpeg": b"\xff\xd8\xff" + bytes(9), "webp": b"RIFF\0\0\0\0WEBP"}
    for kind, content in images.items():
        files = {"icon": ("any.svg", content, "image/svg+xml")}
        assert fleet.call("PUT", f"{TYPES}/{number}", key=fleet.admin, files=files).status_code == 200
        shown = fleet.call("GET", f"{TYPES}/{number}/icon", key=fleet.key("viewer"))
        assert (shown.content, shown.headers["content-type"]) == (content, f"image/{kind}")
        assert shown.headers["x-content-type-options"] == "nosniff"
    for content, status in ((b"<svg onload=x>", 400), (b"", 400), (PNG + bytes(1024**2), 413)):
        files = {"icon": ("i.png", content, "image/png")}
        assert fleet.call("PUT", f"{TYPES}/{number}", key=fleet.admin, files=files).status_code == status
    left = [path.name for path in (fleet.data_dir / "icons").iterdir() if path.name.startswith(".")]
    assert left == []
    other = create(fleet, name="plain")
    assert fleet.call("GET", f"{TYPES}/{other}/icon", key=fleet.admin).status_code == 404


def test_an_icon_that_no_type_shows_any_more_goes_away(fleet: Fleet) -> None:
    def send(method: str, path: str, content: bytes, **fields: str):
        return fleet.call(method, path, key=fleet.admin, data=fields, files={"icon": ("i.png", content)})

    number = send("POST", TYPES, PNG, name="cam", serial_prefix="C").json()["id"]
    (first,) = (fleet.data_dir / "icons").iterdir()
    os.utime(first, (0, 0))
    assert send("PUT", f"{TYPES}/{number}", PNG + b"2").status_code == 200
    (second,) = (fleet.data_dir / "icons").iterdir()
    assert second.name != first.name
    with fleet.state.database.read() as connection:
        assert find_orphans(fleet.data_dir, connection) == []
