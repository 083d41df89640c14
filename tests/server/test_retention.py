"""Old records go, young ones stay, in batches, on both engines."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from planes import Fleet, MakeFleet

from meetingctl.core.clock import now_ms
from meetingctl.core.settings import Settings
from meetingctl.server import retention
from meetingctl.server.db.schema import (
    connection_logs,
    device_key_log,
    device_updates,
    devices,
    refresh_tokens,
    tunnel_visits,
    update_attempts,
    users,
    webhook_deliveries,
    webhooks,
)

DAY_MS = 86_400_000
KEEP = {
    "keep_connection_logs_s": 864_000.0,
    "keep_tunnel_visits_s": 864_000.0,
    "keep_key_log_s": 864_000.0,
    "keep_update_attempts_s": 864_000.0,
    "keep_deliveries_s": 864_000.0,
}


def fill(fleet: Fleet, at_ms: int, count: int = 1) -> None:
    """Write `count` rows of this time into every table that is swept."""

    def change(connection: Any) -> None:
        device_id = connection.execute(sa.select(devices.c.id)).scalars().first()
        user_id = connection.execute(sa.select(users.c.id)).scalars().first()
        hook_id = connection.execute(sa.select(webhooks.c.id)).scalars().first()
        device: dict[str, Any] = {"device_id": device_id}
        log = {"at_ms": at_ms, "event": "x", "host": "", "remote": ""}
        visit = {"port": 1, "service": "ssh", "local_port": 22, "peer": "", "opened_at_ms": at_ms, "duration_ms": 1}
        visit |= {"bytes_in": 0, "bytes_out": 0, "outcome": "ok", "reason": "", "path": ""}
        key = {"at_ms": at_ms, "action": "added", "fingerprint": "", "actor": "", "remote": ""}
        attempt = {"device_type": "a", "distribution": "b", "to_version": "1", "status": "success", "message": ""}
        delivery = {"webhook_id": hook_id, "event": "x", "body": "{}", "state": "dead", "attempts": 1}
        for number in range(count):
            connection.execute(connection_logs.insert().values(device | log))
            connection.execute(tunnel_visits.insert().values(device | visit))
            connection.execute(device_key_log.insert().values(device | key))
            connection.execute(update_attempts.insert().values(device | attempt | {"created_at_ms": at_ms}))
            connection.execute(webhook_deliveries.insert().values(delivery | {"created_at_ms": at_ms}))
            token = {"user_id": user_id, "family": "f", "token_sha256": f"{at_ms}-{number}", "peer": ""}
            connection.execute(refresh_tokens.insert().values(token | {"issued_at_ms": at_ms, "expires_at_ms": at_ms}))

    fleet.write(change)


def prepare(fleet: Fleet) -> None:
    fleet.device("cam-1")
    now = now_ms()
    user = {"username": "u", "username_fold": "u", "role": "viewer", "authorized": True, "generation": 1}
    hook = {"url": "http://x", "events": ["*"], "secret_sealed": "", "active": True, "created_by": ""}

    def change(connection: Any) -> None:
        connection.execute(users.insert().values(user | {"created_at_ms": now, "updated_at_ms": now}))
        connection.execute(webhooks.insert().values(hook | {"created_at_ms": now}))

    fleet.write(change)


TABLES = (connection_logs, tunnel_visits, device_key_log, update_attempts, webhook_deliveries, refresh_tokens)


def counts(fleet: Fleet) -> dict[str, int]:
    return {table.name: len(fleet.rows(sa.select(table.c.id))) for table in TABLES}


def test_old_records_go_in_batches(make_any_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 3)
    fleet = make_any_fleet(**KEEP)
    prepare(fleet)
    fill(fleet, now_ms() - 30 * DAY_MS, 10)
    fill(fleet, now_ms() + 1000, 2)
    assert fleet.loop.run(retention.drop_all_old(fleet.state)) == 10 * len(TABLES)
    assert set(counts(fleet).values()) == {2}
    assert fleet.loop.run(retention.drop_all_old(fleet.state)) == 0


def test_one_turn_is_bounded(make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)
    monkeypatch.setattr(retention, "MOST_BATCHES", 2)
    fleet = make_fleet(**KEEP)
    prepare(fleet)
    fill(fleet, now_ms() - 30 * DAY_MS, 10)
    fleet.loop.run(retention.drop_all_old(fleet.state))
    assert set(counts(fleet).values()) == {6}


def test_nothing_goes_where_the_setting_says_never(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(**dict.fromkeys(KEEP, 0.0))
    prepare(fleet)
    fill(fleet, 1)
    fleet.loop.run(retention.drop_all_old(fleet.state))
    assert {name for name, count in counts(fleet).items() if not count} == {"refresh_tokens"}


def test_the_last_update_of_a_device_stays(make_any_fleet: MakeFleet) -> None:
    fleet = make_any_fleet(**KEEP)
    prepare(fleet)
    fill(fleet, now_ms() - 30 * DAY_MS, 3)
    last = max(row["id"] for row in fleet.rows(sa.select(update_attempts.c.id)))
    device_id = fleet.rows(sa.select(devices.c.id))[0]["id"]
    values = {"device_id": device_id, "attempt_id": last, "status": "success", "message": "", "at_ms": 1} | {
        "to_version": "1"
    }
    fleet.write(lambda connection: connection.execute(device_updates.insert().values(values)))
    fleet.loop.run(retention.drop_all_old(fleet.state))
    assert [row["id"] for row in fleet.rows(sa.select(update_attempts.c.id))] == [last]


def test_the_usual_ages() -> None:
    settings = Settings()
    assert settings.keep_connection_logs_s == settings.keep_tunnel_visits_s == 90 * 86_400
    assert settings.keep_key_log_s == settings.keep_update_attempts_s == 365 * 86_400
    assert settings.keep_deliveries_s == 30 * 86_400
