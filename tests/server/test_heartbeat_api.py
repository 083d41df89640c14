"""The heartbeat: what it keeps, who may send it, and that both ways to it are one."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from planes import CODE, Fleet, MakeFleet

from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.db.schema import audit, connection_logs, presence
from meetingctl.server.devices.store import delete_device

ONLINE = "/api/devices/cam-1/online"
UNSTEADY = {"x-request-id", "date"}


def framework_call(fleet: Fleet, method: str, path: str, **rest):
    """Call the framework's own route: the front hands over paths that it does not know by heart."""
    return fleet.call(method, path.replace("/api/", "/api/api/", 1), **rest)


REQUESTS = {
    "empty": {},
    "empty object": {"json": {}},
    "no credential": {"json": {"ip_address": "10.0.0.9"}},
    "token code": {"code": CODE, "json": {"ip_lan": "10.0.0.7", "mac": "aa:bb:cc:dd:ee:ff"}},
    "token code in lower case": {"code": CODE.lower()},
    "token code in the body": {"json": {"token_code": CODE, "note": "hello"}},
    "wrong token code": {"code": "000000"},
    "wrong bearer": {"key": "mk_nobody_x"},
    "wrong types": {"code": CODE, "json": {"ip_lan": 5, "note": ["a"], "mac": None}},
    "invalid values": {"code": CODE, "json": {"ip_lan": "999.1.1.1", "mac": "zz", "installed_version": "a b"}},
    "not json, said to be": {"code": CODE, "content": b"{", "headers": {"content-type": "application/json"}},
    "not json": {"code": CODE, "content": b"hello", "headers": {"content-type": "text/plain"}},
    "an array": {"code": CODE, "json": [1, 2]},
    "too large": {"code": CODE, "content": b"x" * 20_000},
    "basic authentication beside a code": {"code": CODE, "headers": {"authorization": "Basic YTpi"}},
    "unknown device": {"path": "/api/devices/nobody/online", "json": {}},
    "not a key": {"path": "/api/devices/%20/online", "json": {}},
    "the alias": {"path": "/api/status/cam-1/online", "code": CODE},
    "get": {"method": "GET"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_fast_path_and_route_answer_alike(any_fleet: Fleet, name: str) -> None:
    rest = dict(REQUESTS[name])
    method, path = rest.pop("method", "POST"), rest.pop("path", ONLINE)
    any_fleet.device()
    fast = any_fleet.call(method, path, **rest)
    routed = framework_call(any_fleet, method, path, **rest)
    assert routed.status_code == fast.status_code

    def steady(response):
        headers = {k: v for k, v in response.headers.items() if k not in UNSTEADY}
        return headers, re.sub(r"\d\d:\d\d:\d\d", "T", response.text)

    assert steady(routed) == steady(fast)
    assert fast.headers["content-type"] == "application/json"
    assert fast.headers["cache-control"] == "no-store"
    assert fast.headers["x-request-id"]


def test_valid_fields_are_kept_and_invalid_ones_dropped(any_fleet: Fleet) -> None:
    any_fleet.device()
    good = {
        "ip_address": "192.0.2.7",
        "ip_lan": "10.0.0.7",
        "ip_public": "2001:db8::1",
        "mac": "AA:bb:CC:dd:EE:ff",
        "cluster_ip": "c-1",
        "note": "warm",
        "installed_version": "1.2.3",
    }
    answer = any_fleet.call("POST", ONLINE, code=CODE, json=good).json()
    assert answer.keys() == {"ok", "ip_address", "last_seen"}
    assert answer["ok"] is True
    assert answer["ip_address"] == "192.0.2.7"
    bad = {
        "ip_address": "nonsense",
        "ip_lan": 2**70,
        "ip_public": "1.2.3.4.5",
        "mac": "AA-bb-CC-dd-EE-ff",
        "cluster_ip": "x" * 256,
        "note": "y" * 2001,
        "installed_version": "1/2",
        "services": ["ssh"],
        "device_type": "spy",
        "authorized": 1,
        "uptime": 10**30,
    }
    assert any_fleet.call("POST", ONLINE, code=CODE, json=bad).status_code == 200
    shown = any_fleet.call("GET", "/api/devices/cam-1", key=any_fleet.key("viewer")).json()
    kept = {name: shown[name] for name in good if name not in ("note", "ip_address")}
    assert kept == {name: value for name, value in good.items() if name not in ("note", "ip_address")}
    assert shown["status_note"] == "warm"
    assert shown["ip_address"] == "127.0.0.1", "an invalid address counts as none: the peer's is taken"
    assert shown["services"] == []
    assert shown["device_type"] is None


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe", b'{"note": "\\ud800"}', b'{"note": "a\\u0000b"}', b"[" * 5000, b"nul", b'{"note": NaN}'],
)
def test_broken_json_is_400_only_when_it_claims_to_be_json(fleet: Fleet, content: bytes) -> None:
    fleet.device()
    claimed = fleet.call("POST", ONLINE, code=CODE, content=content, headers={"content-type": "application/json"})
    assert claimed.status_code == (200 if b"u0000" in content else 400)
    assert fleet.call("POST", ONLINE, code=CODE, content=content).status_code == 200
    assert fleet.rows(sa.select(presence.c.status_note))[0]["status_note"] is None


def test_heartbeat_without_a_credential_only_says_that_the_device_lives(any_fleet: Fleet) -> None:
    any_fleet.device()
    first = any_fleet.call("POST", ONLINE, json={"ip_address": "203.0.113.1", "note": "x"}, peer="198.51.100.1").json()
    assert first["ip_address"] == "198.51.100.1"
    any_fleet.call("POST", ONLINE, code=CODE, json={"ip_address": "192.0.2.1", "ip_lan": "10.1.1.1"})
    again = any_fleet.call(
        "POST", ONLINE, json={"ip_address": "203.0.113.9", "ip_lan": "10.9.9.9"}, peer="198.51.100.9"
    )
    assert again.json()["ip_address"] == "192.0.2.1"
    row = any_fleet.rows(sa.select(presence))[0]
    assert (row["ip_address"], row["ip_lan"], row["status_note"]) == ("192.0.2.1", "10.1.1.1", None)


def test_anonymous_and_authenticated_heartbeats_have_limits_of_their_own(fleet: Fleet) -> None:
    fleet.device()
    statuses = [fleet.call("POST", ONLINE).status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    statuses = [fleet.call("POST", ONLINE, code=CODE) for _ in range(7)]
    assert [answer.status_code for answer in statuses] == [200] * 5 + [429] * 2
    assert 1 <= int(statuses[-1].headers["retry-after"]) <= 5
    assert statuses[-1].json() == {"error": "Too many requests"}


@pytest.mark.parametrize(("mode", "status"), [("enforce", 401), ("compat", 200), ("legacy-open", 200)])
def test_mode_decides_about_a_missing_credential(make_fleet: MakeFleet, mode: str, status: int) -> None:
    fleet = make_fleet(mode=mode)
    fleet.device()
    answer = fleet.call("POST", ONLINE, json={"ip_address": "192.0.2.1"})
    assert answer.status_code == status
    if mode == "legacy-open":
        assert answer.json()["ip_address"] == "192.0.2.1"
    if mode == "enforce":
        assert answer.json() == {"error": "Unauthorized"}
    assert fleet.call("POST", ONLINE, code="999999").status_code == 401, "a wrong one is refused in every mode"
    assert fleet.call("POST", ONLINE, code=CODE).status_code == 200


def test_enforce_tells_strangers_nothing_about_which_devices_exist(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(mode="enforce")
    fleet.device()
    known, unknown = fleet.call("POST", ONLINE), fleet.call("POST", "/api/devices/nobody/online")
    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())


@pytest.mark.parametrize(
    ("role", "status"), [("viewer", 403), ("operator", 200), ("admin", 200), ("proxy", 403), ("sshd", 403)]
)
def test_api_keys_need_the_role_of_an_operator(fleet: Fleet, role: str, status: int) -> None:
    fleet.device()
    assert fleet.call("POST", ONLINE, key=fleet.key(role)).status_code == status


def test_bearer_device_token_is_the_devices_own(fleet: Fleet) -> None:
    fleet.device("cam-1")
    fleet.device("cam-2")
    token = fleet.call("POST", "/api/devices/cam-1/register", json={"token_code": CODE}).json()["device_token"]
    assert fleet.call("POST", ONLINE, key=token).status_code == 200
    assert fleet.call("POST", "/api/devices/cam-2/online", key=token).status_code == 401
    fleet.call("PUT", "/api/devices/cam-1/token-code", key=fleet.admin, json={"token_code": "0F0F0F"})
    assert fleet.call("POST", ONLINE, key=token).status_code == 401, "a new code ends the old token"
    assert fleet.call("POST", ONLINE, code=CODE).status_code == 401
    assert fleet.call("POST", ONLINE, code="0f0f0f").status_code == 200


def test_guessing_a_code_ends_in_429_for_the_device_not_for_others(fleet: Fleet) -> None:
    fleet.device("cam-1")
    fleet.device("cam-2")
    guesses = [fleet.call("POST", ONLINE, code=f"00000{n}", peer="203.0.113.5") for n in range(7)]
    assert [answer.status_code for answer in guesses] == [401] * 5 + [429] * 2
    assert 1 <= int(guesses[-1].headers["retry-after"]) <= 900
    assert fleet.call("POST", ONLINE, code=CODE, peer="203.0.113.5").status_code == 429, "too late for that address"
    assert fleet.call("POST", ONLINE, code="999999", peer="203.0.113.6").status_code == 401, "one try for a new address"
    assert fleet.call("POST", ONLINE, code=CODE, peer="203.0.113.6").status_code == 429
    assert fleet.call("POST", ONLINE, code=CODE, peer="203.0.113.7").status_code == 200, "the device, not seen before"
    assert fleet.call("POST", "/api/devices/cam-2/online", code=CODE, peer="203.0.113.6").status_code == 200


def test_a_device_keeps_working_while_somebody_guesses_its_code(fleet: Fleet) -> None:
    fleet.device()
    assert fleet.call("POST", ONLINE, code=CODE, peer="192.0.2.1").status_code == 200
    for n in range(7):
        fleet.call("POST", ONLINE, code=f"00000{n}", peer="203.0.113.5")
    fleet.call("PUT", "/api/devices/cam-1/note", key=fleet.admin, json={"note": "changed meanwhile"})
    assert fleet.call("POST", ONLINE, code=CODE, peer="192.0.2.1").status_code == 200


def test_a_client_that_repeats_one_wrong_code_is_refused_but_locks_nobody_out(fleet: Fleet) -> None:
    fleet.device("cam-1")
    fleet.device("cam-2")
    answers = {fleet.call("POST", ONLINE, code="000000", peer="203.0.113.5").status_code for _ in range(30)}
    assert answers == {401}
    assert fleet.call("POST", "/api/devices/cam-2/online", code=CODE, peer="203.0.113.5").status_code == 200
    assert len(fleet.rows(audit.select().where(audit.c.action == "credential.refuse"))) == 1


def test_a_network_that_guesses_is_locked_for_every_device(fleet: Fleet) -> None:
    for n in range(6):
        fleet.device(f"cam-{n}")
    for n in range(5):
        for guess in range(4):
            answer = fleet.call("POST", f"/api/devices/cam-{n}/online", code=f"00000{guess}", peer="2001:db8::5")
            assert answer.status_code == 401
    assert fleet.call("POST", "/api/devices/cam-5/online", code=CODE, peer="2001:db8::5").status_code == 429
    assert fleet.call("POST", "/api/devices/cam-5/online", code=CODE, peer="2001:db8::6").status_code == 429
    assert fleet.call("POST", "/api/devices/cam-5/online", code=CODE, peer="2001:db8:0:1::5").status_code == 200


def test_a_key_that_is_right_works_although_its_address_failed_often(fleet: Fleet) -> None:
    key = fleet.admin
    for n in range(25):
        fleet.call("GET", "/api/devices", key=f"mk_wrong_{n}", peer="203.0.113.5")
    assert fleet.call("GET", "/api/devices", key="mk_wrong_again", peer="203.0.113.5").status_code == 429
    assert fleet.call("GET", "/api/devices", key=key, peer="203.0.113.5").status_code == 200


def test_connected_is_logged_once(any_fleet: Fleet) -> None:
    any_fleet.device()
    answers = any_fleet.call_all([("POST", ONLINE, {"code": CODE}) for _ in range(5)])
    assert {answer.status_code for answer in answers} == {200}
    any_fleet.call("POST", ONLINE)
    events = [row["event"] for row in any_fleet.rows(sa.select(connection_logs))]
    assert events == ["Connected"]


def test_connected_is_logged_again_after_a_silence(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(heartbeat_timeout_s=1.0)
    fleet.device()
    fleet.call("POST", ONLINE, code=CODE)
    fleet.state.index.find("cam-1").last_seen_ms -= 5000
    fleet.call("POST", ONLINE, code=CODE)
    assert len(fleet.rows(sa.select(connection_logs))) == 2


def test_heartbeats_of_many_devices_all_arrive(any_fleet: Fleet) -> None:
    keys = [any_fleet.device(f"cam-{n}") for n in range(60)]
    calls = [("POST", f"/api/devices/{key}/online", {"code": CODE, "json": {"note": key}}) for key in keys]
    assert {answer.status_code for answer in any_fleet.call_all(calls)} == {200}
    assert sorted(row["status_note"] for row in any_fleet.rows(sa.select(presence))) == sorted(keys)


def test_heartbeat_of_a_device_deleted_meanwhile_is_404_and_spares_the_rest(any_fleet: Fleet) -> None:
    for key in ("cam-1", "cam-2"):
        any_fleet.device(key)
        any_fleet.call("POST", f"/api/devices/{key}/online", code=CODE)
    any_fleet.write(lambda connection: delete_device(connection, SYSTEM, "cam-1"))
    calls = [("POST", f"/api/devices/{key}/online", {"code": CODE}) for key in ("cam-1", "cam-2")]
    gone, alive = any_fleet.call_all(calls)
    assert (gone.status_code, gone.json()) == (404, {"error": "Device not found"})
    assert alive.status_code == 200
