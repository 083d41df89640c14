"""Webhooks over the API: secrets shown once and sealed, changes audited, errors named."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from planes import Fleet, MakeFleet

from meetingctl.core.errors import ConfigError
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings
from meetingctl.server.db.schema import audit, webhook_deliveries, webhooks
from meetingctl.server.sealing import seal, unseal
from meetingctl.server.webhooks.outbox import EVENTS, emit

URL = "https://hooks.example.org/services/T00/very-secret-path"
PATH = "/api/webhooks"


def add(fleet: Fleet, **body: Any) -> dict[str, Any]:
    answer = fleet.call("POST", PATH, key=fleet.admin, json={"url": URL} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_secret_is_shown_once_and_sealed(any_fleet: Fleet) -> None:
    made = add(any_fleet)
    assert made["secret"].startswith("whsec_")
    assert len(made["secret"]) > 40
    for path in (PATH, f"{PATH}/{made['id']}"):
        text = any_fleet.call("GET", path, key=any_fleet.admin).text
        assert "secret" not in text.replace("very-secret-path", "")
    sealed = any_fleet.rows(sa.select(webhooks.c.secret_sealed))[0]["secret_sealed"]
    assert made["secret"] not in sealed
    assert unseal(any_fleet.settings, any_fleet.data_dir, sealed) == made["secret"]
    assert (any_fleet.data_dir / "sealing.key").stat().st_mode & 0o777 == 0o600


def test_changes_are_audited_without_secret_or_path(fleet: Fleet) -> None:
    made = add(fleet, secret="a secret of my own")
    assert made["secret"] == "a secret of my own"
    target = f"{PATH}/{made['id']}"
    renewed = fleet.call("PUT", target, key=fleet.admin, json={"new_secret": True, "events": ["update.failed"]}).json()
    assert renewed["secret"] != made["secret"]
    assert "secret" not in fleet.call("PUT", target, key=fleet.admin, json={"active": False}).json()
    assert fleet.call("DELETE", target, key=fleet.admin).json() == {"success": True}
    assert fleet.call("GET", target, key=fleet.admin).status_code == 404
    records = fleet.rows(sa.select(audit).where(audit.c.object == f"webhook:{made['id']}").order_by(audit.c.id))
    assert [record["action"] for record in records] == [
        "webhook.create",
        "webhook.update",
        "webhook.update",
        "webhook.delete",
    ]
    text = str([dict(record) for record in records])
    assert not any(word in text for word in ("very-secret-path", made["secret"], renewed["secret"]))


def test_an_upgrade_of_the_events_keeps_their_order(fleet: Fleet) -> None:
    assert add(fleet)["events"] == ["*"]
    made = add(fleet, url=f"{URL}/2", events=["update.failed", "device.offline", "update.failed"])
    assert made["events"] == ["device.offline", "update.failed"]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "Invalid url"),
        ({"url": "ftp://example.org"}, 400, "Invalid url"),
        ({"url": "http://a:b@example.org"}, 400, "Invalid url"),
        ({"url": URL, "events": ["device.exploded"]}, 400, "Unknown event"),
        ({"url": URL, "events": []}, 400, "Missing or invalid field: events"),
        ({"url": URL, "secret": "short"}, 400, "Missing or invalid field: secret"),
        ({"url": "https://taken.example.org"}, 409, "Webhook exists already"),
    ],
)
def test_errors_of_a_new_webhook(fleet: Fleet, body: dict[str, Any], status: int, text: str) -> None:
    add(fleet, url="https://taken.example.org")
    answer = fleet.call("POST", PATH, key=fleet.admin, json=body)
    assert (answer.status_code, answer.json()["error"]) == (status, text)


def test_errors_of_the_others(fleet: Fleet) -> None:
    first, second = add(fleet), add(fleet, url=f"{URL}/2")

    def error(method: str, path: str, body: Any = None) -> tuple[int, str]:
        answer = fleet.call(method, f"{PATH}/{path}", key=fleet.admin, json=body)
        return answer.status_code, answer.json()["error"]

    assert error("PUT", str(first["id"]), {}) == (400, "Nothing to update")
    assert error("PUT", str(first["id"]), {"url": second["url"]}) == (409, "Webhook exists already")
    assert error("PUT", "99", {"active": False}) == (404, "Webhook not found")
    assert error("GET", "x") == (400, "Invalid id")
    for method, path in (("GET", "99"), ("DELETE", "99"), ("POST", "99/ping"), ("GET", "99/deliveries")):
        assert error(method, path) == (404, "Webhook not found")
    assert error("POST", f"{first['id']}/deliveries/99/redeliver") == (404, "Delivery not found")
    assert error("GET", f"{first['id']}/deliveries?state=lost") == (400, "Invalid state")
    fleet.call("PUT", f"{PATH}/{first['id']}", key=fleet.admin, json={"active": False})
    assert error("POST", f"{first['id']}/ping") == (409, "Webhook is off")


def test_deliveries_come_in_pages(fleet: Fleet) -> None:
    made = add(fleet)
    for number in range(5):
        fleet.write(lambda c, number=number: emit(c, "device.back", f"cam-{number}", {}))
    path = f"{PATH}/{made['id']}/deliveries"
    page = fleet.call("GET", f"{path}?limit=3", key=fleet.admin).json()
    assert [item["subject"] for item in page["deliveries"]] == ["cam-4", "cam-3", "cam-2"]
    rest = fleet.call("GET", f"{path}?limit=3&before={page['next']}", key=fleet.admin).json()
    assert [item["subject"] for item in rest["deliveries"]] == ["cam-1", "cam-0"]
    assert rest["next"] is None
    waiting = page["deliveries"][0]
    assert (waiting["state"], waiting["attempts"], waiting["last_status"]) == ("waiting", 0, None)
    again = fleet.call("POST", f"{path}/{waiting['id']}/redeliver", key=fleet.admin)
    assert (again.status_code, again.json()["error"]) == (409, "Delivery waits already")


def test_a_ping_and_the_end_of_a_webhook(any_fleet: Fleet) -> None:
    made = add(any_fleet, events=["update.failed"])
    pinged = any_fleet.call("POST", f"{PATH}/{made['id']}/ping", key=any_fleet.admin).json()
    assert (pinged["event"], pinged["state"], pinged["body"]["event"]) == ("ping", "waiting", "ping")
    any_fleet.call("DELETE", f"{PATH}/{made['id']}", key=any_fleet.admin)
    assert any_fleet.rows(sa.select(webhook_deliveries)) == []


def test_the_key_may_come_from_a_setting(make_fleet: MakeFleet) -> None:
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    fleet = make_fleet(sealing_key=Secret(key))
    made = add(fleet)
    assert not (fleet.data_dir / "sealing.key").exists()
    sealed = fleet.rows(sa.select(webhooks.c.secret_sealed))[0]["secret_sealed"]
    assert unseal(Settings(sealing_key=Secret(key)), fleet.data_dir, sealed) == made["secret"]
    with pytest.raises(ConfigError, match="no sealing key"):
        seal(Settings(sealing_key=Secret("too short")), fleet.data_dir, "text")
    with pytest.raises(ConfigError, match="cannot read"):
        unseal(Settings(), fleet.data_dir, sealed)


def test_an_opened_tunnel_is_told_once(any_fleet: Fleet) -> None:
    add(any_fleet, events=["tunnel.opened"])
    any_fleet.device("cam-1")
    ports = [
        any_fleet.call("POST", "/api/devices/cam-1/service", key=any_fleet.admin, json={"service": "ssh"}).json()[
            "port"
        ]
        for _ in range(3)
    ]
    (delivery,) = any_fleet.rows(sa.select(webhook_deliveries))
    assert delivery["event"] == "tunnel.opened"
    assert f'"port": {ports[0]}' in delivery["body"]
    assert '"requested_by": "key:the admin"' in delivery["body"]


def test_every_event_can_be_asked_for(fleet: Fleet) -> None:
    assert add(fleet, events=list(EVENTS))["events"] == list(EVENTS)
