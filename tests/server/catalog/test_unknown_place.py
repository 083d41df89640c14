"""A device of a type that nobody has made yet (decision D-TYPECHECK)."""

from __future__ import annotations

from typing import Any

from planes import Fleet, MakeFleet

PLACE = {"devicetype": "rpi", "distribution": "d1"}


def create(fleet: Fleet, key: str, **more: str) -> Any:
    body = {"devicekey": key, "token_code": "0a0b0c", "device_type": "rpi", "distribution": "d1", **more}
    return fleet.call("POST", "/api/devices/manual-create", key=fleet.admin, json=body)


def test_it_is_created_and_told(any_fleet: Fleet) -> None:
    answer = create(any_fleet, "cam-1")
    assert (answer.status_code, answer.headers["x-meeting-warning"]) == (200, "unknown device type rpi")
    any_fleet.call("POST", "/api/flash/create-type", key=any_fleet.admin, json={"devicetype": "rpi"})
    assert create(any_fleet, "cam-2").headers["x-meeting-warning"] == "unknown distribution rpi/d1"
    any_fleet.call("POST", "/api/flash/create-distribution", key=any_fleet.admin, json=PLACE)
    assert "x-meeting-warning" not in create(any_fleet, "cam-3").headers


def test_strict_servers_refuse_it(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(device_types_strict=True)
    answer = create(fleet, "cam-1")
    assert (answer.status_code, answer.json()) == (400, {"error": "Unknown device type rpi"})
    assert fleet.call("GET", "/api/devices/cam-1", key=fleet.admin).status_code == 404


def test_both_spellings_are_read(fleet: Fleet) -> None:
    for path, body in (
        ("create-type", {"device_type": "rpi"}),
        ("create-distribution", {"device_type": "rpi", "distribution": "d1"}),
    ):
        assert fleet.call("POST", f"/api/flash/{path}", key=fleet.admin, json=body).status_code == 200
    path = "/api/admin/updates/versions?devicetype=rpi&distribution=d1"
    assert fleet.call("GET", path, key=fleet.admin).status_code in (200, 404)
    fleet.device()
    path = "/api/forcecommand/get_device_key?devicekey=cam-1"
    assert fleet.call("GET", path, key=fleet.admin).json() == {"status": "not_found"}


def test_serial_numbers_begin_as_the_type_says(fleet: Fleet) -> None:
    made = fleet.call("POST", "/api/device-types", key=fleet.admin, json={"name": "rpi", "serial_prefix": "RC"})
    assert made.status_code == 200
    assert create(fleet, "cam-1").json()["product_serial"].startswith("RC-")
    assert create(fleet, "cam-2", device_type="esp").json()["product_serial"].startswith("ESP-")
