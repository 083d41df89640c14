"""Deliveries against a real receiver: signed, retried, bounded, claimed by one process at a time."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest
import sqlalchemy as sa
from planes import Fleet, MakeFleet, wait_for

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import audit, webhook_deliveries, webhooks
from meetingctl.server.webhooks import deliveries, outbox
from meetingctl.server.webhooks.deliveries import Outcome, claim, finish
from meetingctl.server.webhooks.worker import run_deliveries

LOCAL = ("127.0.0.0/8",)
QUICK = {"webhook_networks": LOCAL, "webhook_retry_s": 0.02}


def add(fleet: Fleet, url: str, events: list[str] | None = None) -> dict[str, Any]:
    body = {"url": url} | ({"events": events} if events else {})
    answer = fleet.call("POST", "/api/webhooks", key=fleet.admin, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def happen(fleet: Fleet, event: str = "device.offline", subject: str = "cam-1") -> int:
    return fleet.write(lambda connection: outbox.emit(connection, event, subject, {"why": "test"}))


def only_delivery(fleet: Fleet, hook: dict[str, Any]) -> dict[str, Any]:
    found = fleet.call("GET", f"/api/webhooks/{hook['id']}/deliveries", key=fleet.admin).json()["deliveries"]
    assert len(found) == 1
    return found[0]


def until(fleet: Fleet, hook: dict[str, Any], state: str) -> dict[str, Any]:
    wait_for(lambda: only_delivery(fleet, hook)["state"] == state, f"the delivery is {state}")
    return only_delivery(fleet, hook)


def test_a_delivery_is_signed(make_any_fleet: MakeFleet, receiver: Any, background: Any) -> None:
    fleet = make_any_fleet(**QUICK)
    hook = add(fleet, f"{receiver.url}/in", ["device.offline"])
    assert happen(fleet) == 1
    assert happen(fleet, "device.back") == 0, "nobody asked for it"
    with background(fleet, run_deliveries(fleet.state)):
        delivery = until(fleet, hook, "delivered")
    assert (delivery["attempts"], delivery["last_status"], delivery["next_attempt_at"]) == (1, 200, None)
    (request,) = receiver.at("/in")
    facts = json.loads(request.body)
    assert (facts["event"], facts["subject"], facts["facts"]) == ("device.offline", "cam-1", {"why": "test"})
    assert request.headers["x-meetingctl-event"] == "device.offline"
    assert request.headers["x-meetingctl-delivery"] == delivery["name"]
    parts = dict(part.split("=") for part in request.headers["x-meetingctl-signature"].split(","))
    wanted = hmac.new(hook["secret"].encode(), f"{parts['t']}.".encode() + request.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(parts["v1"], wanted)
    assert abs(int(parts["t"]) - time.time()) < 60


def test_a_failed_delivery_is_tried_again_under_the_same_name(
    make_fleet: MakeFleet, receiver: Any, background: Any
) -> None:
    fleet = make_fleet(**QUICK)
    receiver.answers["/in"] = [500, 503, 204]
    hook = add(fleet, f"{receiver.url}/in")
    happen(fleet)
    with background(fleet, run_deliveries(fleet.state)):
        delivery = until(fleet, hook, "delivered")
    requests = receiver.at("/in")
    assert delivery["attempts"] == len(requests) == 3
    assert len({request.headers["x-meetingctl-delivery"] for request in requests}) == 1
    assert [request.headers["x-meetingctl-attempt"] for request in requests] == ["1", "2", "3"]
    assert len({request.body for request in requests}) == 1


def test_a_delivery_is_given_up_and_sent_again_on_request(
    make_fleet: MakeFleet, receiver: Any, background: Any
) -> None:
    fleet = make_fleet(**QUICK, webhook_attempts=2)
    receiver.answers["/in"] = [500, 500, 200]
    hook = add(fleet, f"{receiver.url}/in")
    happen(fleet)
    path = f"/api/webhooks/{hook['id']}/deliveries"
    with background(fleet, run_deliveries(fleet.state)):
        dead = until(fleet, hook, "dead")
        assert (dead["attempts"], dead["last_error"]) == (2, "the receiver answered 500")
        again = fleet.call("POST", f"{path}/{dead['id']}/redeliver", key=fleet.admin)
        assert again.status_code == 200, again.text
        assert until(fleet, hook, "delivered")["name"] == dead["name"]
    assert len(receiver.at("/in")) == 3


def test_one_that_hangs_holds_up_nobody_else(make_fleet: MakeFleet, receiver: Any, background: Any) -> None:
    fleet = make_fleet(**QUICK, webhook_attempts=1, webhook_timeout_s=3.0)
    receiver.answers["/slow"] = ["hang"]
    slow, good = add(fleet, f"{receiver.url}/slow"), add(fleet, f"{receiver.url}/good")
    for _ in range(40):
        happen(fleet)
    with background(fleet, run_deliveries(fleet.state)):
        wait_for(lambda: len(receiver.at("/good")) == 40, "the good one has everything")
        assert len(receiver.at("/slow")) <= 8, "few at once to one receiver"
        path = f"/api/webhooks/{slow['id']}/deliveries?state=dead"
        dead = wait_for(lambda: fleet.call("GET", path, key=fleet.admin).json()["deliveries"], "the first are given up")
    assert dead[0]["last_error"] == "no answer within 3 s"
    path = f"/api/webhooks/{good['id']}/deliveries?state=delivered"
    assert len(fleet.call("GET", path, key=fleet.admin).json()["deliveries"]) == 40


def test_a_redirection_is_not_followed(make_fleet: MakeFleet, receiver: Any, background: Any) -> None:
    fleet = make_fleet(**QUICK, webhook_attempts=1)
    receiver.answers["/in"] = [307]
    hook = add(fleet, f"{receiver.url}/in")
    happen(fleet)
    with background(fleet, run_deliveries(fleet.state)):
        dead = until(fleet, hook, "dead")
    assert (dead["last_status"], dead["last_error"]) == (307, "redirections are not followed")
    assert not receiver.at("/elsewhere")


def test_a_receiver_that_is_gone_is_left_alone(make_fleet: MakeFleet, receiver: Any, background: Any) -> None:
    fleet = make_fleet(**QUICK)
    receiver.answers["/in"] = [410]
    hook = add(fleet, f"{receiver.url}/in")
    happen(fleet)
    with background(fleet, run_deliveries(fleet.state)):
        assert until(fleet, hook, "dead")["attempts"] == 1
    assert fleet.call("GET", f"/api/webhooks/{hook['id']}", key=fleet.admin).json()["active"] is False
    assert happen(fleet) == 0
    records = fleet.rows(sa.select(audit.c.principal).where(audit.c.action == "webhook.off"))
    assert [record["principal"] for record in records] == ["system"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
def test_this_machine_is_out_of_bounds(make_fleet: MakeFleet, receiver: Any, background: Any, host: str) -> None:
    fleet = make_fleet(webhook_attempts=1)
    hook = add(fleet, f"http://{host}:{receiver.port}/in")
    happen(fleet)
    with background(fleet, run_deliveries(fleet.state)):
        dead = until(fleet, hook, "dead")
    assert "is no public address" in dead["last_error"] or "cannot resolve" in dead["last_error"]
    assert not receiver.received


def test_several_senders_send_each_delivery_once(make_any_fleet: MakeFleet, receiver: Any, background: Any) -> None:
    fleet, other = make_any_fleet(**QUICK), None
    if fleet.database.dialect == "postgresql":
        other = make_any_fleet(**QUICK)
    hooks = [add(fleet, f"{receiver.url}/{number}") for number in range(5)]
    for _ in range(20):
        happen(fleet)
    second = run_deliveries((other or fleet).state)
    with background(fleet, run_deliveries(fleet.state)), background(other or fleet, second):
        wait_for(
            lambda: all(row["state"] == "delivered" for row in fleet.rows(sa.select(webhook_deliveries))), "all sent"
        )
    names = [request.headers["x-meetingctl-delivery"] for request in receiver.received]
    assert len(names) == len(set(names)) == 20 * len(hooks)


def test_a_claim_ends_by_itself_and_its_late_owner_changes_nothing(any_fleet: Fleet, receiver: Any) -> None:
    fleet = any_fleet
    hook = add(fleet, f"{receiver.url}/in")
    happen(fleet)
    (first,) = fleet.write(lambda connection: claim(connection, 10))
    assert fleet.write(lambda connection: claim(connection, 10)) == [], "it is being sent"
    past = webhook_deliveries.update().values(claimed_until_ms=now_ms() - 1)
    fleet.write(lambda connection: connection.execute(past))
    (second,) = fleet.write(lambda connection: claim(connection, 10))
    assert (second.name, second.attempt) == (first.name, 2)
    fleet.write(lambda c: finish(c, first, Outcome(410), attempts=12, retry_s=1))
    assert only_delivery(fleet, hook)["state"] == "waiting", "the second one decides"
    fleet.write(lambda c: finish(c, second, Outcome(200), attempts=12, retry_s=1))
    assert only_delivery(fleet, hook)["state"] == "delivered"
    assert fleet.rows(sa.select(webhooks.c.active))[0]["active"]


def test_a_long_queue_of_one_hides_no_other(any_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_SCAN", 3)
    first, second = (add(any_fleet, f"https://{name}.example.org/") for name in "ab")
    hook = [first["id"]]
    any_fleet.write(lambda connection: [outbox.queue(connection, hook, "ping", "x", {}) for _ in range(9)])
    any_fleet.write(lambda connection: outbox.queue(connection, [second["id"]], "ping", "x", {}))
    taken = [any_fleet.write(lambda connection: claim(connection, 10)) for _ in range(2)]
    assert [len(claims) for claims in taken] == [3, 3], "no more than are looked at"
    busy = [first["id"]] * deliveries.MOST_PER_WEBHOOK
    (other,) = any_fleet.write(lambda connection: claim(connection, 10, busy))
    assert other.webhook_id == second["id"]


def test_what_a_broken_sealing_key_hides_is_told(make_fleet: MakeFleet, receiver: Any, background: Any) -> None:
    fleet = make_fleet(**QUICK, webhook_attempts=1)
    hook = add(fleet, f"{receiver.url}/in")
    (fleet.data_dir / "sealing.key").write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
    happen(fleet)
    with background(fleet, run_deliveries(fleet.state)):
        assert "does not open with this sealing key" in until(fleet, hook, "dead")["last_error"]
    assert not receiver.received


def test_a_receiver_that_is_away_fills_no_disk(
    make_fleet: MakeFleet, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet()
    add(fleet, f"{receiver.url}/in")
    monkeypatch.setattr(outbox, "MAX_WAITING", 3)
    assert [happen(fleet) for _ in range(5)] == [1, 1, 1, 0, 0]
