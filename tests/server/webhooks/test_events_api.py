"""The stream of events: connection logs for viewers, the audit log for administrators, no hole and nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from planes import CODE, Fleet

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import connection_logs, devices
from meetingctl.server.identity.principal import OPEN, Principal, Role
from meetingctl.server.webhooks.event_routes import may_see_audit


def log(fleet: Fleet, event: str, device_key: str = "cam-1") -> None:
    device_id = sa.select(devices.c.id).where(devices.c.device_key == device_key).scalar_subquery()
    at_ms = now_ms() - 5000
    values = {"device_id": device_id, "at_ms": at_ms, "event": event, "host": "", "remote": "192.0.2.1"}
    fleet.write(lambda connection: connection.execute(connection_logs.insert().values(values)))


def read(fleet: Fleet, query: str = "", role: str = "viewer") -> dict[str, Any]:
    answer = fleet.call("GET", f"/api/events{query}", key=fleet.key(role))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_viewer_sees_what_devices_did(any_fleet: Fleet) -> None:
    any_fleet.device("cam-1")
    any_fleet.device("cam-2")
    log(any_fleet, "one")
    log(any_fleet, "two", "cam-2")
    reply = read(any_fleet)
    assert [(item["event"], item["subject"]) for item in reply["events"]] == [("one", "cam-1"), ("two", "cam-2")]
    assert {item["source"] for item in reply["events"]} == {"device"}
    assert read(any_fleet, f"?after={reply['cursor']}") == {"events": [], "cursor": reply["cursor"]}
    log(any_fleet, "three")
    assert [item["event"] for item in read(any_fleet, f"?after={reply['cursor']}")["events"]] == ["three"]
    assert [item["event"] for item in read(any_fleet, "?device_key=cam-2")["events"]] == ["two"]


def test_an_administrator_sees_the_audit_log_too(any_fleet: Fleet) -> None:
    any_fleet.device("cam-1")
    log(any_fleet, "one")
    reply = read(any_fleet, role="admin")
    assert {(item["source"], item["event"]) for item in reply["events"]} >= {
        ("device", "one"),
        ("audit", "device.create"),
    }
    any_fleet.call("PUT", "/api/devices/cam-1/note", key=any_fleet.admin, json={"note": "new"})
    (item,) = read(any_fleet, f"?after={reply['cursor']}", role="admin")["events"]
    assert (item["event"], item["subject"], item["by"]) == ("device.note", "device:cam-1", "key:the admin")
    assert "new" not in str(item)
    about = read(any_fleet, "?device_key=cam-1", role="admin")["events"]
    assert {item["event"] for item in about} == {"one", "device.create", "device.note"}


@pytest.mark.parametrize("limits", [{"device_types": ["rpi"]}, {"tags": ["lab"]}])
def test_a_limited_key_sees_its_own_devices_only(any_fleet: Fleet, limits: dict[str, list[str]]) -> None:
    any_fleet.device("cam-1", device_type="rpi")
    any_fleet.device("cam-2", device_type="esp32")
    tagged = any_fleet.call("PUT", "/api/devices/cam-1/tags", key=any_fleet.admin, json={"tags": ["lab"]})
    assert tagged.status_code == 200, tagged.text
    log(any_fleet, "one")
    log(any_fleet, "two", "cam-2")
    body = {"name": "limited", "role": "admin"} | limits
    key = any_fleet.call("POST", "/api/keys", key=any_fleet.admin, json=body).json()["key"]
    events = any_fleet.call("GET", "/api/events", key=key).json()["events"]
    assert [item["event"] for item in events] == ["one"]
    assert any_fleet.call("GET", "/api/webhooks", key=key).status_code == 403, "a webhook hears of all devices"


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_a_follower_misses_nothing(any_fleet: Fleet, limit: int) -> None:
    any_fleet.device("cam-1")
    after = read(any_fleet, role="admin")["cursor"]
    wanted = []
    for number in range(6):
        log(any_fleet, f"log {number}")
        any_fleet.call("PUT", "/api/devices/cam-1/note", key=any_fleet.admin, json={"note": str(number)})
        wanted += [f"log {number}", "device.note"]
    seen: list[str] = []
    while page := (reply := read(any_fleet, f"?after={after}&limit={limit}", role="admin"))["events"]:
        assert len(page) <= limit
        seen += [item["event"] for item in page]
        after = reply["cursor"]
    assert sorted(seen) == sorted(wanted)
    assert [event for event in seen if event.startswith("log")] == [f"log {number}" for number in range(6)]


def test_the_first_page_ends_at_now(any_fleet: Fleet) -> None:
    any_fleet.device("cam-1")
    log(any_fleet, "old")
    for number in range(5):
        any_fleet.call("PUT", "/api/devices/cam-1/note", key=any_fleet.admin, json={"note": str(number)})
    reply = read(any_fleet, "?limit=2", role="admin")
    assert [item["event"] for item in reply["events"]] == ["device.note"] * 2
    assert read(any_fleet, f"?after={reply['cursor']}", role="admin")["events"] == []


@pytest.mark.parametrize("after", ["x", "1", "1-", "-1-2", "1-2-3", "1" * 19 + "-1", "\u0663-1"])
def test_a_bad_cursor_is_refused(fleet: Fleet, after: str) -> None:
    answer = fleet.call("GET", "/api/events", key=fleet.admin, params={"after": after})
    assert (answer.status_code, answer.json()["error"]) == (400, "Invalid after")


def test_who_sees_the_audit_log() -> None:
    admin = Principal("key", "key:a", Role.ADMIN)
    assert may_see_audit(admin)
    assert not may_see_audit(OPEN)
    assert not may_see_audit(Principal("key", "key:o", Role.OPERATOR))
    assert not may_see_audit(Principal("key", "key:a", Role.ADMIN, device_types=frozenset({"rpi"})))
    assert not may_see_audit(Principal("key", "key:a", Role.ADMIN, tags=frozenset({"lab"})))
    assert not may_see_audit(Principal("key", "key:a", Role.ADMIN, permissions=frozenset({"fleet:view"})))


def test_a_heartbeat_is_an_event(fleet: Fleet) -> None:
    fleet.device("cam-1")
    fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    assert [item["event"] for item in read(fleet)["events"]] == ["Connected"]
