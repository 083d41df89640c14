"""What is refused stands in the audit log, once."""

from __future__ import annotations

import json
from typing import Any

from planes import Fleet, wait_for

from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.db.schema import audit
from meetingctl.server.identity.keys import create_key

FORM: dict[str, Any] = {"data": {"devicetype": "rpi", "distribution": "d1"}, "files": {"file": ("../x", b"x")}}


def refused(fleet: Fleet) -> list[tuple[str, str, str]]:
    rows = fleet.rows(audit.select().where(audit.c.action == "request.refuse"))
    return [(row["principal"], row["object"], json.loads(row["after"])["error"]) for row in rows]


def test_a_role_that_is_too_low(any_fleet: Fleet) -> None:
    any_fleet.device()
    for _ in range(3):
        answer = any_fleet.call("DELETE", "/api/devices/cam-1", key=any_fleet.key("viewer"))
        assert answer.status_code == 403
    wait_for(lambda: refused(any_fleet), "the refusal is written down")
    any_fleet.call("DELETE", "/api/devices/cam-1/ssh-key", key=any_fleet.key("viewer"))
    wait_for(lambda: len(refused(any_fleet)) == 2, "another call is written down too")
    assert refused(any_fleet)[0] == ("key:the viewer", "DELETE /api/devices/cam-1", "Forbidden")
    assert any_fleet.call("GET", "/api/audit/verify", key=any_fleet.admin).json()["ok"] is True


def test_names_that_lead_elsewhere(fleet: Fleet) -> None:
    key = fleet.key("operator")
    assert fleet.call("POST", "/api/flash/upload", key=key, **FORM).json() == {"error": "Invalid file name"}
    body = {"devicetype": "../etc"}
    assert fleet.call("POST", "/api/flash/create-type", key=key, json=body).status_code == 400
    wait_for(lambda: refused(fleet), "the name is written down")
    assert ("key:the operator", "POST /api/flash/upload", "Invalid file name") in refused(fleet)


def test_a_build_of_somebody_else(fleet: Fleet) -> None:
    build = fleet.call("POST", "/api/builder/start", key=fleet.key("operator"), json={}).json()["build_id"]
    other = fleet.write(lambda c: create_key(c, SYSTEM, name="other", role="operator")).text
    path = f"/api/builder/manifest?build_id={build}"
    assert fleet.call("GET", path, key=other).json() == {"error": "Build not found"}
    assert fleet.call("GET", "/api/builder/manifest?build_id=none", key=other).json() == {"error": "Build not found"}
    wait_for(lambda: refused(fleet), "the try is written down")
    assert [row[0] for row in refused(fleet)] == ["key:other"]


def test_traversal_is_written_down_wherever_it_is_tried(fleet: Fleet) -> None:
    key = fleet.key("operator")
    manifest = {"files": [{"filename": "../../etc/passwd"}]}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/flash/create-type", {"json": {"devicetype": "../x"}}),
        ("POST", "/api/flash/create-distribution", {"json": {"devicetype": "..", "distribution": "d1"}}),
        ("GET", "/api/flash/%2e%2e/distributions", {}),
        ("GET", "/published/%2e%2e/d1/1.0.0/manifest.json", {}),
        ("POST", "/api/builder/start", {"json": manifest}),
    ]
    for method, path, rest in calls:
        assert fleet.call(method, path, key=key, **rest).status_code in (400, 404), path
    wait_for(lambda: len(refused(fleet)) == len(calls), "each is written down")
    assert {row[0] for row in refused(fleet)} == {"key:the operator"}
