"""What releases, updates and rollouts tell webhooks: each thing once."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from makers import add_channel, publish
from planes import CODE, Fleet

from meetingctl.server.db.schema import webhook_deliveries


def told(fleet: Fleet) -> list[dict[str, Any]]:
    rows = fleet.rows(sa.select(webhook_deliveries).order_by(webhook_deliveries.c.id))
    return [json.loads(row["body"]) for row in rows]


def hear(fleet: Fleet) -> None:
    body = {"url": "https://hooks.example.org/"}
    assert fleet.call("POST", "/api/webhooks", key=fleet.admin, json=body).status_code == 200


def test_a_release_is_told_once(any_fleet: Fleet) -> None:
    hear(any_fleet)
    for _ in range(2):
        publish(any_fleet, "1.0.0")
    (event,) = told(any_fleet)
    assert (event["event"], event["subject"]) == ("release.published", "rpi/trixie/1.0.0")
    assert event["facts"]["sha256"]


def test_a_failed_update_is_told_once(any_fleet: Fleet) -> None:
    any_fleet.device("cam-1", device_type="rpi", distribution="trixie")
    publish(any_fleet, "1.0.0")
    hear(any_fleet)
    for status in ("in_progress", "failed", "failed"):
        body = {"status": status, "to_version": "1.0.0", "message": "no room"}
        answer = any_fleet.call("POST", "/api/devices/cam-1/update-status", code=CODE, json=body)
        assert answer.status_code == 200, answer.text
    (event,) = told(any_fleet)
    assert (event["event"], event["subject"]) == ("update.failed", "cam-1")
    assert event["facts"] == {"to_version": "1.0.0", "from_version": None, "message": "no room"}


def test_a_paused_rollout_is_told_with_its_reason(any_fleet: Fleet) -> None:
    any_fleet.device("cam-1", device_type="rpi", distribution="trixie")
    for version in ("1.0.0", "1.1.0"):
        publish(any_fleet, version)
    add_channel(any_fleet, "1.0.0")
    body = {"device_type": "rpi", "distribution": "trixie", "version": "1.1.0", "channel": "default"}
    made = any_fleet.call("POST", "/api/admin/rollouts", key=any_fleet.admin, json=body)
    assert made.status_code == 200, made.text
    hear(any_fleet)
    path = f"/api/admin/rollouts/{made.json()['item']['id']}/pause"
    paused = any_fleet.call("POST", path, key=any_fleet.admin, json={"reason": "cam-1 reboots"})
    assert paused.status_code == 200, paused.text
    (event,) = told(any_fleet)
    assert (event["event"], event["facts"]["version"], event["facts"]["reason"]) == (
        "rollout.paused",
        "1.1.0",
        "cam-1 reboots",
    )
