"""Devices that fall silent or come back: told once per change, over restarts and by several processes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from planes import CODE, Fleet, MakeFleet, wait_for

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import connection_logs, presence, presence_reports, webhook_deliveries
from meetingctl.server.devices.presence_watch import PAGE_ROWS, find_changes, judge, tell_changes, watch_presence

AFTER_S = 60.0


def hear(fleet: Fleet) -> None:
    made = fleet.call("POST", "/api/webhooks", key=fleet.admin, json={"url": "https://hooks.example.org/"})
    assert made.status_code == 200


def beat(fleet: Fleet, device_key: str = "cam-1") -> None:
    assert fleet.call("POST", f"/api/devices/{device_key}/online", code=CODE).status_code == 200


def age(fleet: Fleet, seconds: float) -> None:
    """Let all heartbeats be this old."""
    at_ms = now_ms() - int(seconds * 1000)
    fleet.write(lambda connection: connection.execute(presence.update().values(last_seen_ms=at_ms)))


def look(fleet: Fleet, *, is_settled: bool = True) -> int:
    judgement = judge(now_ms(), 0 if is_settled else now_ms(), AFTER_S)
    told = after_id = 0
    while True:
        with fleet.database.read() as connection:
            ids = find_changes(connection, judgement, after_id)
        if not ids:
            return told
        told += fleet.write(lambda connection, ids=ids: tell_changes(connection, judgement, ids))
        after_id = ids[-1]


def told(fleet: Fleet) -> list[tuple[str, str]]:
    rows = fleet.rows(sa.select(webhook_deliveries).order_by(webhook_deliveries.c.id))
    return [(row["event"], row["body"].split('"subject": "')[1].split('"')[0]) for row in rows]


def test_each_change_is_told_once(any_fleet: Fleet) -> None:
    fleet = any_fleet
    hear(fleet)
    fleet.device("cam-1")
    beat(fleet)
    assert [look(fleet), look(fleet)] == [0, 0], "new, and there"
    age(fleet, AFTER_S + 1)
    assert [look(fleet), look(fleet)] == [1, 0]
    beat(fleet)
    assert [look(fleet), look(fleet)] == [1, 0]
    assert told(fleet) == [("device.offline", "cam-1"), ("device.back", "cam-1")]
    events = [row["event"] for row in fleet.rows(sa.select(connection_logs).order_by(connection_logs.c.id))]
    assert events.count("Offline") == 1


def test_two_processes_tell_it_once(make_any_fleet: MakeFleet) -> None:
    fleet = make_any_fleet()
    hear(fleet)
    fleet.device("cam-1")
    beat(fleet)
    look(fleet)
    age(fleet, AFTER_S + 1)
    judgement = judge(now_ms(), 0, AFTER_S)
    with fleet.database.read() as connection:
        ids = find_changes(connection, judgement, 0)
    assert [fleet.write(lambda c: tell_changes(c, judgement, ids)) for _ in range(2)] == [1, 0]


def test_a_device_that_was_away_for_long_is_no_news(any_fleet: Fleet) -> None:
    hear(any_fleet)
    any_fleet.device("cam-1")
    beat(any_fleet)
    age(any_fleet, 86_400)
    assert look(any_fleet) == 0
    assert [row["online"] for row in any_fleet.rows(sa.select(presence_reports))] == [False]
    beat(any_fleet)
    assert look(any_fleet) == 1
    assert told(any_fleet) == [("device.back", "cam-1")]


def test_silence_while_the_server_was_down_proves_nothing(any_fleet: Fleet) -> None:
    hear(any_fleet)
    any_fleet.device("cam-1")
    beat(any_fleet)
    look(any_fleet)
    age(any_fleet, AFTER_S + 1)
    assert look(any_fleet, is_settled=False) == 0
    beat(any_fleet)
    assert look(any_fleet) == 0
    assert told(any_fleet) == []


def test_when_silence_counts() -> None:
    assert judge(100_000, 40_000, 60).is_settled
    assert not judge(100_000, 40_001, 60).is_settled
    assert judge(100_000, 0, 60).cutoff_ms == 40_000


def test_many_at_once(any_fleet: Fleet) -> None:
    hear(any_fleet)
    count = PAGE_ROWS + 5
    for number in range(count):
        any_fleet.device(f"cam-{number}")

    def all_seen(connection: Any) -> None:
        ids = connection.execute(sa.text("SELECT id FROM devices")).scalars().all()
        rows = [{"device_id": number, "last_seen_ms": now_ms(), "authenticated": 1} for number in ids]
        connection.execute(presence.insert(), rows)

    any_fleet.write(all_seen)
    look(any_fleet)
    age(any_fleet, AFTER_S + 1)
    assert look(any_fleet) == count
    assert len(set(told(any_fleet))) == count


def test_the_watch_itself(make_fleet: MakeFleet, background: Any) -> None:
    fleet = make_fleet(alert_offline_after_s=1.0)
    hear(fleet)
    fleet.device("cam-1")
    beat(fleet)
    with background(fleet, watch_presence(fleet.state)):
        wait_for(lambda: told(fleet) == [("device.offline", "cam-1")], "the silence is told")
    with background(fleet, watch_presence(fleet.state)):
        beat(fleet)
        wait_for(lambda: len(told(fleet)) == 2, "the return is told")
    assert told(fleet) == [("device.offline", "cam-1"), ("device.back", "cam-1")]


def test_the_watch_may_be_off(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(alert_offline_after_s=0.0)
    fleet.loop.run(watch_presence(fleet.state))
