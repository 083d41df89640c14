"""The contract's endpoints about devices, presence and tunnels: reply keys, every documented error, the decisions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from cases import Slice, check_reply
from planes import CODE, Fleet, MakeFleet

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import audit, connection_logs, devices, presence

K = "/api/devices/{device_key}"
OFFERED = [
    "GET /api",
    "GET /api/tunnels",
    "GET /api/devices",
    "GET /api/devices/generate-key",
    "POST /api/devices/generate-and-register",
    "POST /api/devices/manual-create",
    f"GET {K}",
    f"PUT {K}",
    f"DELETE {K}",
    f"GET {K}/note",
    f"PUT {K}/note",
    f"GET {K}/service",
    f"POST {K}/service",
    f"POST {K}/online",
    "POST /api/status/{device_key}/online",
    f"GET {K}/availability",
    "GET /api/status/{device_key}/last-seen",
    f"GET {K}/logs",
    f"POST {K}/purge-logs",
    f"PUT {K}/authorize",
    f"PUT {K}/tokens",
    f"PUT {K}/token-code",
    f"POST {K}/register",
    f"POST {K}/authorize-tunnel",
    f"GET {K}/tunnel-pending",
    f"POST {K}/tunnel-status",
    f"POST {K}/flash-request",
    "POST /api/forcecommand/request-port",
    f"POST {K}/request-tunnel-port",
]
FAILS = "tests/contract/test_whole.py::test_a_database_that_fails"
KEYLESS = "tests/contract/test_meeting_api.py::test_d_alias_path_wins"  # the path holds the key
SLICE = Slice(tuple(OFFERED), {"DB error": FAILS, (f"POST {K}/request-tunnel-port", "Missing device_key"): KEYLESS})
MANUAL = {"devicekey": "cam-9", "token_code": "0a0b0c", "device_type": "rpi", "distribution": "d1"}
DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

# What a call needs beside its path: keyword arguments of `Fleet.call`.
GOOD: dict[str, dict[str, Any]] = {
    "POST /api/devices/manual-create": {"json": MANUAL},
    f"PUT {K}": {"json": {"services": ["ssh"]}},
    f"PUT {K}/note": {"json": {"note": "n"}},
    f"POST {K}/service": {"json": {"service": "ssh"}},
    f"PUT {K}/authorize": {"json": {"authorized": 1}},
    f"PUT {K}/tokens": {"json": {"token_count": 5}},
    f"PUT {K}/token-code": {"json": {"token_code": "0a0b0c"}},
    f"POST {K}/register": {"json": {"token_code": CODE}},
    f"POST {K}/tunnel-status": {"json": {"service": "ssh", "port": 9050}},
    "POST /api/forcecommand/request-port": {"json": {"device_key": "cam-1"}},
}
# Keys beyond the contract's: documented additions.
ADDED = {
    f"GET {K}": {"status_note", "local_ports", "tags", "provision"},
    "POST /api/forcecommand/request-port": {"service", "device_key"},
    f"POST {K}/request-tunnel-port": {"service", "device_key"},
}


def ready_device(fleet: Fleet) -> str:
    """Make a device that is authorized, has tokens and was seen just now."""
    key = fleet.device("cam-1", token_count=3)
    fleet.call("POST", f"/api/devices/{key}/online", code=CODE)
    return key


def call(fleet: Fleet, endpoint: str, device_key: str = "cam-1", **rest: Any):
    method, path = endpoint.split(" ", 1)
    path = path.replace("{device_key}", device_key)
    key = None if "code" in rest or rest.pop("anonymous", False) else fleet.admin
    return fleet.call(method, path, **({"key": key} | GOOD.get(endpoint, {}) | rest))


@pytest.mark.parametrize("endpoint", OFFERED)
def test_reply_has_exactly_the_documented_keys(fleet: Fleet, endpoint: str) -> None:
    ready_device(fleet)
    answer = call(fleet, endpoint)
    optional = {"request"} if endpoint == f"GET {K}/tunnel-pending" else set()
    check_reply(endpoint, answer, added=frozenset(ADDED.get(endpoint, ())), optional=frozenset(optional))
    body = answer.json()
    for item in body if isinstance(body, list) else [body]:
        for name, value in item.items():
            if name.endswith(("_at", "_seen")) or name in ("since", "last_heartbeat", "timestamp"):
                assert value is None or DATE.fullmatch(value), name


Provoke = Callable[[Fleet], Any]


def unauthorized(fleet: Fleet) -> None:
    fleet.write(lambda c: c.execute(devices.update().values(authorized=False)))


def without_tokens(fleet: Fleet) -> None:
    fleet.write(lambda c: c.execute(devices.update().values(token_count=0)))


def without_code(fleet: Fleet) -> None:
    fleet.write(lambda c: c.execute(devices.update().values(token_code="")))


def never_seen(fleet: Fleet) -> None:
    fleet.write(lambda c: c.execute(presence.update().values(last_seen_ms=now_ms() - 3_600_000)))


def pool_used_up(fleet: Fleet) -> None:
    for number in range(2):
        fleet.device(f"other-{number}")
        fleet.call("POST", f"/api/devices/other-{number}/service", key=fleet.admin, json={"service": "ssh"})


def registered(fleet: Fleet) -> None:
    call(fleet, f"POST {K}/register", anonymous=True)


def errors_of(endpoint: str) -> dict[tuple[int, str], tuple[Callable[[Fleet], None] | None, dict[str, Any]]]:
    """How to provoke each documented error: what to do first, and what to send."""
    nobody = (None, {"device_key": "nobody"})
    common = {(404, "Device not found"): nobody}
    wrong_code = {(401, "Invalid token"): (None, {"code": "999999"})}
    off, empty = {(403, "Device not authorized"): (unauthorized, {})}, {(403, "No tokens left"): (without_tokens, {})}
    full = {(503, "No available port in range"): (pool_used_up, {})}
    offline = {(403, "Device offline (no recent heartbeat)"): (never_seen, {})}
    guess = {"json": {"token_code": "999999"}, "anonymous": True, "peer": "203.0.113.9"}
    table: dict[str, dict[tuple[int, str], Any]] = {
        "GET /api/devices": {
            (400, "Invalid limit"): (None, {"params": {"limit": "x"}}),
            (400, "Invalid offset"): (None, {"params": {"offset": "1.5"}}),
        },
        "POST /api/devices/manual-create": {
            (400, "Missing or invalid field: <name>"): (None, {"json": MANUAL | {"device_type": "a/b"}}),
            (409, "Device already exists"): (None, {"json": MANUAL | {"devicekey": "CAM-1"}}),
            (409, "Product serial already used"): (
                lambda fleet: fleet.write(lambda c: c.execute(devices.update().values(product_serial="S-1"))),
                {"json": MANUAL | {"product_serial": "S-1"}},
            ),
        },
        f"GET {K}": common | wrong_code,
        f"PUT {K}": common
        | {
            (400, "Nothing to update"): (None, {"json": {}}),
            (400, "Unknown service: <name>"): (None, {"json": {"services": ["ssh", "ftp"]}}),
        },
        f"PUT {K}/note": common
        | {
            (400, "Note too long"): (None, {"json": {"note": "x" * 2001}}),
            (400, "Missing note"): (None, {"json": {}}),
        },
        f"POST {K}/service": common
        | off
        | full
        | {
            (400, "Missing service param"): (None, {"json": {}}),
            (400, "Missing relay port"): (None, {"json": {"service": "relay"}}),
            (400, "Unsupported service"): (None, {"json": {"service": "ftp"}}),
            (403, "Device missing token"): (without_code, {}),
        },
        f"POST {K}/online": common
        | wrong_code
        | {(429, "Too many requests"): (lambda fleet: [call(fleet, f"POST {K}/online") for _ in range(5)], {})},
        f"PUT {K}/authorize": common | {(400, "Missing authorized"): (None, {"json": {}})},
        f"PUT {K}/tokens": common | {(400, "token_count must be an integer"): (None, {"json": {"token_count": "5"}})},
        f"PUT {K}/token-code": common | {(400, "Invalid token_code"): (None, {"json": {"token_code": "12345"}})},
        f"POST {K}/register": common
        | {
            (401, "Invalid token"): (None, {"json": {"token_code": "999999"}, "anonymous": True}),
            (409, "Device already registered"): (registered, {"anonymous": True}),
            (429, "Too many attempts"): (
                lambda fleet: [
                    call(fleet, f"POST {K}/register", **guess | {"json": {"token_code": f"99999{n}"}}) for n in range(5)
                ],
                guess,
            ),
        },
        f"POST {K}/authorize-tunnel": common | off | empty,
        f"POST {K}/tunnel-status": common | {(400, "Missing service param"): (None, {"json": {}})},
        f"POST {K}/flash-request": common | off | empty | wrong_code,
        "POST /api/forcecommand/request-port": off
        | offline
        | full
        | {
            (400, "Missing device_key"): (None, {"json": {}}),
            (404, "Device not found"): (None, {"json": {"device_key": "nobody"}}),
        },
        f"POST {K}/request-tunnel-port": common | off | offline | full,
    }
    return table.get(endpoint, common)


@pytest.mark.parametrize(("endpoint", "status", "text"), SLICE.errors())
def test_documented_error(make_fleet: MakeFleet, endpoint: str, status: int, text: str) -> None:
    fleet = make_fleet(tunnel_ports="9050-9051")
    ready_device(fleet)
    prepare, sent = errors_of(endpoint)[status, text]
    if prepare is not None:
        prepare(fleet)
    answer = call(fleet, endpoint, **sent)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert re.fullmatch(re.escape(text).replace("<name>", ".+"), answer.json()["error"])
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) > 0
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


# Decisions, one test each where this milestone is concerned.


def test_d_case_input_takes_both_spellings(fleet: Fleet) -> None:
    other = {"device_key": "cam-2", "devicetype": "rpi", "token_code": "0a0b0c", "distribution": "d"}
    assert fleet.call("POST", "/api/devices/manual-create", key=fleet.admin, json=other).json()["devicekey"] == "cam-2"
    ready_device(fleet)
    for name in ("device_key", "devicekey"):
        assert call(fleet, "POST /api/forcecommand/request-port", json={name: "cam-1"}).status_code == 200


def test_d_date_and_d_since(fleet: Fleet) -> None:
    ready_device(fleet)
    shown = call(fleet, f"GET {K}/availability", code=CODE).json()
    assert shown["status"] == "Available"
    assert shown["since"] == shown["last_heartbeat"]
    assert DATE.fullmatch(shown["since"])
    assert 0 <= shown["uptime"] <= 5


@pytest.mark.parametrize(
    ("given", "stored"),
    [(True, 1), (False, 0), (1, 1), (0, 0), ("1", 1), ("0", 0), (2, None), ("yes", None), (1.0, None)],
)
def test_d_bool(fleet: Fleet, given: Any, stored: int | None) -> None:
    ready_device(fleet)
    answer = call(fleet, f"PUT {K}/authorize", json={"authorized": given})
    if stored is None:
        assert answer.status_code == 400
    else:
        assert answer.json() == {"success": True, "authorized": stored}
        assert call(fleet, f"GET {K}").json()["authorized"] is bool(stored)


def test_d_hbsvc_heartbeat_never_sets_services(fleet: Fleet) -> None:
    ready_device(fleet)
    call(fleet, f"POST {K}/online", code=CODE, json={"services": {"ssh": True}, "authorized": 0, "device_type": "x"})
    shown = call(fleet, f"GET {K}").json()
    assert (shown["services"], shown["authorized"], shown["device_type"]) == ([], True, None)


def test_d_tokenfmt(fleet: Fleet) -> None:
    made = fleet.call("POST", "/api/devices/generate-and-register", key=fleet.admin).json()
    assert re.fullmatch("[0-9A-F]{6}", made["token_code"])
    assert re.fullmatch("[0-9A-F]{32}", made["devicekey"])
    path = f"/api/devices/{made['devicekey']}/online"
    assert fleet.call("POST", path, code=made["token_code"].lower()).status_code == 200
    ready_device(fleet)
    assert call(fleet, f"PUT {K}/token-code", json={"token_code": "abcdef"}).json()["token_code"] == "ABCDEF"


def test_d_burn_order_and_rearming(fleet: Fleet) -> None:
    wrong = {"json": {"token_code": "999999"}, "anonymous": True}
    ready_device(fleet)
    assert call(fleet, f"POST {K}/register", "nobody", **wrong).status_code == 404
    assert call(fleet, f"POST {K}/register", **wrong).status_code == 401
    flat = {"token_code": CODE.lower(), "device_info": {"ip_lan": "10.1.1.1", "mac": "aa:bb:cc:dd:ee:ff"}, "note": "n"}
    first = call(fleet, f"POST {K}/register", json=flat, anonymous=True)
    assert first.status_code == 200
    assert len(first.json()["device_token"]) >= 43
    assert call(fleet, f"POST {K}/register", **wrong).status_code == 409
    assert call(fleet, f"POST {K}/online", code=CODE).status_code == 200, "the code still works"
    shown = call(fleet, f"GET {K}").json()
    assert (shown["ip_lan"], shown["mac"], shown["note"]) == ("10.1.1.1", "aa:bb:cc:dd:ee:ff", "n")
    assert DATE.fullmatch(shown["registered_at"])
    call(fleet, f"PUT {K}/token-code", json={"token_code": "0A0B0C"})
    assert call(fleet, f"POST {K}/register", anonymous=True).status_code == 401
    again = call(fleet, f"POST {K}/register", json={"token_code": "0A0B0C"}, anonymous=True)
    assert again.status_code == 200


def test_register_burns_once_under_load(any_fleet: Fleet) -> None:
    any_fleet.device()
    calls = [("POST", "/api/devices/cam-1/register", {"json": {"token_code": CODE}}) for _ in range(10)]
    statuses = sorted(answer.status_code for answer in any_fleet.call_all(calls))
    assert statuses == [200] + [409] * 9


def test_d_tokens_flash_request_consumes_the_others_only_check(any_fleet: Fleet) -> None:
    any_fleet.device("cam-1", token_count=3)
    calls = [("POST", "/api/devices/cam-1/flash-request", {"code": CODE}) for _ in range(8)]
    answers = any_fleet.call_all(calls)
    assert sorted(answer.json()["tokens_left"] for answer in answers if answer.status_code == 200) == [0, 1, 2]
    assert [answer.json() for answer in answers if answer.status_code != 200] == [{"error": "No tokens left"}] * 5
    assert call(any_fleet, f"POST {K}/service").status_code == 200, "a tunnel does not look at tokens"


def test_d_svcalias(fleet: Fleet) -> None:
    ready_device(fleet)
    for body in ({"type": "ssh", "port": 22}, {"service": "ssh", "type": "ftp"}):
        assert call(fleet, f"POST {K}/service", json=body).status_code == 200


def test_d_alias_path_wins(fleet: Fleet) -> None:
    ready_device(fleet)
    endpoint = f"POST {K}/request-tunnel-port"
    assert call(fleet, endpoint, json={"device_key": "cam-2"}).status_code == 400
    assert call(fleet, endpoint, json={"device_key": "cam-1", "service": "http"}).json()["service"] == "http"
    assert call(fleet, endpoint).json()["service"] == "ssh"
    by_query = fleet.call("POST", "/api/forcecommand/request-port?device_key=cam-1", code=CODE)
    assert by_query.json()["status"] == "ok"


def test_d_offline_service_reserves_regardless_of_presence(fleet: Fleet) -> None:
    fleet.device()
    assert call(fleet, f"POST {K}/service").status_code == 200


def test_d_expiry_default_is_an_hour(fleet: Fleet) -> None:
    ready_device(fleet)
    from meetingctl.core.clock import parse_wire

    expires_ms = parse_wire(call(fleet, f"POST {K}/service").json()["expires_at"])
    assert abs(expires_ms - now_ms() - 3_600_000) < 10_000


@pytest.mark.parametrize(
    ("service", "url"),
    [
        ("ssh", "ssh -p {port} device@fleet.example"),
        ("scp", "scp -P {port} device@fleet.example:"),
        ("http", "http://fleet.example:{port}"),
        ("vnc", "vnc://fleet.example:{port}"),
        ("relay", "tcp://fleet.example:{port}"),
    ],
)
def test_d_url(make_fleet: MakeFleet, service: str, url: str) -> None:
    fleet = make_fleet(tunnel_public_host="fleet.example")
    fleet.device()
    answer = call(fleet, f"POST {K}/service", json={"service": service, "port": 554}).json()
    assert answer["url"] == url.format(port=answer["port"])


def test_d_typecheck_types_need_not_exist(fleet: Fleet) -> None:
    made = call(fleet, "POST /api/devices/manual-create").json()
    assert (made["device_type"], made["distribution"]) == ("rpi", "d1")
    assert re.fullmatch(r"RPI-[0-9A-F]{8}", made["product_serial"])


@pytest.mark.parametrize(
    "word",
    ["generate-key", "generate-and-register", "manual-create", "device-types", "register", "CheckIn", ".x", "a/b", ""],
)
def test_d_reserved_words_are_no_keys(fleet: Fleet, word: str) -> None:
    answer = call(fleet, "POST /api/devices/manual-create", json=MANUAL | {"devicekey": word})
    assert (answer.status_code, answer.json()) == (400, {"error": "Missing or invalid field: devicekey"})


def test_d_unknowndev(fleet: Fleet) -> None:
    fleet.device("silent")
    for key in ("nobody", "silent"):
        answer = fleet.call("GET", f"/api/devices/{key}/availability")
        assert answer.status_code == 200
        assert answer.json() == {"status": "Unknown", "last_heartbeat": None, "since": None, "uptime": None}


def test_d_pending_reads_only_and_goes_when_the_agent_is_there(fleet: Fleet) -> None:
    ready_device(fleet)
    assert call(fleet, f"GET {K}/tunnel-pending", code=CODE).json() == {"pending": False}
    port = call(fleet, f"POST {K}/service").json()["port"]
    for _ in range(2):
        shown = call(fleet, f"GET {K}/tunnel-pending", code=CODE).json()
        assert shown["pending"] is True
        assert shown["request"]["port"] == port
        assert shown["request"]["service"] == "ssh"


@pytest.mark.parametrize(
    ("query", "limit", "offset"),
    [
        ({}, 25, 0),
        ({"limit": "0"}, 1, 0),
        ({"limit": "-5"}, 1, 0),
        ({"limit": "1000"}, 100, 0),
        ({"limit": str(2**70)}, 100, 0),
        ({"limit": "7", "offset": "3"}, 7, 3),
        ({"offset": "-1"}, 25, 0),
        ({"limit": ""}, 25, 0),
    ],
)
def test_d_paging_clamps(fleet: Fleet, query: dict[str, str], limit: int, offset: int) -> None:
    body = call(fleet, "GET /api/devices", params=query).json()
    assert (body["limit"], body["offset"]) == (limit, offset)


def test_paging_and_prefix(any_fleet: Fleet) -> None:
    for name in ("b-2", "a-1", "B-1", "c_1", "b.9"):
        any_fleet.device(name)
    viewer = any_fleet.key("viewer")

    def keys(**query: Any) -> list[str]:
        body = any_fleet.call("GET", "/api/devices", key=viewer, params=query).json()
        return [device["device_key"] for device in body["devices"]], body["total"]

    assert keys() == (["a-1", "B-1", "b-2", "b.9", "c_1"], 5)
    assert keys(prefix="b-") == (["B-1", "b-2"], 2)
    assert keys(prefix="B") == (["B-1", "b-2", "b.9"], 3)
    assert keys(limit=2, offset=1) == (["B-1", "b-2"], 5)
    assert keys(prefix="%") == ([], 0)
    assert keys(prefix="_") == ([], 0)


def test_d_note_operator_and_device_have_one_each(fleet: Fleet) -> None:
    ready_device(fleet)
    call(fleet, f"POST {K}/online", code=CODE, json={"note": "from the device"})
    assert call(fleet, f"GET {K}/note").json() == {"note": "from the device"}
    call(fleet, f"PUT {K}/note", json={"note": "from the operator"})
    call(fleet, f"POST {K}/online", code=CODE, json={"note": "later"})
    assert call(fleet, f"GET {K}/note").json() == {"note": "from the operator"}
    assert call(fleet, f"GET {K}").json()["status_note"] == "later"


def test_d_secrets(fleet: Fleet) -> None:
    ready_device(fleet)
    mine = {"token_code", "ap_ssid", "ap_password"}
    http = {"http_pw_low", "http_pw_medium", "http_pw_high"}

    def secrets_in(answer) -> set[str]:
        return answer.json().keys() & (mine | http)

    path = "/api/devices/cam-1"
    assert secrets_in(fleet.call("GET", path, key=fleet.admin)) == mine | http
    assert secrets_in(fleet.call("GET", path, code=CODE)) == mine
    for role in ("viewer", "operator", "proxy"):
        assert secrets_in(fleet.call("GET", path, key=fleet.key(role))) == set()
    for role in ("viewer", "operator", "admin"):
        row = fleet.call("GET", "/api/devices", key=fleet.key(role)).json()["devices"][0]
        assert not row.keys() & (mine | http)
    reveals = fleet.rows(sa.select(audit).where(audit.c.action == "device.reveal"))
    assert len(reveals) == 1, "reading secrets leaves a trace"
    masked = {
        role: fleet.call("POST", f"{path}/authorize-tunnel", key=fleet.key(role)).json()["token_code"]
        for role in ("operator", "proxy", "admin")
    }
    assert masked == {"operator": "******", "proxy": CODE, "admin": CODE}
    assert fleet.call("POST", f"{path}/authorize-tunnel", code=CODE).json()["token_code"] == CODE


def test_no_secret_reaches_the_audit_log(fleet: Fleet) -> None:
    ready_device(fleet)
    call(fleet, f"PUT {K}/token-code", json={"token_code": "0A0B0C"})
    call(fleet, "POST /api/devices/manual-create")
    everything = json.dumps([dict(row) for row in fleet.rows(sa.select(audit))])
    for secret in (CODE, "0A0B0C", fleet.admin, fleet.admin.split("_")[2]):
        assert secret not in everything


def test_purge_leaves_a_record(fleet: Fleet) -> None:
    ready_device(fleet)
    assert len(fleet.rows(sa.select(connection_logs))) == 1
    assert call(fleet, f"POST {K}/purge-logs").json() == {"success": True}
    assert call(fleet, f"GET {K}/logs").json() == []
    purge = fleet.rows(sa.select(audit).where(audit.c.action == "device.purge-logs"))
    assert json.loads(purge[0]["before"]) == {"rows": 1}


def test_services_are_a_full_set(fleet: Fleet) -> None:
    ready_device(fleet)
    call(fleet, f"PUT {K}", json={"services": ["vnc", "ssh", "ssh"]})
    assert call(fleet, f"GET {K}/service").json() == {"services": ["ssh", "vnc"]}
    call(fleet, f"PUT {K}", json={"services": []})
    assert call(fleet, f"GET {K}/service").json() == {"services": []}


def test_older_last_seen_path_still_answers(fleet: Fleet) -> None:
    ready_device(fleet)
    new, old = (
        fleet.call("GET", "/api/status/cam-1/last-seen", code=CODE),
        fleet.call("GET", "/api/devices/cam-1/last-seen", code=CODE),
    )
    assert new.json() == old.json()
