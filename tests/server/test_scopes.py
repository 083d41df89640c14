"""Keys that are limited to permissions, device types or tags: what they reach, and what they cannot."""

from __future__ import annotations

import re
from typing import Any

import pytest
from planes import Fleet
from test_access import TABLE

from meetingctl.server.db.schema import audit

# Routes that answer everybody, or that look at the limits of a key themselves.
HEEDED = {
    "GET /api",
    "GET /api/health",
    "GET /api/openapi.json",
    "GET /metrics",
    "GET /api/whoami",
    "GET /api/ssh-hostkey",
    "GET /api/ssh/pubkey",
    "GET /api/users/authorized-keys",
    "GET /api/devices",
    "GET /api/tunnels",
    "GET /api/tunnels/stats",
    "GET /api/tunnels/{port}",
    "DELETE /api/tunnels/{port}",
    "GET /api/device-types",
    "GET /api/device-types/{id}/icon",
    "GET /api/events",
}
SLICES = re.compile(r"/api/(auth|admin/|builder/|flash/|devices/device-types)|/published/|/register$")


def new_key(fleet: Fleet, role: str = "operator", **limits: Any) -> str:
    body = {"name": "limited", "role": role, **limits}
    answer = fleet.call("POST", "/api/keys", key=fleet.admin, json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["key"])


@pytest.fixture
def stocked(any_fleet: Fleet) -> Fleet:
    for name, kind in (("cam-1", "rpi"), ("cam-2", "rpi"), ("esp-1", "esp")):
        any_fleet.device(name, device_type=kind)
    for name in ("cam-1", "esp-1"):
        tagged = any_fleet.call("PUT", f"/api/devices/{name}/tags", key=any_fleet.admin, json={"tags": ["lobby"]})
        assert tagged.status_code == 200
    return any_fleet


def seen(fleet: Fleet, key: str) -> set[str]:
    return {row["device_key"] for row in fleet.call("GET", "/api/devices", key=key).json()["devices"]}


def test_lists_hold_the_devices_within_the_limits(stocked: Fleet) -> None:
    assert seen(stocked, new_key(stocked, device_types=["rpi"])) == {"cam-1", "cam-2"}
    assert seen(stocked, new_key(stocked, tags=["lobby", "other"])) == {"cam-1", "esp-1"}
    assert seen(stocked, new_key(stocked, device_types=["rpi"], tags=["lobby"])) == {"cam-1"}


def test_one_device_is_within_or_out_of_reach(stocked: Fleet) -> None:
    key = new_key(stocked, device_types=["rpi"], tags=["lobby"])
    for name, status in (("cam-1", 200), ("cam-2", 403), ("esp-1", 403)):
        assert stocked.call("GET", f"/api/devices/{name}", key=key).status_code == status
        answer = stocked.call("PUT", f"/api/devices/{name}/note", key=key, json={"note": "n"})
        assert answer.status_code == status
    body = {"device_key": "cam-2", "pubkey": "x"}
    assert stocked.call("POST", "/api/forcecommand/register_device_key", key=key, json=body).status_code == 403


def test_a_device_that_moves_is_out_of_reach_at_once(stocked: Fleet) -> None:
    key = new_key(stocked, tags=["lobby"])
    path = "/api/devices/cam-1"
    assert stocked.call("GET", path, key=key).status_code == 200
    stocked.call("PUT", f"{path}/tags", key=stocked.admin, json={"tags": []})
    assert stocked.call("GET", path, key=key).status_code == 403


def test_tunnels_of_other_devices_are_hidden_and_stay_open(stocked: Fleet) -> None:
    for name in ("cam-1", "esp-1"):
        opened = stocked.call("POST", f"/api/devices/{name}/service", key=stocked.admin, json={"service": "ssh"})
        assert opened.status_code == 200, opened.text
    port = opened.json()["port"]
    key = new_key(stocked, device_types=["rpi"])
    shown = stocked.call("GET", "/api/tunnels", key=key).json()["tunnels"]
    assert [row["device_key"] for row in shown] == ["cam-1"]
    assert stocked.call("GET", f"/api/tunnels/{port}", key=key).status_code in (403, 404)
    assert stocked.call("DELETE", f"/api/tunnels/{port}", key=key).status_code in (403, 404)
    assert stocked.call("POST", "/api/tunnels/close-all", key=key).status_code == 403
    assert len(stocked.call("GET", "/api/tunnels", key=stocked.admin).json()["tunnels"]) == 2


@pytest.mark.parametrize(
    ("permissions", "allowed", "refused"),
    [
        (["fleet:view"], "GET /api/devices", "PUT /api/devices/cam-1/note"),
        (["fleet:view"], "GET /api/devices/cam-1", "GET /api/keys"),
        (["updates:view"], "GET /api/admin/updates/releases", "GET /api/devices"),
        (["updates:publish"], "POST /api/builder/start", "PUT /api/devices/cam-1/authorize"),
        (["channels:edit"], "GET /api/admin/update-channels", "POST /api/builder/start"),
        (["admin:full"], "GET /api/keys", ""),
    ],
)
def test_permissions_narrow_a_role(stocked: Fleet, permissions: list[str], allowed: str, refused: str) -> None:
    key = new_key(stocked, "admin", permissions=permissions)

    def status_of(call: str) -> int:
        method, path = call.split(" ")
        return int(stocked.call(method, path, key=key, json={}).status_code)

    assert status_of(allowed) == 200
    assert not refused or status_of(refused) == 403


