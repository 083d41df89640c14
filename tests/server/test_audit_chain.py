"""The audit log: every change leaves a record, and tampering shows."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from planes import CODE, Fleet

from meetingctl.core.clock import now_ms
from meetingctl.core.events import AGENT_REFUSED
from meetingctl.server.audit.chain import SYSTEM, append, redacted, verify
from meetingctl.server.db.schema import audit
from meetingctl.tunnel.directory import Event, Report


def verified(fleet: Fleet) -> dict:
    return fleet.call("GET", "/api/audit/verify", key=fleet.admin).json()


def fill(fleet: Fleet, count: int) -> None:
    for number in range(count):
        fleet.write(lambda c, n=number: append(c, SYSTEM, "test.do", f"thing:{n}", after={"number": n}))


TAMPERING = {
    "a changed object": audit.update().where(audit.c.id == 4).values(object="thing:x"),
    "a changed time": audit.update().where(audit.c.id == 4).values(at_ms=1),
    "a changed value": audit.update().where(audit.c.id == 4).values(after='{"number":9}'),
    "a removed record": audit.delete().where(audit.c.id == 4),
    "a removed beginning": audit.delete().where(audit.c.id <= 4),
    "a removed end": audit.delete().where(audit.c.id >= 8),
    "a changed hash": audit.update().where(audit.c.id == 4).values(hash="0" * 64),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_where_it_happened(any_fleet: Fleet, name: str) -> None:
    fill(any_fleet, 8)
    before = verified(any_fleet)
    assert before["ok"] is True
    assert before["first_bad"] is None
    any_fleet.write(lambda connection: connection.execute(TAMPERING[name]))
    after = verified(any_fleet)
    assert after["ok"] is False
    assert after["first_bad"] == {"a removed end": 8}.get(name, 4 if "removed" not in name else 5)


def test_long_chains_are_checked_page_by_page(any_fleet: Fleet) -> None:
    def many(connection: sa.Connection) -> None:
        for number in range(1005):
            append(connection, SYSTEM, "test.do", f"thing:{number}")

    any_fleet.write(many)
    with any_fleet.database.read() as connection:
        assert verify(connection) == (1005, None)
    any_fleet.write(lambda c: c.execute(audit.update().where(audit.c.id == 1002).values(peer="x")))
    with any_fleet.database.read() as connection:
        assert verify(connection) == (1001, 1002)


def test_what_is_written_and_what_is_refused_is_recorded(fleet: Fleet) -> None:
    fleet.device()
    fleet.call("PUT", "/api/devices/cam-1/note", key=fleet.key("operator"), json={"note": "n"}, peer="192.0.2.7")
    fleet.call("POST", "/api/devices/cam-1/online", code="000000", peer="203.0.113.5", headers={"x-request-id": "r-1"})
    fleet.call("GET", "/api/devices", key="mk_nobody_nothing", peer="203.0.113.5")
    fleet.write(lambda connection: None)
    records = fleet.call("GET", "/api/audit", key=fleet.admin).json()["records"]
    changed = next(record for record in records if record["action"] == "device.note")
    assert (changed["principal"], changed["peer"], changed["object"]) == (
        "key:the operator",
        "192.0.2.7",
        "device:cam-1",
    )
    assert (changed["before"], changed["after"]) == ({"note": ""}, {"note": "n"})
    refused = [record for record in records if record["action"] == "credential.refuse"]
    assert {(record["object"], record["result"]) for record in refused} == {
        ("device:cam-1", "refused"),
        ("credential", "refused"),
    }
    assert "r-1" in {record["request_id"] for record in refused}


def test_paging_reaches_every_record_once(any_fleet: Fleet) -> None:
    fill(any_fleet, 23)
    seen: list[int] = []
    before = None
    while True:
        params = {"limit": "7"} | ({"before": str(before)} if before else {})
        page = any_fleet.call("GET", "/api/audit", key=any_fleet.admin, params=params).json()
        seen += [record["id"] for record in page["records"]]
        before = page["next"]
        if before is None:
            break
    assert seen == sorted(seen, reverse=True)
    assert set(range(1, 24)) <= set(seen)
    only = any_fleet.call("GET", "/api/audit", key=any_fleet.admin, params={"object": "thing:5"}).json()["records"]
    assert [record["object"] for record in only] == ["thing:5"]


def test_a_change_and_its_record_are_one_transaction(any_fleet: Fleet) -> None:
    any_fleet.device()
    count = len(any_fleet.rows(sa.select(audit)))
    assert any_fleet.call("DELETE", "/api/devices/nobody", key=any_fleet.admin).status_code == 404
    assert any_fleet.call("POST", "/api/devices/cam-1/flash-request", code=CODE).status_code == 403
    actions = [row["action"] for row in any_fleet.rows(sa.select(audit).where(audit.c.id > count))]
    # What was refused may stand there; what was not done must not.
    assert [action for action in actions if not action.startswith(("key.", "request.refuse"))] == []


def test_secrets_become_fingerprints() -> None:
    shown = redacted(
        {"token_code": "A1B2C3", "ap_password": "x" * 20, "note": "n", "token_count": 5, "http_pw_low": "s"}
    )
    assert shown["token_code"] == "***"
    assert shown["ap_password"].startswith("sha256:")
    assert shown["http_pw_low"] == "***"
    assert (shown["note"], shown["token_count"]) == ("n", 5)


def test_an_administrator_who_asks_for_no_secrets_reveals_none(fleet: Fleet) -> None:
    fleet.device()
    plain = fleet.call("GET", "/api/devices/cam-1?secrets=0", key=fleet.admin).json()
    assert not {"token_code", "ap_password", "http_pw_low"} & plain.keys()
    assert not fleet.rows(audit.select().where(audit.c.action == "device.reveal"))
    assert fleet.call("GET", "/api/devices/cam-1", key=fleet.admin).json()["token_code"] == CODE
    assert len(fleet.rows(audit.select().where(audit.c.action == "device.reveal"))) == 1


def test_a_refused_agent_is_recorded_whether_the_device_exists_or_not(fleet: Fleet) -> None:
    fleet.device()
    events = tuple(Event(now_ms(), key, AGENT_REFUSED, "203.0.113.5") for key in ("cam-1", "nope", ""))
    fleet.loop.run(fleet.directory.sync(Report("p", events=events)))
    refused = fleet.rows(audit.select().where(audit.c.action == "credential.refuse"))
    assert [(row["object"], row["peer"]) for row in refused] == [
        ("device:cam-1", "203.0.113.5"),
        ("device:nope", "203.0.113.5"),
        ("credential", "203.0.113.5"),
    ]
