"""Channels, the fleet's update state, its export and history, and what devices ask and report."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import sqlalchemy as sa
from makers import add_channel, publish
from planes import CODE, Fleet

from meetingctl.server.db.schema import devices, presence, update_attempts
from meetingctl.server.updates.export import guard_cell

CHANNELS = "/api/admin/update-channels"
STATE = "/api/admin/device-updates"
HISTORY = "/api/admin/device-update-history"


def camera(fleet: Fleet, key: str, installed: str | None = None, **columns: Any) -> str:
    fleet.device(key, **{"device_type": "rpi", "distribution": "trixie"} | columns)
    if installed:
        beat = fleet.call("POST", f"/api/devices/{key}/online", code=CODE, json={"installed_version": installed})
        assert beat.status_code == 200
    return key


def report(fleet: Fleet, key: str, status: str, to_version: str = "2.0.0", **more: Any) -> Any:
    body = {"to_version": to_version, "status": status, **more}
    return fleet.call("POST", f"/api/devices/{key}/update-status", code=CODE, json=body)


def states(fleet: Fleet) -> dict[str, str]:
    items = fleet.call("GET", STATE, key=fleet.key("viewer")).json()["items"]
    return {item["device_key"]: item["state"] for item in items}


def test_channels_are_made_changed_and_deleted(any_fleet: Fleet) -> None:
    fleet = any_fleet
    item = add_channel(fleet, "1.0.0")
    assert item["artifacts_status"] == "UNKNOWN"
    assert item["active"] == 1
    publish(fleet)
    shown = fleet.call("GET", CHANNELS, key=fleet.key("viewer")).json()
    assert (shown["total"], shown["items"][0]["artifacts_status"]) == (1, "OK")
    body = {"device_type": "rpi", "distribution": "trixie", "channel": "default", "target_version": "2"}
    again = fleet.call("POST", CHANNELS, key=fleet.admin, json=body)
    assert (again.status_code, again.json()["error"]) == (409, "CHANNEL_EXISTS")
    put = fleet.call("POST", f"{CHANNELS}?upsert=1", key=fleet.admin, json=body)
    assert put.json()["item"]["target_version"] == "2"
    off = fleet.call("PUT", f"{CHANNELS}/{item['id']}", key=fleet.admin, json={"active": 0})
    assert off.json()["item"]["active"] == 0
    assert fleet.call("GET", f"{CHANNELS}?active=1", key=fleet.admin).json()["total"] == 0
    assert fleet.call("DELETE", f"{CHANNELS}/{item['id']}", key=fleet.admin).json() == {"ok": True}
    gone = fleet.call("DELETE", f"{CHANNELS}/{item['id']}", key=fleet.admin)
    assert (gone.status_code, gone.json()["error"]) == (404, "NOT_FOUND")
    assert fleet.call("POST", CHANNELS, key=fleet.key("viewer"), json=body).json()["error"] == "FORBIDDEN"
    bad = fleet.call("POST", CHANNELS, key=fleet.admin, json={**body, "target_version": "../x"})
    assert bad.json()["error"] == "VALIDATION_FAILED"


def test_each_state_is_computed_and_counted(any_fleet: Fleet) -> None:
    fleet = any_fleet
    add_channel(fleet, "2.0.0")
    camera(fleet, "cam-new", "2.0.0")
    camera(fleet, "cam-old", "1.0.0")
    camera(fleet, "cam-silent")
    camera(fleet, "cam-busy", "1.0.0")
    camera(fleet, "cam-bad", "1.0.0")
    camera(fleet, "cam-other", "1.0.0", distribution="else")
    assert report(fleet, "cam-busy", "IN_PROGRESS").status_code == 200
    assert report(fleet, "cam-bad", "failed", message="disk full").status_code == 200
    reply = fleet.call("GET", STATE, key=fleet.key("viewer")).json()
    assert {item["device_key"]: item["state"] for item in reply["items"]} == {
        "cam-new": "UP_TO_DATE",
        "cam-old": "OUTDATED",
        "cam-silent": "UNKNOWN",
        "cam-busy": "IN_PROGRESS",
        "cam-bad": "FAILED",
        "cam-other": "UNKNOWN",
    }
    assert reply["stats"] == {"up_to_date": 1, "outdated": 1, "in_progress": 1, "failed": 1, "unknown": 2}
    for word in ("FAILED", "failing"):
        found = fleet.call("GET", f"{STATE}?state={word}", key=fleet.admin).json()
        assert (found["total"], found["items"][0]["computed_state"]) == (1, "FAILING")
        assert found["items"][0]["last_error"] == "disk full"
    assert fleet.call("GET", f"{STATE}?search=CAM-O", key=fleet.admin).json()["total"] == 2
    assert fleet.call("GET", f"{STATE}?search=%25", key=fleet.admin).json()["total"] == 0
    assert fleet.call("GET", f"{STATE}?distribution=else", key=fleet.admin).json()["total"] == 1
    assert fleet.call("GET", f"{STATE}?state=x", key=fleet.admin).json()["error"] == "VALIDATION_FAILED"
    page = fleet.call("GET", f"{STATE}?page=2&page_size=4", key=fleet.admin).json()
    assert (len(page["items"]), page["total"], page["page"], page["page_size"]) == (2, 6, 2, 4)


def test_reports_make_one_attempt_with_a_history(any_fleet: Fleet) -> None:
    fleet = any_fleet
    add_channel(fleet, "2.0.0")
    camera(fleet, "cam-1", "1.0.0")
    for status in ("pending", "in_progress", "in_progress", "failed", "failed", "pending", "success", "success"):
        assert report(fleet, "cam-1", status, message=status).status_code == 200
    found = fleet.call("GET", HISTORY, key=fleet.key("viewer")).json()
    assert [item["status"] for item in found["items"]] == ["success", "failed"]
    first = found["items"][1]
    assert (first["from_version"], first["to_version"], first["target_version"]) == ("1.0.0", "2.0.0", "2.0.0")
    assert first["completed_at"]
    assert first["duration"] == first["duration_seconds"] >= 0
    assert states(fleet) == {"cam-1": "UP_TO_DATE"}
    for query, count in (
        ("status=FAILED", 1),
        ("version=2.0.0", 2),
        ("device_key=cam-1&device_type=rpi", 2),
        ("device_key=x", 0),
        ("date_from=2020-01-01&date_to=2020-01-02", 0),
        ("date_from=2020-01-01", 2),
    ):
        assert fleet.call("GET", f"{HISTORY}?{query}", key=fleet.admin).json()["total"] == count
    assert fleet.call("GET", f"{HISTORY}?date_from=x", key=fleet.admin).json()["error"] == "VALIDATION_FAILED"


def test_only_the_device_itself_reports(fleet: Fleet) -> None:
    camera(fleet, "cam-1")
    camera(fleet, "cam-2")
    path, body = "/api/devices/cam-1/update-status", {"to_version": "1", "status": "success"}
    assert fleet.call("POST", path, json=body).status_code == 401
    assert fleet.call("POST", path, json=body, key=fleet.key("viewer")).status_code == 403
    assert fleet.call("POST", path, json=body, code=CODE).status_code == 200
    assert fleet.call("POST", path, json={**body, "status": "maybe"}, code=CODE).json() == {"error": "Invalid status"}
    assert fleet.call("POST", path, json={**body, "to_version": "../1"}, code=CODE).status_code == 400


def test_attempts_of_a_device_are_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meetingctl.server.updates.fleet.KEEP_ATTEMPTS", 3)
    camera(fleet, "cam-1")
    for number in range(6):
        report(fleet, "cam-1", "failed", to_version=str(number))
    assert [row["to_version"] for row in fleet.rows(sa.select(update_attempts))] == ["3", "4", "5"]


def test_a_device_learns_its_target(fleet: Fleet) -> None:
    camera(fleet, "cam-1", "1.0.0")
    publish(fleet, "2.0.0")
    path = "/api/devices/cam-1/update"
    assert fleet.call("GET", path, code=CODE).json()["target_version"] is None
    add_channel(fleet, "2.0.0")
    told = fleet.call("GET", path, code=CODE).json()
    assert (told["target_version"], told["update_available"], told["start_after_s"]) == ("2.0.0", True, 0)
    assert fleet.call("GET", told["archive_url"]).status_code == 200
    assert len(told["sha256"]) == 64


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "  =1"])
def test_formulas_are_guarded(text: str) -> None:
    assert guard_cell(text) == f"'{text}"
    assert guard_cell("2.0") == "2.0"


def test_exports_are_complete_and_without_formulas(any_fleet: Fleet) -> None:
    fleet = any_fleet
    add_channel(fleet, "2.0.0")
    for number in range(3):
        camera(fleet, f"cam-{number}")
    evil = '=HYPERLINK("http://evil")'
    fleet.write(
        lambda connection: connection.execute(
            devices.update().where(devices.c.device_key == "cam-1").values(update_channel=evil)
        )
    )
    path, key = f"{STATE}/export", fleet.key("viewer")
    plain = fleet.call("GET", f"{path}?format=csv", key=key, headers={"accept": "text/csv"})
    assert plain.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(plain.text)))
    assert [row["device_key"] for row in rows] == ["cam-0", "cam-1", "cam-2"]
    assert rows[1]["channel"] == f"'{evil}"
    wrapped = fleet.call("GET", f"{path}?format=csv", key=key, headers={"accept": "application/json"}).json()
    assert wrapped == {"ok": True, "csv": plain.text}
    items = json.loads(fleet.call("GET", f"{path}?format=json&search=cam-2", key=key).content)["items"]
    assert [item["device_key"] for item in items] == ["cam-2"]
    assert fleet.call("GET", path, key=key).json()["error"] == "VALIDATION_FAILED"


def test_success_sets_what_is_installed(fleet: Fleet) -> None:
    camera(fleet, "cam-1", "1.0.0")
    report(fleet, "cam-1", "success")
    assert fleet.rows(sa.select(presence.c.installed_version))[0]["installed_version"] == "2.0.0"