def test_no_key_makes_a_wider_one(stocked: Fleet) -> None:
    admin = new_key(stocked, "admin", device_types=["rpi"])
    for limits in ({}, {"device_types": ["rpi", "esp"]}, {"tags": ["lobby"]}):
        body = {"name": "wider", "role": "viewer", **limits}
        assert stocked.call("POST", "/api/keys", key=admin, json=body).status_code == 403, limits
    scoped = new_key(stocked, "admin", permissions=["fleet:view"])
    body = {"name": "wider", "role": "admin", "permissions": ["admin:full"]}
    assert stocked.call("POST", "/api/keys", key=scoped, json=body).status_code == 403


def test_publishing_stays_within_the_types(stocked: Fleet) -> None:
    key = new_key(stocked, device_types=["rpi"])
    for kind, status in (("rpi", 200), ("esp", 403)):
        manifest = {"device_type": kind, "distribution": "d1", "version": "1"}
        assert stocked.call("POST", "/api/builder/start", key=key, json=manifest).status_code == status
        made = stocked.call("POST", "/api/flash/create-type", key=key, json={"devicetype": kind})
        assert made.status_code == status
    tagged = new_key(stocked, tags=["lobby"])
    manifest = {"device_type": "rpi", "distribution": "d1", "version": "1"}
    assert stocked.call("POST", "/api/builder/start", key=tagged, json=manifest).status_code == 403


def test_a_key_of_a_service_has_no_limits(fleet: Fleet) -> None:
    body = {"name": "p", "role": "proxy", "tags": ["lobby"]}
    assert fleet.call("POST", "/api/keys", key=fleet.admin, json=body).status_code == 400
    body = {"name": "p", "role": "viewer", "permissions": ["all"]}
    assert fleet.call("POST", "/api/keys", key=fleet.admin, json=body).status_code == 400


@pytest.mark.parametrize("route", [route for route in TABLE if route not in HEEDED and not SLICES.search(route)])
def test_a_limited_key_reaches_nothing_else(fleet: Fleet, route: str) -> None:
    fleet.device(device_type="rpi")
    key = new_key(fleet, "admin", device_types=["none"])
    method, path = route.split(" ")
    path = re.sub(r"\{\w+\}", "1", path.replace("{device_key}", "cam-1"))
    answer = fleet.call(method, path, key=key, params={"device_key": "cam-1"}, json={"device_key": "cam-1"})
    assert answer.status_code == 403, answer.text


def test_what_is_refused_stands_in_the_audit_log_or_in_no_list(stocked: Fleet) -> None:
    key = new_key(stocked, device_types=["rpi"])
    assert stocked.call("DELETE", "/api/devices/esp-1", key=key).status_code == 403
    assert "device.delete" not in [row["action"] for row in stocked.rows(audit.select())]


def test_a_key_that_ends_gives_out_nothing_that_lasts(fleet: Fleet) -> None:
    key = new_key(fleet, "admin", expires_in_s=3600)
    account = {"username": "anna", "password": "long enough", "role": "viewer"}
    made = fleet.call("POST", "/api/users", key=fleet.admin, json=account).json()
    assert fleet.call("POST", "/api/users", key=key, json=account | {"username": "evil"}).status_code == 403
    path = f"/api/users/{made['id']}"
    assert fleet.call("PUT", path, key=key, json={"password": "another one"}).status_code == 403
    assert fleet.call("PUT", path, key=key, json={"role": "admin"}).status_code == 403
    assert fleet.call("POST", f"{path}/token", key=key).status_code == 403
    assert fleet.call("GET", path, key=key).status_code == 200


def test_a_limited_key_moves_no_device_out_of_its_limits(stocked: Fleet) -> None:
    typed, tagged = new_key(stocked, device_types=["rpi"]), new_key(stocked, tags=["lobby"])

    def put(key: str, name: str, body: Any) -> int:
        return int(stocked.call("PUT", f"/api/devices/cam-1/{name}", key=key, json=body).status_code)

    assert put(typed, "device-type", {"device_type": "esp"}) == 403
    assert put(typed, "device-type", {"device_type": "rpi"}) == 200
    assert put(typed, "parent", {"parent_device_key": "esp-1"}) == 403
    assert put(typed, "parent", {"parent_device_key": "cam-2"}) == 200
    assert put(tagged, "tags", {"tags": ["lobby", "x"]}) == 403
    assert put(tagged, "tags", {"tags": []}) == 403
    assert put(tagged, "tags", {"tags": ["lobby"]}) == 200


def test_versions_of_other_types_are_not_told(stocked: Fleet) -> None:
    place = {"device_type": "esp", "distribution": "d1"}

    def suggest(key: str) -> int:
        return int(stocked.call("POST", "/api/builder/suggest-version", key=key, json=place).status_code)

    assert suggest(new_key(stocked, device_types=["rpi"])) == 403
    assert suggest(new_key(stocked, permissions=["updates:publish"])) == 200
